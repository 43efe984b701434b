"""What a file of weights says of itself; no tensor is read."""

import dataclasses
import json
import pathlib
from typing import Any

import safetensors

from dn_jax.config.schema import ModelConfig, RunConfig, from_dict
from dn_jax.errors import UserError

# The entry of a safetensors file's metadata.
METADATA = "dn_jax"


class WeightsError(UserError):
  """Weights that do not fit; the message names every tensor that is at fault."""


def about(path: pathlib.Path) -> dict[str, Any] | None:
  """What `dn_jax.models.weights.write` was told about a file of weights; None where there is nothing of it.

  Raises:
    WeightsError: it is there and cannot be read.
  """
  if path.suffix != ".safetensors":
    return None
  try:
    with safetensors.safe_open(path, "numpy") as file:
      metadata = file.metadata() or {}
    return dict(json.loads(metadata[METADATA])) if METADATA in metadata else None
  except (OSError, safetensors.SafetensorError, ValueError, TypeError) as error:
    raise WeightsError(f"{path}: what it says of itself cannot be read ({error})") from None


def network_of(path: pathlib.Path) -> ModelConfig | None:
  """The network that a file of weights says it is of; None where it says nothing.

  Raises:
    WeightsError: what it says cannot be read.
  """
  said = about(path) or {}
  try:
    return from_dict(ModelConfig, said["model"]) if "model" in said else None
  except (KeyError, TypeError) as error:
    raise WeightsError(f"{path}: what it says of its network cannot be read ({error})") from None


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
  return dataclasses.replace(network_of(config.weights) or config.model, **own)
