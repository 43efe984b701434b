"""Weights from and to other programs."""

from dn_jax.config.weights_file import WeightsError
from dn_jax.weights.files import read, write
from dn_jax.weights.formats import units
from dn_jax.weights.keras import from_keras, to_keras
from dn_jax.weights.pytorch import from_pytorch, to_pytorch
from dn_jax.weights.running_averages import Disagreement
from dn_jax.weights.table import State, Unit

__all__ = [
  "Disagreement",
  "State",
  "Unit",
  "WeightsError",
  "from_keras",
  "from_pytorch",
  "read",
  "to_keras",
  "to_pytorch",
  "units",
  "write",
]
