"""A nested configuration as flags: their names, values and types, and what differs."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from dn_jax.config.check import prefix_within, to_dict
from dn_jax.config.schema import RunConfig


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
  """Every field of a nested configuration: (flag such as `model.growth-rate`, value, whether it is part of the run)."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    flag = prefix + field.name.replace("_", "-")
    if dataclasses.is_dataclass(value):
      yield from fields(value, flag + ".")
    else:
      carried_out = field.metadata.get("carried_out", False)
      yield flag, value, not carried_out and not is_unsaid(field, value)


def is_unsaid(field: dataclasses.Field, value: Any) -> bool:
  """Whether a field was `added` and has its default."""
  return field.metadata.get("added", False) and value == field.default


def flag_types(command: Any) -> dict[str, Any]:
  """The flags of a nested configuration, or of a function that is a command, and their types."""

  def of(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    annotated = typing.get_type_hints(kind, include_extras=True)
    for name, hint in typing.get_type_hints(kind).items():
      flag = prefix + name.replace("_", "-")
      if dataclasses.is_dataclass(hint):
        yield from of(hint, prefix_within(flag, annotated[name]))
      elif name != "return":
        yield flag, hint

  return dict(of(command))


def identity(config: RunConfig) -> dict[str, Any]:
  """The flags that say what a resolved run is, and their values in JSON's types."""
  values = flags(config)
  return {flag: values[flag] for flag, _, part_of_the_run in fields(config) if part_of_the_run}


def flags(config: Any) -> dict[str, Any]:
  """The flags of a nested configuration, and their values in JSON's types."""
  return dict(flat(to_dict(config)))


def flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """The flags that a configuration's JSON names, and their values."""
  for name, value in record.items():
    flag = prefix + name.replace("_", "-")
    yield from flat(value, flag + ".") if isinstance(value, dict) else [(flag, value)]


def replaced(config: Any, flag: str, value: Any) -> Any:
  """A nested configuration with another value of a flag."""
  head, dot, tail = flag.partition(".")
  name = head.replace("-", "_")
  return dataclasses.replace(config, **{name: replaced(getattr(config, name), tail, value) if dot else value})


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """A line for each flag whose value differs, `flag: old -> new`."""
  absent = "(absent)"
  return [
    f"--{flag}: {old.get(flag, absent)} -> {new.get(flag, absent)}"
    for flag in dict.fromkeys((*old, *new))
    if old.get(flag, absent) != new.get(flag, absent)
  ]
