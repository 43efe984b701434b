"""Weights from and to other programs: PyTorch state dicts, and Keras's networks by layer order.

A table (`units`) holds the names of the parameters elsewhere, in the network's order. Elsewhere every batch norm keeps
its own running averages; here a feature map has them once (`dn_jax.models.batch_stats`). Export writes a map's averages
into every reader. Import takes a file whose readers agree as it is; `from_pytorch` has two ways for any other.
"""

import dataclasses
import json
import pathlib
import re
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax.core import unfreeze
from flax.traverse_util import unflatten_dict

from dn_jax.config.check import adapter
from dn_jax.config.schema import About
from dn_jax.config.weights_file import METADATA, WeightsError
from dn_jax.models.densenet import DenseNet

State = dict[str, np.ndarray]
Path = tuple[str, ...]
Disagreement = Literal["inference", "train"]
# The arrays of a layer by its kind, in Keras's order.
_PARTS = {
  "conv": ("weight",),
  "linear": ("weight", "bias"),
  "norm": ("weight", "bias", "running_mean", "running_var"),
}


@dataclasses.dataclass(frozen=True)
class Unit:
  """A layer with weights.

  name: as PyTorch calls it, e.g. `features.denseblock1.denselayer1.norm1`
  path: in the tree `params`
  maps: of a norm, the feature maps it reads: (path in `batch_stats`, channels) each
  """

  name: str
  kind: Literal["conv", "norm", "linear"]
  path: Path
  maps: tuple[tuple[Path, int], ...] = ()


def units(network: DenseNet, last_norm: str = "norm5") -> list[Unit]:
  """All layers with weights, in the network's order (Keras's too).

  Args:
    network: the DenseNet.
    last_norm: its name: `norm5` (torchvision) or `norm_final` (the memory-efficient PyTorch implementation).
  """
  result = [Unit("features.conv0", "conv", ("stem", "conv"))]
  channels = network.initial_channels
  if network.stem == "imagenet":
    result.append(Unit("features.norm0", "norm", ("stem", "norm"), ((("stem", "conv_output"), channels),)))
  maps = [(("stem", "output"), channels)]
  for b, layers in enumerate(network.blocks, start=1):
    for n in range(1, layers + 1):
      there, here = f"features.denseblock{b}.denselayer{n}", (f"block{b}", f"layer{n}")
      result.append(Unit(f"{there}.norm1", "norm", (*here, "norm1"), tuple(maps)))
      result.append(Unit(f"{there}.conv1", "conv", (*here, "conv1")))
      if network.bottleneck_width:
        width = network.bottleneck_width * network.growth_rate
        result.append(Unit(f"{there}.norm2", "norm", (*here, "norm2"), (((*here, "bottleneck"), width),)))
        result.append(Unit(f"{there}.conv2", "conv", (*here, "conv2")))
      maps.append(((*here, "output"), network.growth_rate))
    if b < len(network.blocks):
      there, here = f"features.transition{b}", f"transition{b}"
      result.append(Unit(f"{there}.norm", "norm", (here, "norm"), tuple(maps)))
      result.append(Unit(f"{there}.conv", "conv", (here, "conv")))
      maps = [((here, "output"), int(network.compression * sum(width for _, width in maps)))]
  result.append(Unit(f"features.{last_norm}", "norm", ("last", "norm"), tuple(maps)))
  result.append(Unit("classifier", "linear", ("classifier",)))
  return result


def to_pytorch(network: DenseNet, params: Any, batch_stats: Any, last_norm: str = "norm5") -> State:
  """A state dict that PyTorch's own network loads with `strict=True`.

  Args:
    network: the DenseNet.
    params, batch_stats: its variables.
    last_norm: see `units`.

  Returns:
    Arrays by name; convolution kernels [out, in, height, width].
  """
  state: State = {}
  for unit in units(network, last_norm):
    own = _at(params, unit.path)
    if unit.kind == "conv":
      state[f"{unit.name}.weight"] = np.ascontiguousarray(np.transpose(own["kernel"], (3, 2, 0, 1)))
    elif unit.kind == "linear":
      state[f"{unit.name}.weight"] = np.ascontiguousarray(np.transpose(own["kernel"]))
      state[f"{unit.name}.bias"] = np.asarray(own["bias"])
    else:
      state[f"{unit.name}.weight"], state[f"{unit.name}.bias"] = np.asarray(own["scale"]), np.asarray(own["bias"])
      for theirs, ours in (("running_mean", "mean"), ("running_var", "var")):
        state[f"{unit.name}.{theirs}"] = np.concatenate([_at(batch_stats, path)[ours] for path, _ in unit.maps])
      state[f"{unit.name}.num_batches_tracked"] = np.asarray(0, np.int64)
  return state


def from_pytorch(
  network: DenseNet,
  state: Mapping[str, np.ndarray],
  template: Mapping[str, Any],
  disagreement: Disagreement = "inference",
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """The variables of a network from a PyTorch state dict.

  It knows both spellings of a layer's parts (`norm1`, `norm.1`) and of the last norm (`norm5`, `norm_final`), and the
  prefix `module.` of a parallel wrapper; it ignores `num_batches_tracked`.

  Args:
    network: the DenseNet.
    state: arrays by name.
    template: shapes of its variables, `params` and `batch_stats`, e.g. from `jax.eval_shape`.
    disagreement: for readers of one map with different running averages. `inference` folds the difference into the
      readers' scale and bias, exactly: evaluation gives the file's outputs. `train` keeps scale and bias, and the map
      gets the mean of its readers' averages.
    say: receives a line about a disagreement.

  Returns:
    {"params": ..., "batch_stats": ...} of numpy arrays, in the template's types.

  Raises:
    WeightsError: names missing, unknown or given twice, shapes or types that differ, values that are not finite
      in the template's types; it lists all of them.
    ValueError: `disagreement` is neither, or the template is of another network.
  """
  if disagreement not in typing.get_args(Disagreement):
    raise ValueError(f"disagreement {disagreement!r}: one of {', '.join(typing.get_args(Disagreement))}")
  last_norm = "norm_final" if any(name.endswith("features.norm_final.weight") for name in state) else "norm5"
  table = units(network, last_norm)
  state = _arrays(state, {f"{unit.name}.num_batches_tracked" for unit in table if unit.kind == "norm"})
  _check(state, table, template["params"])

  params: dict[Path, np.ndarray] = {}
  readings: dict[Path, list[tuple[Unit, slice]]] = {}
  for unit in table:
    weight = state[f"{unit.name}.weight"]
    if unit.kind == "conv":
      own = {"kernel": np.transpose(weight, (2, 3, 1, 0))}
    elif unit.kind == "linear":
      own = {"kernel": weight.T, "bias": state[f"{unit.name}.bias"]}
    else:
      own = {"scale": weight, "bias": state[f"{unit.name}.bias"]}
      first = 0
      for path, channels in unit.maps:
        readings.setdefault(path, []).append((unit, slice(first, first + channels)))
        first += channels
    params |= {(*unit.path, name): value for name, value in own.items()}
  batch_stats = _share_statistics(state, readings, params, network.epsilon, disagreement, say)
  variables = {"params": unflatten_dict(params), "batch_stats": unflatten_dict(batch_stats)}
  with np.errstate(over="ignore"):  # Overflow is named below.
    cast = lambda like, value: np.ascontiguousarray(value).astype(like.dtype, copy=False)
    loaded = jax.tree.map(cast, {name: unfreeze(template[name]) for name in variables}, variables)
  for path, leaf in jax.tree.leaves_with_path(loaded):
    if not np.isfinite(leaf).all():
      where = jax.tree_util.keystr(path, simple=True, separator="/")
      raise WeightsError(f"the weights do not fit the network\n  values: {where} has some beyond {leaf.dtype}")
  return loaded


def _share_statistics(
  state: Mapping[str, np.ndarray],
  readings: Mapping[Path, list[tuple[Unit, slice]]],
  params: dict[Path, np.ndarray],
  epsilon: float,
  disagreement: Disagreement,
  say: Callable[[str], None],
) -> dict[Path, np.ndarray]:
  """One mean and variance per map from those of its readers; under `inference` changes the readers in `params`."""
  batch_stats: dict[Path, np.ndarray] = {}
  differing = []
  for path, readers in readings.items():
    means, variances = (
      np.stack([state[f"{unit.name}.{kind}"][part] for unit, part in readers])
      for kind in ("running_mean", "running_var")
    )
    if (means == means[0]).all() and (variances == variances[0]).all():
      mean, variance = means[0], variances[0]
    else:
      differing.append("/".join(path))
      mean, variance = (x.mean(axis=0, dtype=np.float64).astype(x.dtype) for x in (means, variances))
      if disagreement == "inference":
        for row, (unit, part) in enumerate(readers):
          scale, bias = (*unit.path, "scale"), (*unit.path, "bias")
          old, new = (means[row], variances[row]), (mean, variance)
          params[scale], params[bias] = _folded(params[scale], params[bias], part, old, new, epsilon)
    batch_stats |= {(*path, "mean"): mean, (*path, "var"): variance}
  if differing:
    done = (
      "the difference is folded into their scales and biases: evaluation is exact"
      if disagreement == "inference"
      else "their mean is taken: training goes on from it, evaluation differs from the file's until it has"
    )
    say(
      f"readers of {len(differing)} of {len(readings)} feature maps carry different running averages "
      f"({', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}); {done}"
    )
  return batch_stats


def _folded(
  scale: np.ndarray,
  bias: np.ndarray,
  part: slice,
  old: tuple[np.ndarray, np.ndarray],
  new: tuple[np.ndarray, np.ndarray],
  epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Scale and bias that give over new statistics (mean, variance) of a part what these give over the old ones."""
  types = scale.dtype, bias.dtype
  scale, bias = scale.astype(np.float64), bias.astype(np.float64)
  (mean, variance), (new_mean, new_variance) = (np.asarray(each, np.float64) for each in (old, new))
  slope = scale[part] / np.sqrt(variance + epsilon)
  bias[part] += slope * (new_mean - mean)
  scale[part] = slope * np.sqrt(new_variance + epsilon)
  return scale.astype(types[0]), bias.astype(types[1])


def to_keras(network: DenseNet, params: Any, batch_stats: Any) -> list[np.ndarray]:
  """The list that `set_weights` of Keras's DenseNet (121, 169, 201, with its classifier) takes."""
  state = to_pytorch(network, params, batch_stats)
  result = []
  for unit in units(network):
    weight, *others = (state[f"{unit.name}.{part}"] for part in _PARTS[unit.kind])
    result += [np.transpose(weight, (2, 3, 1, 0)) if unit.kind == "conv" else weight.T, *others]
  return result


def from_keras(
  network: DenseNet,
  weights: Sequence[np.ndarray],
  template: Mapping[str, Any],
  disagreement: Disagreement = "inference",
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """The variables of a network from the `get_weights()` of Keras's DenseNet; see `from_pytorch`.

  Keras's batch norms add 1.001e-5: build the network with `epsilon=1.001e-5`.

  Raises:
    WeightsError: another number of arrays, or they do not fit.
  """
  table = units(network)
  expected = sum(len(_PARTS[unit.kind]) for unit in table)
  if len(weights) != expected:
    raise WeightsError(f"Keras weights: {len(weights)} arrays, where this network has {expected}")
  rest = iter(weights)
  state: State = {}
  for unit in table:
    own = {part: next(rest) for part in _PARTS[unit.kind]}
    own["weight"] = np.transpose(own["weight"], (3, 2, 0, 1)) if own["weight"].ndim == 4 else own["weight"].T
    state |= {f"{unit.name}.{part}": value for part, value in own.items()}
  return from_pytorch(network, state, template, disagreement, say)


def read(path: pathlib.Path) -> State:
  """Arrays by name from a `.safetensors` file, or a `.pth` one where PyTorch is installed.

  A `.pth` file is a pickle; it is read with `weights_only=True`, which builds tensors and nothing else.

  Raises:
    WeightsError: no such file, cut short, or not what its name says.
  """
  path = pathlib.Path(path)
  readers = {".safetensors": safetensors.numpy.load_file} | dict.fromkeys((".pth", ".pt", ".dat", ".bin"), _read_pth)
  if path.suffix not in readers:
    raise WeightsError(f"{path}: weights are read from .safetensors and .pth files")
  if not path.is_file():
    raise WeightsError(f"{path}: cannot be read; there is no such file")
  try:
    return readers[path.suffix](path)
  except (OSError, safetensors.SafetensorError, TypeError, KeyError, AttributeError) as error:
    raise WeightsError(f"{path}: cannot be read as {path.suffix[1:]} ({error})") from None


def _read_pth(path: pathlib.Path) -> State:
  try:
    import torch
  except ImportError:
    raise WeightsError(f"{path}: reading .pth files needs PyTorch; or convert it to .safetensors") from None
  try:
    state = torch.load(path, map_location="cpu", weights_only=True)
  except Exception:  # Pickle errors of many kinds; nothing in the file has run.
    raise WeightsError(
      f"{path}: cannot be read as a state dict; it is damaged, or a pickle of more than tensors, which is not run"
    ) from None
  if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
    state = state["state_dict"]
  if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
    raise WeightsError(f"{path}: is not a state dict of tensors")
  result: State = {}
  for name, tensor in state.items():
    try:
      # numpy has no bfloat16.
      result[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    except (RuntimeError, TypeError) as error:  # Sparse, quantised, or of a type that numpy lacks.
      raise WeightsError(f"{path}: {name} is {tensor.dtype}, which cannot be an array ({error})") from None
  return result


def write(path: pathlib.Path, state: Mapping[str, np.ndarray], about: About | None = None) -> None:
  """Writes a state dict as safetensors; `about` goes into the file's metadata."""
  # As ASCII: a class's name need not be UTF-8.
  said = (
    json.dumps(adapter(About).dump_python(about, mode="json", exclude_none=True, warnings=False)) if about else None
  )
  metadata = {"format": "pt"} | ({METADATA: said} if said else {})
  safetensors.numpy.save_file({name: np.asarray(value, order="C") for name, value in state.items()}, path, metadata)


def _arrays(state: Mapping[str, Any], ignored: Container[str]) -> State:
  """A state dict in today's names, half-precision numbers in float32: sums of them are not rounded back."""
  result: State = {}
  faults = []
  for name, value in state.items():
    modern = _modern(str(name))
    if modern in ignored:
      continue
    if modern in result:
      faults.append(f"twice: {modern}, as {name} too")
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
      faults.append(f"type: {name} is a {type(value).__name__}, not an array")
      continue
    value = np.asarray(value)
    result[modern] = value.astype(np.float32) if value.dtype.name in ("float16", "bfloat16") else value
  if faults:
    raise WeightsError("the weights do not fit the network\n  " + "\n  ".join(faults))
  return result


def _modern(name: str) -> str:
  """A name in today's spelling: without `module.`, and `norm1` for the first files' `norm.1`."""
  return re.sub(r"(denselayer\d+)\.(norm|conv)\.([12])\.", r"\1.\2\3.", name.removeprefix("module."))


def _check(state: Mapping[str, np.ndarray], table: Sequence[Unit], params: Any) -> None:
  """Raises an error that lists every misfit of a state dict and the network."""
  expected: dict[str, tuple[int, ...]] = {}
  for unit in table:
    try:
      own = _at(params, unit.path)
    except KeyError:
      raise ValueError(f"the template is of another network: it has no {'/'.join(unit.path)}") from None
    if unit.kind == "norm":
      expected |= {f"{unit.name}.{part}": own["scale"].shape for part in _PARTS["norm"]}
    else:
      kernel = own["kernel"].shape
      expected[f"{unit.name}.weight"] = (*kernel[:1:-1], *kernel[:2]) if unit.kind == "conv" else kernel[::-1]
      if unit.kind == "linear":
        expected[f"{unit.name}.bias"] = own["bias"].shape
  faults = [f"missing: {name}" for name in expected if name not in state]
  faults += [f"unknown: {name}" for name in state if name not in expected]
  for name in expected:
    if name in state:
      value = state[name]
      if value.shape != expected[name]:
        faults.append(f"shape: {name} is {value.shape}, not {expected[name]}")
      elif not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        faults.append(f"type: {name} is {value.dtype}, not floating point")
      elif not np.isfinite(value.astype(np.float64)).all():
        faults.append(f"values: {name} has some that are not finite")
      elif name.endswith("running_var") and value.min() < 0:
        faults.append(f"values: {name} has negative variances")
  if faults:
    raise WeightsError("the weights do not fit the network\n  " + "\n  ".join(faults))


def _at(tree: Any, path: Path) -> Any:
  for name in path:
    tree = tree[name]
  return tree
