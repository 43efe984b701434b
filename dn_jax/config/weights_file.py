"""What a file of weights says of itself; no tensor is read."""

import dataclasses
import pathlib

import safetensors

from dn_jax.config.check import Misfit, from_json
from dn_jax.config.schema import About, ModelConfig, RunConfig
from dn_jax.errors import UserError

# The entry of a safetensors file's metadata.
METADATA = "dn_jax"


class WeightsError(UserError):
  """Weights that do not fit; the message names every tensor that is at fault."""


def about(path: pathlib.Path) -> About:
  """What `dn_jax.models.weights.write` was told about a file of weights; nothing where the file says nothing.

  Raises:
    WeightsError: it is there and cannot be read.
  """
  if path.suffix != ".safetensors":
    return About()
  try:
    with safetensors.safe_open(path, "numpy") as file:
      return from_json(About, (file.metadata() or {}).get(METADATA, "{}"))
  except (OSError, safetensors.SafetensorError, Misfit) as error:
    raise WeightsError(f"{path}: what it says of itself cannot be read ({error})") from None


def model_of(config: RunConfig) -> ModelConfig:
  """The network that a person asks for: by flags, or where there are none, as a file of weights says of itself.

  Raises:
    WeightsError: what the file says cannot be read.
  """
  if config.weights is None or not config.weights.is_file():
    return config.model
  # How it is computed, and what only training has, are the run's.
  own = {name: getattr(config.model, name) for name in ("remat", "dtype", "precision", "dropout")}
  if config.model != dataclasses.replace(ModelConfig(), **own):  # Flags name a network.
    return config.model
  return dataclasses.replace(about(config.weights).model or config.model, **own)
