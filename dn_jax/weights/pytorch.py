"""The variables of a network as a PyTorch state dict, and from one.

PyTorch's batch norms keep their own running averages; here a feature map has them once (`dn_jax.models.batch_stats`).
Export writes a map's averages into every reader. Import takes a file whose readers agree as it is; `from_pytorch` has
two ways for any other.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core import unfreeze
from flax.traverse_util import unflatten_dict

from dn_jax.config.weights_file import WeightsError
from dn_jax.errors import shown
from dn_jax.weights import formats, names, running_averages
from dn_jax.weights.running_averages import Disagreement
from dn_jax.weights.table import AVERAGES, PARTS, Path, State, Unit, at

# By its number of axes, where PyTorch's axes of an array are among ours, and ours among PyTorch's.
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
_AXES_BACK = {4: (2, 3, 1, 0), 2: (1, 0)}


def to_pytorch(network: nn.Module, params: Any, batch_stats: Any) -> State:
  """A state dict that PyTorch's own network loads with `strict=True`.

  Args:
    network: of a family of `dn_jax.weights.formats`.
    params, batch_stats: its variables.

  Returns:
    Arrays by name; convolution kernels [out, in, height, width].

  Raises:
    ValueError: weights of its family are not written.
  """
  state: State = {}
  for unit in formats.units(network):
    own = at(params, unit.path)
    for theirs, ours in PARTS[unit.kind].items():
      if ours in AVERAGES:
        state[f"{unit.name}.{theirs}"] = np.concatenate([at(batch_stats, path)[ours] for path, _ in unit.maps])
      else:
        value = np.asarray(own[ours])
        state[f"{unit.name}.{theirs}"] = np.ascontiguousarray(value.transpose(_AXES.get(value.ndim)))
    if unit.kind == "norm":
      state[f"{unit.name}.num_batches_tracked"] = np.asarray(0, np.int64)
  return state


def from_pytorch(
  network: nn.Module,
  state: Mapping[str, np.ndarray],
  template: Mapping[str, Any],
  disagreement: Disagreement = "inference",
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """The variables of a network from a PyTorch state dict.

  It takes the names that `dn_jax.weights.names` knows, and ignores two counters: `num_batches_tracked` of batch norms,
  and `n_averaged` of `torch.optim.swa_utils.AveragedModel`.

  Args:
    network: of a family of `dn_jax.weights.formats`.
    state: arrays by name.
    template: shapes of its variables, `params` and `batch_stats`, e.g. from `jax.eval_shape`.
    disagreement: for readers of one map with different running averages. `inference` folds the difference into the
      readers' scale and bias, exactly: evaluation gives the file's outputs. `train` keeps scale and bias, and the map
      gets the mean of its readers' averages.
    say: receives a line about a disagreement, and one about names that were translated.

  Returns:
    {"params": ..., "batch_stats": ...} of numpy arrays, in the template's types.

  Raises:
    WeightsError: names missing, unknown or given twice, shapes or types that differ, values that are not finite
      in the template's types; it lists all of them.
    ValueError: `disagreement` is neither, the template is of another network, or weights of the family are not read.
  """
  if disagreement not in typing.get_args(Disagreement):
    raise ValueError(f"disagreement {disagreement!r}: one of {', '.join(typing.get_args(Disagreement))}")
  table = formats.units(network)
  counts = {f"{unit.name}.num_batches_tracked" for unit in table if unit.kind == "norm"} | {"n_averaged"}
  state = _arrays({name: value for name, value in names.translated(state, say).items() if name not in counts})
  _check(state, table, template["params"])
  # Sums of halves are not rounded back.
  halves = ("float16", "bfloat16")
  state = {name: value.astype(np.float32) if value.dtype.name in halves else value for name, value in state.items()}

  params: dict[Path, np.ndarray] = {}
  readings: dict[Path, list[tuple[Unit, slice]]] = {}
  for unit in table:
    for theirs, ours in PARTS[unit.kind].items():
      if ours not in AVERAGES:
        value = state[f"{unit.name}.{theirs}"]
        params[(*unit.path, ours)] = np.transpose(value, _AXES_BACK.get(value.ndim))
    first = 0
    for path, channels in unit.maps:
      readings.setdefault(path, []).append((unit, slice(first, first + channels)))
      first += channels
  batch_stats = running_averages.share(state, readings, params, network.epsilon, disagreement, say)
  variables = {"params": unflatten_dict(params), "batch_stats": unflatten_dict(batch_stats)}
  with np.errstate(over="ignore"):  # Overflow is named below.
    cast = lambda like, value: np.ascontiguousarray(value).astype(like.dtype, copy=False)
    loaded = jax.tree.map(cast, {name: unfreeze(template.get(name, {})) for name in variables}, variables)
  for path, leaf in jax.tree.leaves_with_path(loaded):
    if not np.isfinite(leaf).all():
      where = jax.tree_util.keystr(path, simple=True, separator="/")
      raise WeightsError("the weights do not fit the network", f"values: {where} has some beyond {leaf.dtype}")
  return loaded


def _arrays(state: Mapping[str, Any]) -> State:
  """Raises an error that lists every value that is no array."""
  faults = [
    f"type: {shown(name)} is a {type(value).__name__}, not an array"
    for name, value in state.items()
    if not hasattr(value, "dtype") or not hasattr(value, "shape")
  ]
  if faults:
    raise WeightsError("the weights do not fit the network", *faults)
  return {name: np.asarray(value) for name, value in state.items()}


def _check(state: Mapping[str, np.ndarray], table: Sequence[Unit], params: Any) -> None:
  """Raises an error that lists every misfit of a state dict and the network."""
  expected: dict[str, tuple[int, ...]] = {}
  for unit in table:
    try:
      own = at(params, unit.path)
    except KeyError:
      raise ValueError(f"the template is of another network: it has no {'/'.join(unit.path)}") from None
    for theirs, ours in PARTS[unit.kind].items():
      shape = own["scale" if ours in AVERAGES else ours].shape
      expected[f"{unit.name}.{theirs}"] = tuple(shape[axis] for axis in _AXES.get(len(shape), range(len(shape))))
  faults = [f"missing: {name}" for name in expected if name not in state]
  faults += [f"unknown: {shown(name)}" for name in state if name not in expected]
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
    raise WeightsError("the weights do not fit the network", *faults)
