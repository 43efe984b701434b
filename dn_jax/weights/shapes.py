"""The network that the shapes of a state dict are of, and how it is asked for by flags."""

import collections
import itertools
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from dn_jax.config import zoo
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.config.weights_file import WeightsError
from dn_jax.errors import UserError, shown

_LAYER = re.compile(r"features\.denseblock(\d{1,4})\.denselayer(\d{1,4})\.conv1\.weight")
_FIELDS = ("blocks", "growth_rate", "bottleneck", "bottleneck_width", "compression", "initial_channels", "stem")


def classes_of(state: Mapping[str, Any]) -> int | None:
  """Outputs of a state dict's classifier, where it has one."""
  shape = getattr(state.get("classifier.weight"), "shape", ())
  return shape[0] if len(shape) == 2 else None


def channels_of(state: Mapping[str, Any]) -> int | None:
  """Channels of the images of a state dict's stem, where it has one."""
  shape = getattr(state.get("features.conv0.weight"), "shape", ())
  return shape[1] if len(shape) == 4 else None


def model_of(state: Mapping[str, Any]) -> ModelConfig | None:
  """The network of a state dict in torchvision's names, by its shapes; None where they are of none."""
  layers = sorted((int(found[1]), int(found[2])) for name in state if (found := _LAYER.fullmatch(name)))
  layers_of = collections.Counter(block for block, _ in layers)
  counts = [layers_of[b] for b in range(1, len(layers_of) + 1)]
  if not counts or layers != [(b, n) for b, count in enumerate(counts, 1) for n in range(1, count + 1)]:
    return None
  kernel = lambda name: state[f"features.{name}.weight"].shape
  try:
    stem, first = kernel("conv0"), kernel("denseblock1.denselayer1.conv1")
    imagenet = "features.norm0.weight" in state
    if stem[2:] != ((7, 7) if imagenet else (3, 3)) or stem[0] != first[1]:  # Such as timm's deep stems.
      return None
    bottleneck = "features.denseblock1.denselayer1.conv2.weight" in state
    growth_rate = kernel("denseblock1.denselayer1.conv2")[0] if bottleneck else first[0]
    transitions = [kernel(f"transition{b}.conv")[:2] for b in range(1, len(counts))]
    return complete_model(
      ModelConfig(
        blocks=tuple(counts),
        growth_rate=growth_rate,
        bottleneck=bottleneck,
        bottleneck_width=first[0] // growth_rate if bottleneck else None,
        compression=_compression(transitions),
        initial_channels=stem[0],
        stem="imagenet" if imagenet else "cifar",
      )
    )
  except (KeyError, IndexError, ZeroDivisionError, AttributeError, UserError):
    return None


def _compression(transitions: list[tuple[int, int]]) -> float | None:
  """The roundest theta with floor(theta * m) = n for all transitions (n, m); None where there is no transition."""
  if not transitions:
    return None
  least = max(kept / of for kept, of in transitions)
  round_ones = (math.ceil(least * 10**digits - 1e-9) / 10**digits for digits in range(1, 7))
  fits = lambda theta: all(int(theta * of) == kept for kept, of in transitions)
  return next((theta for theta in round_ones if fits(theta)), least)


def flags_of(model: ModelConfig) -> str:
  """The flags that ask for a network: its published name, or the fewest that do."""
  for name, published in zoo.NETWORKS.items():
    if published.model.get("family", "densenet") == "densenet" and _ask_for({"name": name}, model):
      return f"--model.name {name}"
  # A depth says the layers of all blocks, where they are as many as it takes for granted.
  fields = {name: getattr(model, name) for name in (*_FIELDS, "depth")}
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
  return all(getattr(asked, name) == getattr(model, name) for name in _FIELDS)


def check(path: pathlib.Path, state: Mapping[str, Any], model: ModelConfig) -> None:
  """Refuses weights whose shapes are of another network; builds none.

  Args:
    path: of the file.
    state: what was read.
    model: the network that was asked for, completed.

  Raises:
    WeightsError: in one line, with the flags that fit.
  """
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
  if found.stem != asked.stem:
    return f"its stem is that for {'ImageNet' if found.stem == 'imagenet' else 'CIFAR'}, not {asked.stem}'s"
  if len(found.blocks) != len(asked.blocks):
    return f"it has {len(found.blocks)} dense blocks, not {len(asked.blocks)}"
  for b, (layers, others) in enumerate(zip(found.blocks, asked.blocks, strict=True), start=1):
    if layers != others:
      return f"its dense block {b} has {layers} layer{'s' * (layers > 1)}, not {others}"
  if found.bottleneck != asked.bottleneck:
    return f"its layers have {'' if found.bottleneck else 'no '}bottlenecks"
  words = {
    "growth_rate": "its growth rate is {}, not {}",
    "bottleneck_width": "its bottlenecks are {} times the growth rate wide, not {}",
    "initial_channels": "its stem has {} channels, not {}",
  }
  for name, said in words.items():
    if (theirs := getattr(found, name)) != (others := getattr(asked, name)):
      return said.format(theirs, others)
  pairs = zip(_kept(found), _kept(asked), strict=True)
  different = ((b, theirs, others) for b, (theirs, others) in enumerate(pairs, start=1) if theirs != others)
  return next((f"its transition {b} keeps {theirs} channels, not {others}" for b, theirs, others in different), None)


def _kept(model: ModelConfig) -> list[int]:
  """The outputs of each transition."""
  add = lambda channels, layers: int(model.compression * (channels + layers * model.growth_rate))
  return list(itertools.accumulate(model.blocks[:-1], add, initial=model.initial_channels))[1:]
