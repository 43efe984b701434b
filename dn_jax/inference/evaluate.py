"""Errors of a trained network, class by class too: a run's on its own data set, or any network's on any pictures."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog, sources
from dn_jax.data.augment import normalise
from dn_jax.distributed.layout import make_layout, replicate
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.inference import load
from dn_jax.inference.load import Classifier
from dn_jax.runs import records
from dn_jax.runs.contents import MEANINGLESS_TOP5, MOST_CLASSES, ClassError, class_errors
from dn_jax.training import step, streamed
from dn_jax.training.setup import batches_of, evaluator, on_devices

# Of more classes no matrix is made: it would have 256 MiB, and nobody would see anything in it.
_CONFUSED = 8192


class How(NamedTuple):
  """How a network is measured.

  batch_size: crops at a time
  crops:      1, or 10 for streamed images
  confusion:  whether a confusion matrix is made; of at most 20 classes it is made anyway
  """

  batch_size: int = 256
  crops: int = 1
  confusion: bool = False


@dataclasses.dataclass(frozen=True)
class Measured:
  """Errors of a network on a split, in percent.

  pictures:   number of images that could be read
  top5_error: None of five classes or fewer
  loss:       mean cross-entropy, in nats; with ten crops, that of their mean probability
  classes:    names, or numbers where these are unknown
  confusion:  int [classes, classes], images by their class (rows) and by the predicted one; None if none was made
  epoch, steps: of a run's network: finished epochs, and steps of the next
  said:       lines that say what the images were taken for
  """

  pictures: int
  error: float
  top5_error: float | None
  loss: float
  classes: tuple[str, ...]
  confusion: np.ndarray | None
  epoch: int = 0
  steps: int = 0
  said: tuple[str, ...] = ()

  @property
  def class_errors(self) -> tuple[ClassError, ...]:
    """Of at most 20 classes; else empty."""
    return class_errors(step.errors_by_class(self.confusion), self.classes) if len(self.classes) <= MOST_CLASSES else ()


def of_run(
  folder: pathlib.Path,
  split: str,
  which: load.Which,
  own: Mapping[str, Any],
  how: How,
  say: Callable[[str], None],
) -> Measured:
  """Measures a run's network on a split of its own data set.

  Args:
    folder: of the run.
    split: `train`, `valid` or `test`.
    which: `last`, `best` (on validation), or `reported`: the one whose error the run reports.
    own: fields of its `DataConfig` that are other here: `dir`, `workers`, `bad_share`, `max_pixels`.
    how: it is measured.
    say: called with a line for each unused checkpoint and unreadable picture.

  Raises:
    UserError: no run, no whole checkpoint, no such split.
  """
  config = records.read_config(folder)
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, **own))
  dataset = catalog.load(config.data, records.split_rule(folder))
  if split == "valid" and dataset.valid is None:
    raise ConfigurationError("split", split, "this run held out no validation images")
  if how.crops != 1 and not dataset.info.streamed:
    raise ConfigurationError("crops", how.crops, f"images of {config.data.name} are as large as the network's input")
  for line in catalog.remarks(dataset):
    say(line)
  records.check_data(folder, records.Data(**catalog.fingerprint(dataset)))
  layout = make_layout()
  network = load.trained_by(folder, which, say)
  num_classes = dataset.info.num_classes
  measure = evaluator(network.config, dataset, how.batch_size, layout, _matrix_of(num_classes, how) > 0)
  if dataset.info.streamed:
    at_once = max(1, how.batch_size // how.crops)
    where: Any = batches_of(getattr(dataset, split), config.data, layout, at_once, say, how.crops)
  else:
    where = getattr(on_devices(dataset, layout.mesh), split)
  totals = measure(network.params, network.batch_stats, where, lambda: None)
  names = records.read_classes(folder) or catalog.class_names(config.data, num_classes)
  found = _measured(totals, names or tuple(map(str, range(num_classes))))
  return dataclasses.replace(found, epoch=network.epoch, steps=network.steps)


def of_classifier(known: Classifier, data: DataConfig, how: How, say: Callable[[str], None]) -> Measured:
  """Measures a network on streamed images, see `dn_jax.data.sources.tested`.

  Args:
    known: the network and its input.
    data: `folder` or a name of TFDS, and its folder; sizes and the filter are the network's.
    how: it is measured.
    say: called with a line for each unreadable picture.

  Raises:
    UserError: there are no such images, or they have other classes.
  """
  if not datasets.info_of(data).streamed:
    raise ConfigurationError("data.name", data.name, "weights are measured on folder, or on a data set of TFDS's")
  known.input.check(data.channels)
  data = dataclasses.replace(data, bit_depth=data.bit_depth or known.input.bit_depth, channels=known.input.channels)
  source, said = sources.tested_and_said(data, known.classes)
  if len(source.classes) != known.num_classes:
    fits = f"has {len(source.classes)} classes; the network has {known.num_classes}"
    raise ConfigurationError("data.dir" if data.name == sources.FOLDER else "data.name", data.dir or data.name, fits)
  layout = make_layout()
  own = {name: getattr(known.input, name) for name in ("size", "resize", "interpolation")}
  data = dataclasses.replace(data, **own)
  measure = streamed.make_evaluate(
    step.make_logits(known.network),
    functools.partial(normalise, mean=known.input.mean, std=known.input.std),
    layout,
    _matrix_of(known.num_classes, how),
  )
  params, batch_stats = replicate(jax.device_get((known.params, known.batch_stats)), layout.mesh)
  batches = batches_of(source, data, layout, max(1, how.batch_size // how.crops), say, how.crops)
  found = _measured(measure(params, batch_stats, batches, lambda: None), known.classes or tuple(source.classes))
  return dataclasses.replace(found, said=said)


def _matrix_of(classes: int, how: How) -> int:
  """The classes of the confusion matrix to make; 0: none."""
  if how.confusion and classes > _CONFUSED:
    raise UserError(f"a confusion matrix is made of at most {_CONFUSED:,} classes; the network has {classes:,}")
  return classes if how.confusion or classes <= MOST_CLASSES else 0


def _measured(totals: step.Evaluated, names: tuple[str, ...]) -> Measured:
  found = jax.device_get(totals)
  means, count = found.means(), int(found.count)
  if found.confusion is not None and found.confusion.sum() != count:
    raise UserError(f"of {count - found.confusion.sum():,} of {count:,} images the network's outputs are not numbers")
  top5 = 100 * means["top5_error"] if len(names) > MEANINGLESS_TOP5 else None
  return Measured(count, 100 * means["error"], top5, means["loss"], names, found.confusion)
