"""Top-1 and top-5 error of a trained network: a run's on its own data set, or any network's on any pictures."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog, sources
from dn_jax.data.augment import normalise
from dn_jax.distributed.layout import make_layout, replicate
from dn_jax.errors import ConfigurationError
from dn_jax.inference import load
from dn_jax.inference.load import Classifier
from dn_jax.runs import records
from dn_jax.training import step, streamed
from dn_jax.training.setup import batches_of, evaluator, on_devices


@dataclasses.dataclass(frozen=True)
class Measured:
  """Errors of a network on a split, in percent.

  pictures: number of images that could be read
  loss:     mean cross-entropy, in nats; with ten crops, that of their mean probability
  epoch, steps: of a run's network: finished epochs, and steps of the next
  said:     lines that say what the images were taken for
  """

  pictures: int
  error: float
  top5_error: float
  loss: float
  epoch: int = 0
  steps: int = 0
  said: tuple[str, ...] = ()


def of_run(
  folder: pathlib.Path,
  split: str,
  which: load.Which,
  batch_size: int,
  own: Mapping[str, Any],
  crops: int,
  say: Callable[[str], None],
) -> Measured:
  """Measures a run's network on a split of its own data set.

  Args:
    folder: of the run.
    split: `train`, `valid` or `test`.
    which: `last`, `best` (on validation), or `reported`: the one whose error the run reports.
    batch_size: crops at a time.
    own: fields of its `DataConfig` that are other here: `dir`, `workers`, `bad_share`, `max_pixels`.
    crops: 1, or 10 for a streamed data set.
    say: called with a line for each unused checkpoint and unreadable picture.

  Raises:
    UserError: no run, no whole checkpoint, no such split.
  """
  config = records.read_config(folder)
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, **own))
  dataset = catalog.load(config.data, records.split_rule(folder))
  if split == "valid" and dataset.valid is None:
    raise ConfigurationError("split", split, "this run held out no validation pictures")
  if crops != 1 and not dataset.info.streamed:
    raise ConfigurationError("crops", crops, f"pictures of {config.data.name} are as large as the network's input")
  for line in catalog.remarks(dataset):
    say(line)
  records.check_data(folder, records.Data(**catalog.fingerprint(dataset)))
  layout = make_layout()
  network = load.trained_by(folder, which, say)
  measure = evaluator(network.config, dataset, batch_size, layout)
  if dataset.info.streamed:
    where: Any = batches_of(getattr(dataset, split), config.data, layout, max(1, batch_size // crops), say, crops)
  else:
    where = getattr(on_devices(dataset, layout.mesh), split)
  totals = measure(network.params, network.batch_stats, where, lambda: None)
  return _measured(totals, network.epoch, network.steps)


def of_classifier(
  known: Classifier, data: DataConfig, batch_size: int, crops: int, say: Callable[[str], None]
) -> Measured:
  """Measures a network on streamed images, see `dn_jax.data.sources.tested`.

  Args:
    known: the network and its input.
    data: `folder` or a name of TFDS, and its folder; sizes are the network's.
    batch_size: crops at a time.
    crops: 1 or 10.
    say: called with a line for each unreadable picture.

  Raises:
    UserError: there are no such images, or they have other classes.
  """
  if not datasets.info_of(data).streamed:
    raise ConfigurationError("data.name", data.name, "weights are measured on folder, or on a data set of TFDS's")
  data = dataclasses.replace(data, bit_depth=data.bit_depth or known.input.bit_depth)
  source, said = sources.tested_and_said(data, known.classes)
  if len(source.classes) != known.num_classes:
    fits = f"has {len(source.classes)} classes; the network has {known.num_classes}"
    raise ConfigurationError("data.dir" if data.name == sources.FOLDER else "data.name", data.dir or data.name, fits)
  layout = make_layout()
  data = dataclasses.replace(data, size=known.input.size, resize=known.input.resize)
  measure = streamed.make_evaluate(
    step.make_logits(known.network),
    functools.partial(normalise, mean=known.input.mean, std=known.input.std),
    layout,
  )
  params, batch_stats = replicate(jax.device_get((known.params, known.batch_stats)), layout.mesh)
  batches = batches_of(source, data, layout, max(1, batch_size // crops), say, crops)
  return dataclasses.replace(_measured(measure(params, batch_stats, batches, lambda: None)), said=said)


def _measured(totals: step.Totals, epoch: int = 0, steps: int = 0) -> Measured:
  means = totals.means()
  return Measured(int(totals.count), 100 * means["error"], 100 * means["top5_error"], means["loss"], epoch, steps)
