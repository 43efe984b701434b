"""The variables of a DenseNet as the list of arrays that Keras's networks take and give, by layer order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dn_jax.config.weights_file import WeightsError
from dn_jax.models.densenet import DenseNet
from dn_jax.weights.formats import units
from dn_jax.weights.pytorch import from_pytorch, to_pytorch
from dn_jax.weights.running_averages import Disagreement
from dn_jax.weights.table import PARTS, State


def to_keras(network: DenseNet, params: Any, batch_stats: Any) -> list[np.ndarray]:
  """The list that `set_weights` of Keras's DenseNet (121, 169, 201, with its classifier) takes."""
  state = to_pytorch(network, params, batch_stats)
  result = []
  for unit in units(network):
    weight, *others = (state[f"{unit.name}.{part}"] for part in PARTS[unit.kind])
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
  expected = sum(len(PARTS[unit.kind]) for unit in table)
  if len(weights) != expected:
    raise WeightsError(f"Keras weights: {len(weights)} arrays, where this network has {expected}")
  rest = iter(weights)
  state: State = {}
  for unit in table:
    own = {part: next(rest) for part in PARTS[unit.kind]}
    own["weight"] = np.transpose(own["weight"], (3, 2, 0, 1)) if own["weight"].ndim == 4 else own["weight"].T
    state |= {f"{unit.name}.{part}": value for part, value in own.items()}
  return from_pytorch(network, state, template, disagreement, say)
