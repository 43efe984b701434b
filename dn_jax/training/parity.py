"""The training step against a record of the PyTorch implementation, number by number.

A record (`tests/fixtures/README.md`) holds a float64 run: weights, images, gradients, losses, final weights.
In float64 the whole run is compared. In float32 only the first step is: ReLU and batch norm amplify rounding
ten to sixty times a step, so two correct float32 programs part within a few.
"""

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge, Le, MinLen

from dn_jax import weights
from dn_jax.config.check import STRICT, Misfit, from_json
from dn_jax.config.schema import Count, OptimizerConfig, Share, Size
from dn_jax.data.augment import normalise
from dn_jax.errors import UserError
from dn_jax.models.batch_stats import BatchNorm
from dn_jax.models.densenet import DenseNet
from dn_jax.training import optimizer, step

_SGD = OptimizerConfig(
  learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, schedule="steps", drops=(), drop_factor=1.0
)
# The records' input is (pixels / 255 - 0.5) / 0.25.
_MEAN, _STD = (127.5,), (63.75,)
# An archive may unpack to so many times its own size, and to these bytes beside.
_EXPANSION, _FREE = 4, 2**24


class Difference(NamedTuple):
  """The worst relative difference of a kind: |ours - theirs| / (|theirs| + floor), norms of whole tensors.

  `where` is the tensor or step that has it. The floor is 0, except for gradients: there it is a multiple of the norm of
  all gradients, since a gradient that is zero by construction has no norm of its own.
  """

  kind: str
  worst: float
  tolerance: float
  where: str

  @property
  def fits(self) -> bool:
    return self.worst <= self.tolerance  # False for a NaN.


@dataclasses.dataclass(frozen=True)
class Header:
  """A record's network and batches; `block_config`: the layers of each block."""

  __pydantic_config__ = STRICT

  growth_rate: Size
  block_config: Annotated[tuple[Size, ...], MinLen(1)]
  num_classes: Size
  initial_channels: Size
  compression: Share
  small_inputs: Literal[0, 1]
  batch: Count
  image_size: Annotated[int, Ge(1), Le(1024)]


class Record(NamedTuple):
  """A record's arrays, and the network they are of (without numerics)."""

  arrays: Mapping[str, np.ndarray]
  network: DenseNet
  last_norm: str

  def state(self, prefix: str) -> weights.State:
    """The state dict under `init/`, `after_step0/`, `final/` or `grad_step0/`."""
    start = len(prefix) + 1
    return {name[start:]: value for name, value in self.arrays.items() if name.startswith(prefix + "/")}


def read(path: pathlib.Path) -> Record:
  """Reads a record.

  Raises:
    UserError: no such file, not a record, cut short, or contradicting itself.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      _check_sizes(file.zip.infolist(), path.stat().st_size)
      arrays = {name: file[name] for name in file.files}
    first = arrays["init/features.denseblock1.denselayer1.conv1.weight"]
    header = _header(arrays)
    if sum(header.block_config) > len(arrays):  # To build it would take hours.
      raise Misfit(f"block_config has {sum(header.block_config):,} layers, and there are {len(arrays)} arrays")
    network = DenseNet(
      blocks=header.block_config,
      growth_rate=header.growth_rate,
      bottleneck_width=len(first) // header.growth_rate if first.shape[2:] == (1, 1) else 0,
      num_classes=header.num_classes,
      initial_channels=header.initial_channels,
      compression=header.compression,
      stem="cifar" if header.small_inputs else "imagenet",
    )
    for name in ("images_uint8", "labels", "train_logits_step0", "losses", "eval_logits_final"):
      _ = arrays[name]
  except KeyError as error:
    raise UserError(f"{path}: is not a record of a run; {error} is missing") from None
  except Misfit as misfit:
    raise UserError(f"{path}: is not a record of a run ({misfit})") from None
  except Exception as error:  # numpy and zipfile raise many kinds for a damaged file.
    raise UserError(f"{path}: cannot be read as .npz ({error or type(error).__name__})") from None
  record = Record(arrays, network, "norm_final" if "init/features.norm_final.weight" in arrays else "norm5")
  _check(record, path)
  return record


def _check_sizes(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
  """Refuses an archive that was made to fill memory: numbers do not compress so."""
  if (claimed := sum(entry.file_size for entry in entries)) > _EXPANSION * size + _FREE:
    raise Misfit(f"it claims to hold {claimed:,} bytes, far more than it is long")


def _header(arrays: Mapping[str, np.ndarray]) -> Header:
  said = {field.name: arrays[field.name].tolist() for field in dataclasses.fields(Header)}
  if isinstance(said["compression"], float):
    said["compression"] = decimal(arrays["compression"])
  return from_json(Header, json.dumps(said, default=str))


def decimal(number: np.ndarray) -> float:
  """A number as it was typed: the shortest decimal that its precision tells from others.

  Records store the compression in float32, and 0.7 rounded to float32 loses a channel in 60.
  """
  return float(str(np.asarray(number)[()]))


def _check(record: Record, path: pathlib.Path) -> None:
  """Refuses a record that lacks a tensor of the network, or has one of another shape: all are compared."""
  faults = _faults_of_pictures(record)
  shapes = jax.eval_shape(lambda key: record.network.init(key, jnp.zeros((1, 32, 32, 3)), False), jax.random.key(0))
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
  expected = {name: value.shape for name, value in _tensors(record, **zeros).items()}
  for prefix in ("init", "grad_step0", "after_step0", "final"):
    found = record.state(prefix)
    for name, shape in expected.items():
      if prefix == "grad_step0" and "running_" in name:
        continue
      if name not in found:
        faults.append(f"{prefix}/{name} is missing")
      elif found[name].shape != shape:
        faults.append(f"{prefix}/{name} is {found[name].shape}, not {shape}")
  if faults:
    raise UserError(f"{path}: does not fit its own configuration", *faults)


def _faults_of_pictures(record: Record) -> list[str]:
  """A line for each fault of images, labels and results."""
  arrays, classes = record.arrays, record.network.num_classes
  images, labels, losses = arrays["images_uint8"], arrays["labels"], arrays["losses"]
  size, batch = int(arrays["image_size"]), int(arrays["batch"])
  faults = []
  if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
    return [f"images_uint8 is {images.dtype} {images.shape}, not uint8 [images, height, width, 3]"]
  if size < images.shape[1] or size % images.shape[1] or images.shape[1] != images.shape[2]:
    faults.append(f"image_size {size} is no multiple of the {images.shape[1]}x{images.shape[2]} pixels of images_uint8")
  if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
    faults.append(f"labels is {labels.dtype} {labels.shape}, not an integer for each of {len(images)} images")
  elif labels.size and not 0 <= labels.min() <= labels.max() < classes:
    faults.append(f"labels run from {labels.min()} to {labels.max()}, of {classes} classes")
  if losses.ndim != 1 or not losses.size or losses.size * batch > len(images):
    faults.append(
      f"losses {losses.shape} of batches of {batch} need one step or more, and as many images of {len(images)}"
    )
  for name in ("train_logits_step0", "eval_logits_final"):
    if arrays[name].shape != (batch, classes):
      faults.append(f"{name} is {arrays[name].shape}, not {(batch, classes)}")
  return faults


def compare(record: Record, remat: str, dtype: str) -> list[Difference]:
  """Runs the training step over a record and compares.

  Args:
    record: from `read`.
    remat: policy.
    dtype: `float64` (the whole record) or `float32` (the first step).
  """
  with jax.enable_x64(dtype == "float64"):
    return _compare(record, remat, jnp.dtype(dtype))


def _compare(record: Record, remat: str, dtype: jnp.dtype) -> list[Difference]:
  network = record.network.clone(remat=remat, dtype=dtype, param_dtype=dtype)
  sgd = optimizer.make(_SGD, optimizer.learning_rate(_SGD, 1, 1))
  template = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
  # Training is compared: where readers of a map carry other averages, scales and biases stay as they are.
  init = weights.from_pytorch(network, record.state("init"), template, "train")
  variables = jax.tree.map(jnp.asarray, init)
  state = step.TrainState(jnp.int32(0), variables["params"], variables["batch_stats"], sgd.init(variables["params"]))
  train_step = jax.jit(step.make_train_step(network, sgd))
  key = jax.random.key(0)
  exact = dtype == jnp.float64
  tolerance, statistics_tolerance = (1e-6, 1e-6) if exact else (1e-4, 1e-5)

  def compare_state(when: str, prefix: str) -> list[Difference]:
    ours, theirs = _tensors(record, state.params, state.batch_stats), record.state(prefix)
    running = {name: value for name, value in ours.items() if "running_" in name}
    parameters = {name: value for name, value in ours.items() if name not in running}
    return [
      _worst(f"parameters {when}", parameters, theirs, tolerance),
      _worst(f"running statistics {when}", running, theirs, statistics_tolerance),
    ]

  first = _batch(record, 0, dtype)
  loss = step.make_loss(network)
  gradients, (logits, _) = jax.jit(jax.grad(loss, has_aux=True))(state.params, state.batch_stats, first, key)
  ours = {
    name: value for name, value in _tensors(record, gradients, state.batch_stats).items() if "running_" not in name
  }
  theirs = record.state("grad_step0")
  floor = np.sqrt(sum(np.square(value).sum() for value in theirs.values())) * (1e-6 if exact else 1e-2)
  result = [
    _worst("step-0 logits", {"logits": logits}, {"logits": record.arrays["train_logits_step0"]}, tolerance),
    _worst("step-0 gradients", ours, theirs, tolerance, floor),
  ]

  losses, expected = {}, {}
  for number in range(len(record.arrays["losses"]) if exact else 1):
    state, totals = train_step(state, _batch(record, number, dtype), key)
    losses[f"step {number}"] = totals.loss / totals.count
    expected[f"step {number}"] = record.arrays["losses"][number]
    if number == 0:
      result += compare_state("after step 0", "after_step0")
  result.append(_worst("losses", losses, expected, 1e-8 if exact else 1e-4))
  if exact:
    result += compare_state("after the last step", "final")
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = jax.jit(lambda variables, images: network.apply(variables, images, False))(variables, first.images)
    result.append(_worst("evaluation logits", {"logits": logits}, {"logits": record.arrays["eval_logits_final"]}, 1e-6))
  return result


def flipped_relus(record: Record) -> tuple[int, int]:
  """The number of ReLU inputs whose sign differs between float32 and float64 on the first batch, and of all inputs.

  A ReLU that flips passes a gradient that it should not, or the reverse, in any float32 program. This alone can put
  float32 gradients beyond the tolerance, PyTorch's too. Which ones flip depends on rounding; here they are those of
  the step without rematerialisation.
  """
  signs = []
  for dtype in (jnp.dtype("float32"), jnp.dtype("float64")):
    with jax.enable_x64(dtype == jnp.float64):
      signs.append(_signs_of_norms(record, dtype))
  pairs = list(zip(*signs, strict=True))
  return sum(int(np.sum(a != b)) for a, b in pairs), sum(a.size for a, _ in pairs)


def _signs_of_norms(record: Record, dtype: jnp.dtype) -> list[np.ndarray]:
  """Where each norm's output, which a ReLU reads, is above 0; compiled together with the gradients."""
  network = record.network.clone(remat="none", dtype=dtype, param_dtype=dtype)
  template = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
  variables = weights.from_pytorch(network, record.state("init"), template, "train", say=lambda _: None)
  batch = _batch(record, 0, dtype)

  def loss(params: Any) -> Any:
    logits, found = network.apply(
      {**variables, "params": params},
      batch.images,
      True,
      mutable=["batch_stats", "intermediates"],
      capture_intermediates=lambda module, _: isinstance(module, BatchNorm),
    )
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean(), found["intermediates"]

  _, found = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
  leaves = jax.tree.leaves_with_path(found)
  return [np.asarray(leaf) > 0 for path, leaf in leaves if "__call__" in jax.tree_util.keystr(path)]


def _batch(record: Record, number: int, dtype: jnp.dtype) -> step.Batch:
  size = int(record.arrays["batch"])
  rows = slice(number * size, (number + 1) * size)
  images = record.arrays["images_uint8"][rows]
  repeat = int(record.arrays["image_size"]) // images.shape[1]
  images = images.repeat(repeat, axis=1).repeat(repeat, axis=2)
  labels = jnp.asarray(record.arrays["labels"][rows], jnp.int32)
  return step.Batch(normalise(jnp.asarray(images), _MEAN, _STD, dtype), labels, jnp.ones(labels.shape))


def _tensors(record: Record, params: Any, batch_stats: Any) -> weights.State:
  """Variables by the record's names, those that a step changes."""
  named = weights.to_pytorch(record.network, params, batch_stats)
  return {
    name.replace(".norm5.", f".{record.last_norm}."): value
    for name, value in named.items()
    if "num_batches_tracked" not in name
  }


def _worst(
  kind: str, ours: Mapping[str, object], theirs: Mapping[str, np.ndarray], tolerance: float, floor: float = 0.0
) -> Difference:
  found = []
  for name, value in ours.items():
    expected = np.asarray(theirs[name], np.float64)
    distance = np.linalg.norm(np.asarray(value, np.float64) - expected)
    size = np.linalg.norm(expected) + floor
    found.append((float(distance / size) if size else float(distance), name))
  # A NaN is the worst there is.
  worst, where = max(found, key=lambda pair: (np.isnan(pair[0]), pair[0]))
  return Difference(kind, worst, tolerance, where)
