"""Reads a weights file's own description; no tensor is read."""

import dataclasses
import pathlib

import safetensors

from dn_jax.config.check import Misfit, from_json
from dn_jax.config.schema import About, ModelConfig
from dn_jax.errors import ConfigurationError, UserError

# The entry of a safetensors file's metadata.
METADATA = "dn_jax"


class WeightsError(UserError):
  """Weights that do not fit; the message names every wrong tensor."""


def about(path: pathlib.Path) -> About:
  """The description that `dn_jax.weights.write` wrote into a file, with all fields unset where there is none.

  Raises:
    WeightsError: it cannot be read.
  """
  if path.suffix.lower() != ".safetensors":
    return About()
  try:
    with safetensors.safe_open(path, "numpy") as file:
      return from_json(About, (file.metadata() or {}).get(METADATA, "{}"))
  except (OSError, safetensors.SafetensorError, Misfit) as error:
    raise WeightsError(f"{path}: what it says of itself cannot be read ({error})") from None


def refuse_missing(path: pathlib.Path | None, out: pathlib.Path | None = None) -> None:
  """Refuses a file of weights that is not there, before anything else is done.

  Args:
    path: of the file.
    out: of a run that starts from it; one that has begun needs it no more.

  Raises:
    ConfigurationError: the file is missing.
  """
  if path is not None and not path.is_file() and not (out and (out / "checkpoints").exists()):
    raise ConfigurationError("weights", path, "is a folder" if path.is_dir() else "there is no such file")


def model_of(path: pathlib.Path | None, model: ModelConfig) -> ModelConfig:
  """The network of flags, or where they name none, of a file of weights that describes itself.

  Raises:
    WeightsError: the file's description cannot be read.
  """
  if path is None or not path.is_file():
    return model
  # These do not name a network.
  own = {name: getattr(model, name) for name in ("remat", "dtype", "precision", "dropout")}
  if model != ModelConfig(**own):
    return model
  return dataclasses.replace(about(path).model or model, **own)
