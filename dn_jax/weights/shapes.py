"""The network that the shapes of a state dict are of, and how it is asked for by flags."""

import pathlib
from collections.abc import Mapping
from typing import Any

from dn_jax.config import zoo
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.config.weights_file import WeightsError
from dn_jax.errors import UserError, shown
from dn_jax.weights.formats import FORMATS


def classes_of(state: Mapping[str, Any]) -> int | None:
  """Outputs of a state dict's classifier, where it has one."""
  return _length(state, [form.classifier for form in FORMATS.values()], 2, 0)


def channels_of(state: Mapping[str, Any]) -> int | None:
  """Channels of the images of a state dict's stem, where it has one."""
  return _length(state, [form.stem for form in FORMATS.values()], 4, 1)


def _length(state: Mapping[str, Any], layers: list[str], ndim: int, axis: int) -> int | None:
  """Of an axis of the first of several layers' weights that is there with so many axes."""
  shapes = (getattr(state.get(f"{layer}.weight"), "shape", ()) for layer in layers)
  return next((shape[axis] for shape in shapes if len(shape) == ndim), None)


def model_of(state: Mapping[str, Any]) -> ModelConfig | None:
  """The network of a state dict in the names of its `Format`, by its shapes; None where they are of none."""
  for form in FORMATS.values():
    try:
      if found := form.model_of(state):
        return complete_model(found)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, AttributeError, UserError):
      continue
  return None


def flags_of(model: ModelConfig) -> str:
  """The flags that ask for a network: its published name, or the fewest that do."""
  for name, published in zoo.NETWORKS.items():
    if published.model.get("family", "densenet") == model.family and _ask_for({"name": name}, model):
      return f"--model.name {name}"
  fields = {name: getattr(model, name) for name in ("family", *FORMATS[model.family].fields)}
  for name in tuple(fields):
    fewer = {key: value for key, value in fields.items() if key != name}
    fields = fewer if _ask_for(fewer, model) else fields
  words = {
    name: " ".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in fields.items()
  }
  return " ".join(f"--model.{name.replace('_', '-')} {value}" for name, value in words.items())


def _ask_for(fields: Mapping[str, Any], model: ModelConfig) -> bool:
  """Whether flags ask for a network."""
  try:
    asked = complete_model(ModelConfig(**fields))
  except UserError:
    return False
  return all(getattr(asked, name) == getattr(model, name) for name in ("family", *FORMATS[model.family].fields))


def check(path: pathlib.Path, state: Mapping[str, Any], model: ModelConfig) -> None:
  """Refuses weights whose shapes are of another network; builds none.

  Args:
    path: of the file.
    state: what was read.
    model: the network that was asked for, completed.

  Raises:
    WeightsError: in one line, with the flags that fit.
  """
  for form in FORMATS.values():
    if strange := form.strange(state):
      raise WeightsError(f"{path}: {strange}")
  found, layers = model_of(state), sum(model.blocks)
  if found and (differing := _difference(found, model)):
    raise WeightsError(f"{path}: is of another network: {differing}; give {flags_of(found)}")
  if layers > max(len(state), 1000):  # Fewer are soon built, and then the names that are missing are told.
    raise WeightsError(f"{path}: has {len(state)} tensors, too few for the network's {layers} layers")


def refusal(path: pathlib.Path, error: WeightsError, state: Mapping[str, Any], model: ModelConfig) -> WeightsError:
  """Why a file's weights are not those of a network, in one line, with the flags that fit them.

  Args:
    path: of the file.
    error: of `dn_jax.weights.from_pytorch`.
    state: what was read.
    model: the network that was asked for, completed.
  """
  try:
    check(path, state, model)
  except WeightsError as of_another:
    return of_another
  return in_a_line(path, error)


def in_a_line(path: pathlib.Path, error: WeightsError) -> WeightsError:
  """A list of misfits as its first and their number, with the file."""
  first, *faults = map(shown, error.args)
  kinds = {kind: name for fault in reversed(faults) for kind, _, name in [fault.partition(": ")]}
  if "missing" in kinds and "unknown" in kinds:
    said = f"it has {kinds['unknown']}, where {kinds['missing']} was expected"
  else:
    said = "".join(faults[:1])
  more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
  return WeightsError(f"{path}: {first} ({said}{more})")


def _difference(found: ModelConfig, asked: ModelConfig) -> str | None:
  """The first difference of a file's network and another, in words."""
  if found.family != asked.family:
    return f"it is {FORMATS[found.family].called}, not {FORMATS[asked.family].called}"
  return next(FORMATS[found.family].differences(found, asked), None)
