"""What `--help` says of each flag: a sentence, and the value that will be in force."""

import dataclasses
import functools
import inspect
import pathlib
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import docstring_parser
import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from dn_jax.config.check import prefix_within
from dn_jax.config.origin import DEFAULT, Setting
from dn_jax.config.schema import Unset

# (what the words ask for, or None for a function's; flag -> the word that gave it) -> the values that will be in force
Settings = Callable[[Any, Mapping[str, str]], Sequence[Setting]]
_METAVARS = {int: "INT", float: "FLOAT", str: "STR", pathlib.Path: "PATH"}


def registry(command: Any, settings: Sequence[Setting] = ()) -> ConstructorRegistry:
  """tyro's rules for a command: how each of its flags is read and explained.

  A flag that is on, off or unset has one form, `--name` and `--no-name`.

  Args:
    command: a dataclass, or a function.
    settings: the values that will be in force, of flags that say no such value themselves.
  """
  rules, hints = ConstructorRegistry(), {each.flag: _hint(each) for each in settings}
  prefixes = dict(_prefixes(command, ""))

  @rules.struct_rule
  def explained(info: StructTypeInfo) -> StructConstructorSpec | None:
    kind = info.type
    if kind not in prefixes and not dataclasses.is_dataclass(kind):
      return None
    prefix, fields = prefixes.get(kind, ""), []
    of_fields = typing.get_type_hints(kind, include_extras=True)
    for name, default in _defaults(kind, info.default):
      flag = prefix + name.replace("_", "-")
      hint = hints.get(flag) or _hint_of(of_fields[name], default)
      spec = StructFieldSpec(
        name, _read_as(of_fields[name], default, hint), default, functools.partial(_sentence, kind, name)
      )
      fields.append(spec)
    return StructConstructorSpec(kind, tuple(fields))

  return rules


class _Lines(str):
  """A text whose lines tyro leaves as they are: it would join and part them by rules of its own, line by line."""

  def split(self, *_: Any) -> list[str]:
    return [str(self)]


def paragraphs(*texts: str) -> str:
  """What `--help` says before the flags: prose as wide as the terminal, and lines that are indented as they are."""
  width = shutil.get_terminal_size().columns
  found = [each for text in texts for each in text.strip().split("\n\n") if each]
  filled = [each if "\n  " in f"\n{each}" else textwrap.fill(each, width, break_on_hyphens=False) for each in found]
  return _Lines("\n\n".join(filled))


def _prefixes(command: Any, prefix: str) -> typing.Iterator[tuple[Any, str]]:
  """Each dataclass of a command and the prefix of its flags."""
  yield command, prefix
  bare = typing.get_type_hints(command)
  for name, hint in typing.get_type_hints(command, include_extras=True).items():
    if dataclasses.is_dataclass(bare[name]):
      yield from _prefixes(bare[name], prefix_within(prefix + name.replace("_", "-"), hint))


def _defaults(kind: Any, instance: Any) -> list[tuple[str, Any]]:
  """The fields of a dataclass, or the parameters of a function, with their defaults."""
  if not dataclasses.is_dataclass(kind):
    parameters = inspect.signature(kind).parameters.values()
    return [(each.name, tyro.MISSING if each.default is each.empty else each.default) for each in parameters]
  if isinstance(instance, kind):
    return [(field.name, getattr(instance, field.name)) for field in dataclasses.fields(kind)]
  missing = dataclasses.MISSING
  return [(each.name, tyro.MISSING if each.default is missing else each.default) for each in dataclasses.fields(kind)]


def _read_as(hint: Any, default: Any, shown: str | None) -> Any:
  """A flag's type as tyro takes it: without bounds, which are checked later, and with what the help shows."""
  own = [each for each in getattr(hint, "__metadata__", ()) if type(each).__module__.startswith("tyro")]
  bare = hint.__origin__ if own or hasattr(hint, "__metadata__") else hint
  stripped = _stripped(bare)
  if dataclasses.is_dataclass(stripped):
    return hint
  inner = typing.get_args(stripped)
  may_be_unset = types.NoneType in inner
  if may_be_unset and bool in inner:
    own.append(tyro.conf.DisallowNone)
  argument = {"help_behavior_hint": shown} if shown else {}
  if (
    may_be_unset
    and len(inner) == 2
    and (metavar := _metavar(next(each for each in inner if each is not types.NoneType)))
  ):
    argument["metavar"] = f"[{metavar}]" if tyro.conf.Positional in own else metavar
  if argument:
    own.append(tyro.conf.arg(**argument))
  return Annotated[(stripped, *own)] if own else stripped


def _stripped(hint: Any) -> Any:
  """A type without the annotations anywhere in it."""
  if hasattr(hint, "__metadata__"):
    return _stripped(hint.__origin__)
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is None or origin is Literal:
    return hint
  parts = tuple(each if each is ... else _stripped(each) for each in inner)
  if origin in (typing.Union, types.UnionType):
    return typing.Union[parts]  # noqa: UP007
  return origin[parts]


def _metavar(kind: Any) -> str | None:
  """What stands for a value in a flag's line; None for a switch."""
  if kind is bool:
    return None
  origin, inner = typing.get_origin(kind), typing.get_args(kind)
  if origin is Literal:
    return "{" + ",".join(map(str, inner)) + "}"
  if origin is tuple:
    return f"[{(one := _metavar(inner[0]))} [{one} ...]]"
  return _METAVARS.get(kind, "VALUE")


def _hint_of(hint: Any, default: Any) -> str | None:
  """What is said of a flag's value where no setting is known."""
  words = next((each.words for each in getattr(hint, "__metadata__", ()) if isinstance(each, Unset)), None)
  if default is None:
    return f"(unset: {words})" if words else "(unset)"
  return "(required)" if default is tyro.MISSING else _hint(Setting("", default, DEFAULT))


def _hint(setting: Setting) -> str:
  """A value and its origin, in brackets."""
  return f"({setting.origin})" if setting.value is None else f"({setting.origin}: {_shown(setting.value)})"


def _shown(value: Any) -> str:
  """A value as it is typed after its flag."""
  if isinstance(value, bool):
    return "on" if value else "off"
  if isinstance(value, tuple | list):
    return " ".join(map(_shown, value)) or "none"
  return f"{value:g}" if isinstance(value, float) else str(value) or "''"


def _sentence(kind: Any, name: str) -> str | None:
  """What the docstring of a field or parameter says, as one paragraph."""
  for each in getattr(kind, "__mro__", (kind,)):
    if each is not object and (said := _said(each).get(name)):
      line = " ".join(said.split())
      return line[0].upper() + line[1:]
  return None


@functools.cache
def _said(kind: Any) -> Mapping[str, str]:
  found = docstring_parser.parse_from_object(kind)
  return {each.arg_name: each.description for each in found.params if each.description}
