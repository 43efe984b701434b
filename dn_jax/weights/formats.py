"""The families whose weights are read and written.

A family that joins is an entry of `FORMATS`, and has `weights=True` in `dn_jax.config.families.FAMILIES`.
"""

from collections.abc import Mapping

import flax.linen as nn

from dn_jax.weights.densenet import DENSENET
from dn_jax.weights.rdnet import RDNET
from dn_jax.weights.table import Format, Unit

# By the family's name in `dn_jax.config.families.FAMILIES`.
FORMATS: Mapping[str, Format] = {"densenet": DENSENET, "rdnet": RDNET}


def of(network: nn.Module) -> Format:
  """The format of a network.

  Raises:
    ValueError: weights of its family are neither read nor written.
  """
  for each in FORMATS.values():
    if isinstance(network, each.network):
      return each
  raise ValueError(f"weights of a {type(network).__name__} are neither read nor written")


def units(network: nn.Module) -> list[Unit]:
  """A network's layers with weights, in its order."""
  return of(network).units(network)
