"""Loads a trained network and the preparation of its input, from a run or from a file of weights."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from dn_jax import weights
from dn_jax.config import datasets, weights_file
from dn_jax.config.about import About, AboutInput
from dn_jax.config.families import FAMILIES
from dn_jax.config.network import complete_model, smallest_map, with_weights
from dn_jax.config.schema import DataConfig, Interpolation, ModelConfig, RunConfig
from dn_jax.config.trained import Asked, Which
from dn_jax.config.weights_file import WeightsError
from dn_jax.data import catalog
from dn_jax.distributed import layout
from dn_jax.errors import ConfigurationError, UserError, reason
from dn_jax.models import build
from dn_jax.runs import records
from dn_jax.runs.records import CHECKPOINTS, best_record, read_classes, read_config, read_data
from dn_jax.training import optimizer, step
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.weights import formats, shapes


@dataclasses.dataclass(frozen=True)
class Input:
  """How a picture becomes a network's image.

  size:          side of the central crop that the network sees, in pixels
  resize:        the picture's shorter side before cropping
  mean, std:     for normalising pixel values (0 to 255); each broadcasts over [size, size, channels]
  bit_depth:     bits that the values of 16-bit files use; None: all
  channels:      3, or 1 for grey
  interpolation: by which the picture is resized
  """

  size: int
  resize: int
  mean: np.ndarray
  std: np.ndarray
  bit_depth: int | None = None
  channels: int = 3
  interpolation: Interpolation = "bilinear"

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of an image."""
    return self.size, self.size, self.channels

  def check(self, channels: int | None) -> None:
    """Refuses other channels than the network's, where a flag asks for them."""
    if channels not in (None, self.channels):
      raise ConfigurationError("data.channels", channels, f"the network takes images of {self.channels}")


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A network that classifies pictures.

  model:   its configuration, completed
  classes: their names, where known
  epoch:   of a run, the epoch after which this was its network; None: within an epoch, or of a file
  """

  model: ModelConfig
  network: nn.Module
  params: Any
  batch_stats: Any
  input: Input
  classes: tuple[str, ...] | None
  epoch: int | None = None

  @property
  def num_classes(self) -> int:
    return self.network.num_classes

  def name_of(self, label: int) -> str:
    """A class's name, or its number where names are unknown."""
    return self.classes[label] if self.classes else str(label)


def load(
  source: pathlib.Path, asked: Asked, which: Which, data_dir: pathlib.Path | None, say: Callable[[str], None]
) -> Classifier:
  """Reads a network.

  Args:
    source: a run's folder, or a file of weights (see `dn_jax.weights.read`).
    asked: overrides of the source.
    which: of a run's networks.
    data_dir: the folder of a run's data set, if it has moved; it is needed for a mean image.
    say: called with a line for each remark.

  Raises:
    UserError: there is no network, or it does not fit.
  """
  if source.is_dir():
    if asked.model != ModelConfig():
      raise ConfigurationError("model", "(given)", f"{source} is a run's folder, which knows its network")
    found = _of_run(source, which, data_dir, say)
  else:
    found = _of_file(source, asked.model, say)
  if asked.labels:
    found = dataclasses.replace(found, classes=_labels(asked.labels, found.num_classes))
  return dataclasses.replace(found, input=_sized(found, asked))


def _of_run(
  folder: pathlib.Path, which: Which, data_dir: pathlib.Path | None, say: Callable[[str], None]
) -> Classifier:
  run = trained_by(folder, which, say)
  data = dataclasses.replace(run.config.data, dir=data_dir or run.config.data.dir)
  info = datasets.recorded(data)
  if data.name == "digits":
    raise UserError(f"{folder}: is of {data.name}, whose images are no files: 8x8 values from 0 to 16")
  if data.normalise == "channel":
    mean, std = np.asarray(info.mean), np.asarray(info.std)
  else:
    mean, std = catalog.normalisation(catalog.load(data, records.split_rule(folder)), data.normalise)
  size, _, channels = info.image_shape
  filtered = data.interpolation or "bilinear"
  model_input = Input(size, info.resize or size, mean, std, data.bit_depth, channels, filtered)
  classes = records.read_classes(folder) or catalog.class_names(data, run.network.num_classes)
  epoch = None if run.steps else run.epoch
  return Classifier(run.config.model, run.network, run.params, run.batch_stats, model_input, classes, epoch)


def _of_file(path: pathlib.Path, model: ModelConfig, say: Callable[[str], None]) -> Classifier:
  complete, network, variables = network_of_file(path, model, "inference", say)
  about = weights_file.about(path)
  channels = variables["params"]["stem"]["conv"]["kernel"].shape[2]
  if channels not in (1, 3) or about.input.channels not in (None, channels):
    says = f", and it says {about.input.channels}" if about.input.channels else ""
    raise WeightsError(f"{path}: its network takes images of {channels} channels{says}; 1 or 3 can be read")
  name, usual = formats.of(network).images(complete)
  usual = AboutInput() if about.model else usual
  like = datasets.info_of(DataConfig(name, channels=channels))
  size = about.input.size or like.image_shape[0]
  resize = about.input.resize or usual.resize or like.resize or size
  try:
    mean, std = np.asarray(about.input.mean or like.mean), np.asarray(about.input.std or like.std)
    if np.broadcast_shapes(mean.shape, std.shape, (size, size, channels))[2] != channels:
      raise ValueError
  except ValueError:  # Rows of different lengths, or of another image.
    said = f"its mean or std is not of {size}x{size}x{channels} values, nor of {channels}"
    raise WeightsError(f"{path}: {said}") from None
  classes = about.classes or None
  if classes and len(classes) != network.num_classes:
    raise WeightsError(f"{path}: names {len(classes)} classes and has weights for {network.num_classes}")
  filtered = about.input.interpolation or usual.interpolation or "bilinear"
  known = Input(size, resize, mean, std, about.input.bit_depth, channels, filtered)
  return Classifier(complete, network, variables["params"], variables["batch_stats"], known, classes)


def network_of_file(
  path: pathlib.Path, model: ModelConfig, disagreement: weights.Disagreement, say: Callable[[str], None]
) -> tuple[ModelConfig, nn.Module, dict[str, Any]]:
  """The network of a file of weights, as flags or the file name it.

  Args:
    path: see `dn_jax.weights.read`.
    model: flags; without flags, and where the file says nothing, DenseNet-BC (L=100, k=12).
    disagreement, say: see `dn_jax.weights.from_pytorch`.

  Returns:
    The completed configuration, the network and its variables.

  Raises:
    UserError: the file cannot be read, or holds another network.
  """
  state = weights.read(path, say)
  complete = complete_model(dataclasses.replace(weights_file.model_of(path, model), remat=None))
  if not FAMILIES[complete.family].weights:
    if model.family == complete.family:
      raise ConfigurationError("model.family", complete.family, f"weights are read of {with_weights()} alone")
    raise WeightsError(f"{path}: says that it is a {complete.family}; weights are read of {with_weights()} alone")
  # A description may ask for more layers than can be built.
  shapes.check(path, state, complete)
  # From the file; where it lacks them, the comparison below names what is missing.
  network = build.build(complete, shapes.classes_of(state) or 1000)
  images = jnp.zeros((1, 256, 256, shapes.channels_of(state) or 3))
  template = jax.eval_shape(lambda key: network.init(key, images, False), jax.random.key(0))
  try:
    variables = weights.from_pytorch(network, state, template, disagreement, say)
  except WeightsError as error:
    raise shapes.refusal(path, error, state, complete) from None
  return complete, network, variables


def check_written(to: object, classifier: Classifier) -> None:
  """Refuses `--to` for a network whose weights are not written.

  Raises:
    ConfigurationError: of its family none are.
  """
  if not FAMILIES[family := classifier.model.family].weights:
    raise ConfigurationError("to", to, f"weights are written of {with_weights()} alone, not of {family}")


def write(path: pathlib.Path, classifier: Classifier) -> None:
  """Writes a network's weights as safetensors in PyTorch's names, with metadata for `load`.

  Raises:
    ConfigurationError: weights of its family are not written, or the file cannot be written.
  """
  check_written(path, classifier)
  # Only training has these.
  model = dataclasses.replace(classifier.model, remat=None, dropout=None)
  known = classifier.input
  normalised = known.mean.tolist(), known.std.tolist()
  filtered = None if known.interpolation == "bilinear" else known.interpolation  # As files of earlier versions.
  of_input = AboutInput(known.size, known.resize, *normalised, known.bit_depth, known.channels, filtered)
  about = About(model, classifier.classes, of_input)
  params, batch_stats = jax.device_get((classifier.params, classifier.batch_stats))
  try:
    weights.write(path, weights.to_pytorch(classifier.network, params, batch_stats), about)
  except OSError as error:
    raise ConfigurationError("to", path, f"cannot be written ({reason(error)})") from None


def _labels(path: pathlib.Path, count: int) -> tuple[str, ...]:
  try:
    names = path.read_text(encoding="utf-8-sig").splitlines()  # A byte-order mark is of no name.
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "it is no text"
    raise ConfigurationError("labels", path, f"cannot be read ({reason})") from None
  if len(names) != count:
    raise ConfigurationError("labels", path, f"has {len(names)} lines; the network has {count} classes")
  return tuple(names)


def _sized(classifier: Classifier, asked: Asked) -> Input:
  """The input as asked for; where of the sizes only `size` is, the crop keeps its share of the picture."""
  known = classifier.input
  size = known.size if asked.size is None else asked.size
  resize = round(known.resize * size / known.size) if asked.resize is None else asked.resize
  if resize < size:
    raise ConfigurationError("resize", resize, f"must be at least the crop's size, {size}")
  if size != known.size and known.mean.ndim > 1:
    raise ConfigurationError("size", size, f"this network's mean image has {known.size} pixels a side")
  if smallest_map(classifier.model, size) < 1:
    raise ConfigurationError("size", size, "nothing is left of so small an image in this network; take a larger one")
  filtered = asked.interpolation or known.interpolation
  return dataclasses.replace(known, size=size, resize=resize, interpolation=filtered)


@dataclasses.dataclass(frozen=True)
class Trained:
  """A run's network.

  epoch, steps: finished epochs, and steps of the next
  """

  config: RunConfig
  network: nn.Module
  params: Any
  batch_stats: Any
  epoch: int
  steps: int


def trained_by(folder: pathlib.Path, which: Which, say: Callable[[str], None]) -> Trained:
  """Reads a run's network.

  Args:
    folder: of the run.
    which: `last`, `best` (on validation), or `reported`: the one whose error the run reports.
    say: called with a line for each unused checkpoint.

  Raises:
    UserError: no run, no whole checkpoint, or none of that kind.
  """
  config = read_config(folder)
  recorded = read_data(folder)
  if which == "best" and not config.data.validation and not (recorded and "valid" in recorded.pictures):
    raise ConfigurationError("checkpoint", which, "this run held out no validation images")
  info, mesh = datasets.recorded(config.data), layout.make_layout().mesh
  num_classes = len(classes) if (classes := read_classes(folder)) else info.num_classes
  if config.model.remat == "auto":  # A sweep wrote it; the run has not begun.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=None))
  network = build.build(config.model, num_classes)
  update_rule = optimizer.make(config.optimizer, optax.constant_schedule(0.0), config.freeze)
  of_state = jax.eval_shape(
    lambda key: step.create_state(network, update_rule, key, info.image_shape), jax.random.key(0)
  )
  template = layout.placed(of_state, PartitionSpec(), mesh)
  with Checkpoints(folder / CHECKPOINTS, config.checkpoint.keep, say, read_only=True) as checkpoints:
    state, records, begun, _ = checkpoints.restore(template)
    if which == "best" or (which == "reported" and config.report == "best"):
      if not records:
        raise ConfigurationError("checkpoint", which, "no epoch of this run is done yet; take last")
      if begun.steps or best_record(records) != records[-1]:
        state, records, begun, _ = checkpoints.restore(template, best_record(records).step)
  params = optimizer.tested(state.params, state.opt_state)
  return Trained(config, network, params, state.batch_stats, len(records), begun.steps)
