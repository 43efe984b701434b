"""Where each value of a run's configuration comes from: a flag, a file, a publication, a default, or nobody yet."""

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dn_jax.config import protocol, weights_file, zoo
from dn_jax.config.nested import flags
from dn_jax.config.network import kind_of
from dn_jax.config.schema import ModelConfig, RunConfig, Unset

DEFAULT = "default"


@dataclasses.dataclass(frozen=True)
class Setting:
  """A flag's value and its origin.

  value:  in JSON's types; None: nothing has set it, and `origin` says what that means
  origin: in a few words, such as "published for cifar10"
  """

  flag: str
  value: Any
  origin: str


def settings(asked: RunConfig, resolved: RunConfig, given: Mapping[str, str]) -> list[Setting]:
  """Every flag of a run, in the order of `dn_jax.config.nested.flags`.

  Args:
    asked: as the person asked for it.
    resolved: the same, see `dn_jax.config.resolve`.
    given: flag -> where the person said it, such as "--seed".
  """
  before, after, unset = flags(asked), flags(resolved), unset_words(RunConfig)
  found = []
  for flag, value in after.items():
    if value is None and (before[flag] is None or flag in unset):
      origin = f"unset: {unset.get(flag, 'nothing')}" if before[flag] is None else f"{given[flag]}, changed by others"
    elif flag in given and before[flag] is not None:
      origin = given[flag]
    elif before[flag] is not None:
      origin = DEFAULT
    else:
      origin = _filled_in(flag, asked, resolved)
    found.append(Setting(flag, value, origin))
  return found


def _filled_in(flag: str, asked: RunConfig, resolved: RunConfig) -> str:
  """Who fills in a flag that nobody gave."""
  section, _, name = flag.rpartition(".")
  field = name.replace("-", "_")
  published = protocol.source(resolved.protocol, resolved.data.name)
  if flag == "out":
    return "from data set, network and seed"
  if flag == "protocol":
    return f"of {asked.model.name}" if asked.model.name else "of the network"
  if flag == "report" and resolved.report != protocol.of(resolved.protocol, resolved.data.name).report:
    return "as --data.validation says"
  said = flag == "data.resize" and protocol.of(resolved.protocol, resolved.data.name).crop is not None
  if flag in ("data.size", "data.resize") and not said:
    return "as for ImageNet"
  if section != "model":
    return published
  said = weights_file.model_of(asked.weights, asked.model)
  if getattr(asked.model, field) is None and getattr(said, field) is not None:
    return f"of {asked.weights}"
  if field == "dropout" and not (asked.model.name and field in zoo.published(asked.model.name).model):
    return published + (", with augmentation" if resolved.data.augment else ", without augmentation")
  return _of_model(name, asked.model, resolved.model)


def _of_model(flag: str, asked: ModelConfig, complete: ModelConfig) -> str:
  """Which network has a value that nobody gave."""
  field = flag.replace("-", "_")
  named = zoo.published(asked.name).model if asked.name else {}
  if field in named and named[field] == getattr(complete, field):
    return f"of {asked.name}"
  if field in ("blocks", "depth") and (asked.blocks or asked.depth):
    return "from --model." + ("depth" if asked.depth else "blocks")
  return f"of {kind_of(complete)}"


def as_yaml(found: Sequence[Setting]) -> Iterator[str]:
  """Lines of YAML, with each value's origin as a comment."""
  sections: dict[str, list[str]] = {}
  for each in found:
    section, _, name = each.flag.rpartition(".")
    value = f"{'  ' * bool(section)}{name.replace('-', '_')}: {json.dumps(each.value)}"
    sections.setdefault(section, []).append(f"{value:<40}  # {each.origin}")
  for section, lines in sections.items():
    yield from [f"{section}:"] * bool(section) + lines


def unset_words(kind: Any, prefix: str = "") -> dict[str, str]:
  """The flags of a nested dataclass that say what it means that they are unset, and what they say."""
  found: dict[str, str] = {}
  for name, hint in typing.get_type_hints(kind, include_extras=True).items():
    flag = prefix + name.replace("_", "-")
    if dataclasses.is_dataclass(hint):
      found |= unset_words(hint, flag + ".")
    for each in getattr(hint, "__metadata__", ()):
      if isinstance(each, Unset):
        found[flag] = each.words
  return found
