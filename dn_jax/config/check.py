"""Checks JSON and flags against a frozen dataclass.

Types and bounds (of `annotated_types`) stand on the dataclass's fields. pydantic compares; its complaint becomes one
line here. It is imported at the first check.
"""

import dataclasses
import functools
import json
import pathlib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import annotated_types

from dn_jax.errors import ConfigurationError, nearest
from dn_jax.system.hub import HubPath

if TYPE_CHECKING:
  import pydantic

# A checked dataclass's `__pydantic_config__`.
STRICT = {"extra": "forbid", "allow_inf_nan": False}


class _Path:
  """Has pydantic accept pure paths too: a bucket's are, and the hub's; see `dn_jax.system`."""

  def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
    from pydantic_core import core_schema

    return core_schema.json_or_python_schema(
      core_schema.no_info_after_validator_function(_path, core_schema.str_schema()),
      core_schema.is_instance_schema(pathlib.PurePath),
      serialization=core_schema.to_string_ser_schema(),
    )


def _path(text: str) -> pathlib.PurePath:
  return HubPath(text) if text.startswith("hf://") else pathlib.Path(text)


Path = Annotated[pathlib.Path, _Path()]
# Complaints about values of the right type.
_BEYOND = {
  *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
  *("finite_number", "too_short", "too_long"),
}
# A bound that stands for none, such as the range of float32.
_FAR = 1e9
# Characters of a value that a message shows.
_SHOWN = 60


class Misfit(ValueError):
  """A record that does not fit; one line names the field, its value and what would fit."""


# Names are bytes. One that is not UTF-8 has lone surrogates in Python, and in JSON's escapes. pydantic takes these for
# no text: while it looks at a value, private characters stand in for them.
_STAND_INS = {0xDC80 + n: 0x10FE00 + n for n in range(0x80)}
_STOOD_IN = {stand_in: lone for lone, stand_in in _STAND_INS.items()}


def from_json[T](kind: type[T], text: str | bytes) -> T:
  """Reads a dataclass from JSON.

  Raises:
    Misfit: no JSON, a field of another type or beyond a bound, an unknown field or a missing one.
  """
  import pydantic

  escaped = re.search(rb"\\u[dD][cC]", text.encode() if isinstance(text, str) else text)
  try:
    if not escaped:
      return adapter(kind).validate_json(text, strict=True)
    return _translated(adapter(kind).validate_json(_stood_in(text), strict=True), _STOOD_IN)
  except pydantic.ValidationError as error:
    complaint = error.errors(include_url=False)[0]
  place, hint = _field(kind, complaint["loc"])
  name = ".".join(place)
  match complaint["type"]:
    case "json_invalid":
      raise Misfit(f"no JSON: {complaint['ctx']['error']}")
    case "missing":
      raise Misfit(f"it has no {name}")
    case "unexpected_keyword_argument":
      near = nearest(str(unknown := complaint["loc"][-1]), _hints(_bare(hint)[0]))
      meant = f"; did you mean {' or '.join(near)}?" if near else ""
      raise Misfit(f"{_shown('.'.join((*place, str(unknown))))}: there is no such field{meant}")
  if not place:
    raise Misfit("it is no record")
  raise Misfit(f"{name} {_shown(complaint['input'])}: {_what_fits(hint, complaint)}")


def _stood_in(text: str | bytes) -> str | bytes:
  """JSON with stand-ins for lone surrogates; as it is where it is no JSON."""
  try:
    return json.dumps(json.loads(text), ensure_ascii=False).translate(_STAND_INS)
  except (ValueError, RecursionError):
    return text


def _translated(value: Any, table: Mapping[int, int]) -> Any:
  """A value with characters replaced in all its texts and paths."""
  if isinstance(value, str):
    return value.translate(table)
  if isinstance(value, pathlib.Path):
    return type(value)(str(value).translate(table))
  if type(value) in (tuple, list):
    return type(value)(_translated(each, table) for each in value)
  if type(value) is dict:
    return {_translated(name, table): _translated(each, table) for name, each in value.items()}
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = {field.name: _translated(getattr(value, field.name), table) for field in dataclasses.fields(value)}
    return dataclasses.replace(value, **fields)
  return value


def check(config: Any, prefix: str = "") -> None:
  """Refuses a dataclass with a field of another type or beyond a bound; `prefix` is of its flags, such as `model.`.

  Raises:
    ConfigurationError: names the flag.
  """
  hints = _hints(type(config))
  check_values(hints, {name: getattr(config, name) for name in hints}, prefix)


def check_values(hints: Mapping[str, Any], values: Mapping[str, Any], prefix: str = "") -> None:
  """`check` of values by name and of their types."""
  import pydantic

  for name, value in values.items():
    flag, hint = prefix + name.replace("_", "-"), hints[name]
    if dataclasses.is_dataclass(value):
      check(value, prefix_within(flag, hint))
      continue
    try:
      adapter(hint).validate_python(_translated(value, _STAND_INS), strict=True)
    except pydantic.ValidationError as error:
      raise ConfigurationError(flag, value, _what_fits(hint, error.errors(include_url=False)[0])) from None


def prefix_within(flag: str, hint: Any) -> str:
  """The prefix of the flags of a nested dataclass; none where tyro is told to call it by an empty name."""
  return "" if any(getattr(each, "name", None) == "" for each in _bare(hint)[1]) else flag + "."


def to_dict(record: Any) -> dict[str, Any]:
  """A nested dataclass as nested dictionaries of JSON's types; the inverse of `from_json`."""
  return adapter(type(record)).dump_python(record, mode="json", warnings=False)


@functools.cache
def adapter(kind: Any) -> "pydantic.TypeAdapter":
  """pydantic's validator and serialiser of a type."""
  import pydantic

  # A dataclass has its own configuration.
  return pydantic.TypeAdapter(kind, config=None if dataclasses.is_dataclass(kind) else STRICT)


def in_words(hint: Any) -> str:
  """A type in words, such as "a whole number"."""
  hint, _ = _bare(hint)
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return " or ".join(in_words(each) for each in inner if each is not types.NoneType)
  if origin is Literal:
    return " or ".join(map(str, inner))
  if origin in (tuple, list):
    one = in_words(inner[0])
    is_a_noun = one.startswith("a ") and " or " not in one
    return f"one or more {one.removeprefix('a ')}s" if is_a_noun else f"one or more of {one}"
  if origin is dict or dataclasses.is_dataclass(hint):
    return "a record" if origin is None else f"names, and {in_words(inner[1])} for each"
  names = {bool: "True or False", int: "a whole number", float: "a number", pathlib.Path: "a path", str: "a text"}
  return names.get(hint, getattr(hint, "__name__", str(hint)))


def _what_fits(hint: Any, complaint: Mapping[str, Any]) -> str:
  """The bounds or the type in words, whichever pydantic complains about."""
  bare, bounds = _bare(hint)
  if typing.get_origin(bare) in (tuple, dict) and complaint["type"] in _BEYOND:
    bounds = [*bounds, *_bare(typing.get_args(bare)[-1 if typing.get_origin(bare) is dict else 0])[1]]
  documented = next((each.documentation for each in bounds if isinstance(each, annotated_types.DocInfo)), "{}")
  if complaint["type"] not in _BEYOND:
    several = typing.get_origin(bare) in (typing.Union, types.UnionType)
    return documented if several and documented != "{}" else in_words(hint)
  lowest, highest = _words_of(bounds)
  # Only the bound that a value is beyond is named where the other is far away.
  far = bare is int or any(isinstance(each, annotated_types.Le) and each.le >= _FAR for each in bounds)
  if lowest and highest and far:
    lowest, highest = ("", highest) if complaint["type"].startswith("less") else (lowest, "")
  both = f"{lowest}, {highest}" if lowest and highest else f"must be {lowest or highest}"
  return documented.format(both if lowest or highest else "a finite number")


def _words_of(bounds: Sequence[Any]) -> tuple[str, str]:
  lowest = highest = ""
  for bound in bounds:
    match bound:
      case annotated_types.Ge(ge):
        lowest = f"at least {_number(ge)}"
      case annotated_types.Gt(gt):
        lowest = f"above {_number(gt)}"
      case annotated_types.Le(le):
        highest = f"at most {_number(le)}"
      case annotated_types.Lt(lt):
        highest = f"below {_number(lt)}"
  return lowest, highest


def _number(bound: Any) -> str:
  power = bound.bit_length() - 1 if isinstance(bound, int) and bound > 0 else 0
  return (
    f"2**{power}" if power >= 16 and bound == 2**power else f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
  )


def _field(hint: Any, place: Sequence[str | int]) -> tuple[tuple[str, ...], Any]:
  """The dataclass fields that pydantic's place names, one within the other, and the innermost one's type."""
  found: list[str] = []
  for name in place:
    kind, _ = _bare(hint)
    if not dataclasses.is_dataclass(kind) or name not in _hints(kind):
      break
    found.append(name)
    hint = _hints(kind)[name]
  return tuple(found), hint


def _bare(hint: Any) -> tuple[Any, list[Any]]:
  """A type without `| None` and annotations; and the annotations, outermost first."""
  annotations: list[Any] = []
  while True:
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
      annotations += inner[1:]
      hint = inner[0]
    elif types.NoneType in inner and len(inner) == 2:
      hint = next(each for each in inner if each is not types.NoneType)
    else:
      return hint, annotations


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
  return typing.get_type_hints(kind, include_extras=True)


def _shown(value: Any) -> str:
  """A value as JSON in one line, or its beginning."""
  text = json.dumps(value, default=str)
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
