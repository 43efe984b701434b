"""Reads a weights file's own description; no tensor is read."""

import dataclasses
import pathlib
from collections.abc import Callable

import safetensors

from dn_jax.config import keras_file
from dn_jax.config.about import About
from dn_jax.config.check import Misfit, from_json
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError, UserError, first_line, shown
from dn_jax.system import folders, hub

# The entry of a safetensors file's metadata.
METADATA = "dn_jax"
# Layers that are built in a moment, whatever the file holds.
_FEW = 100
# Fields of `ModelConfig` that do not name a network.
BESIDE_A_NETWORK = ("remat", "dtype", "precision", "dropout")
# Ends of the names of files that `dn_jax.weights.read` reads.
SUFFIXES = (".safetensors", *keras_file.SUFFIXES, ".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".dat", ".tar")


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
      found = from_json(About, (file.metadata() or {}).get(METADATA, "{}"))
      # Building another network than the file's would take hours, before it is found not to fit.
      layers, tensors = sum(complete_model(found.model).blocks or ()) if found.model else 0, len(file.keys())
  except (OSError, safetensors.SafetensorError, Misfit, ConfigurationError) as error:
    raise WeightsError(f"{path}: what it says of itself cannot be read ({first_line(error)})") from None
  if layers > max(tensors, _FEW):
    raise WeightsError(f"{path}: says that its network has {layers:,} layers, and holds {tensors:,} tensors")
  return found


def refuse_missing(path: pathlib.PurePath | None, out: pathlib.Path | None = None) -> None:
  """Refuses a file of weights that is not there, before anything else is done.

  Args:
    path: of the file; the hub's files are asked for elsewhere (`of`, `place`).
    out: of a run that starts from it; one that has begun needs it no more.

  Raises:
    ConfigurationError: the file is missing.
  """
  if path is None or hub.is_address(path):
    return
  if not path.is_file() and not (out and (out / "checkpoints").exists()):
    raise ConfigurationError("weights", path, "is a folder" if path.is_dir() else "there is no such file")


def refuse_gone(path: pathlib.PurePath | None) -> None:
  """Refuses a file of weights that is not there, of a kind that says of its network what flags may not.

  Raises:
    ConfigurationError: the file is missing.
  """
  if path is None or not path.name.lower().endswith((".safetensors", *keras_file.SUFFIXES)):
    return
  if (place := _there(path)) and not place.is_file():
    raise ConfigurationError("weights", path, "there is no such file, and it says which network the runs have")


def of(flag: str, path: pathlib.Path, say: Callable[[str], None]) -> pathlib.Path:
  """The path that a flag gave, as `dn_jax.system.folders.of` has it, and of the hub's file its place in the cache.

  Args:
    say: told before a file is fetched from the hub.

  Raises:
    ConfigurationError: there is none.
  """
  if hub.is_address(path):
    return hub.fetch(flag, hub.address_of(flag, path), SUFFIXES, say).path
  return folders.of(flag, path)


def source(path: pathlib.Path, say: Callable[[str], None]) -> pathlib.Path:
  """The run's folder or file of weights that stands before all flags, as `of` has it.

  Raises:
    UserError: it is not there.
  """
  found = of("source", path, say)
  if found.is_dir():
    if not (found / "config.json").exists():
      runs = sorted(each.name for each in found.iterdir() if (each / "config.json").exists())
      holds = f"it holds runs, such as {shown(runs[0])}; give one of them" if runs else "no config.json"
      raise UserError(f"{found}: not a run's folder ({holds})")
  elif not found.exists():
    raise UserError(f"{found}: there is no such run's folder or file of weights")
  return found


def place(path: pathlib.PurePath) -> pathlib.Path:
  """A run's file of weights on this machine: the path itself, or of the hub's file its place in the cache.

  Raises:
    ConfigurationError: the cache does not have it.
  """
  if (found := _there(path)) is None:
    raise ConfigurationError("weights", path, "is not in the cache of the hub's files")
  return found


def _there(path: pathlib.PurePath) -> pathlib.Path | None:
  if not hub.is_address(path):
    return path
  address = hub.address_of("weights", path)
  return hub.cached(address) if address.is_pinned else None


def model_of(path: pathlib.PurePath | None, model: ModelConfig) -> ModelConfig:
  """The network of flags, joined with what a file of weights says of itself.

  A Keras file says batch norm's epsilon; where it does not, its networks' is taken.

  Raises:
    UserError: the file's description cannot be read, or it has another epsilon than the flag says.
  """
  file = None if path is None else _there(path)
  if file is None or not file.is_file():
    return model
  if keras_file.is_keras(file):
    epsilon, is_said = keras_file.epsilon_of(file)
    said = ModelConfig(epsilon=epsilon if is_said or model.epsilon is None else None)
  else:
    said = about(file).model or ModelConfig()
  if None not in (model.epsilon, said.epsilon) and model.epsilon != said.epsilon:
    raise ConfigurationError("model.epsilon", model.epsilon, f"{file} says {said.epsilon} of its batch norms")
  return joined(model, said)


def joined(model: ModelConfig, said: ModelConfig) -> ModelConfig:
  """The network of flags, or where they name none, the one that is said; epsilon, which no shape shows, in both cases.

  Args:
    model: flags.
    said: by a file of weights, or by the record of a run that began from one.
  """
  own = {name: getattr(model, name) for name in BESIDE_A_NETWORK}
  is_named = model != ModelConfig(**own, epsilon=model.epsilon)
  epsilon = said.epsilon if model.epsilon is None else model.epsilon
  return dataclasses.replace(model if is_named else said, **own, epsilon=epsilon)
