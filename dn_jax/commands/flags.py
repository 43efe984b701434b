"""Reads flags into a checked dataclass, or into the call of a function; a mistake is told in one line.

tyro reads them. It prints mistakes in a box of several lines, and knows no bounds.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import re
import shlex
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dn_jax.commands import explain
from dn_jax.config.check import check, check_values, in_words
from dn_jax.config.meant import meant, word_meant
from dn_jax.config.nested import flag_types
from dn_jax.config.origin import Setting
from dn_jax.errors import UserError, near
from dn_jax.system import traces

_HELP = {"-h", "--help"}
_NUMBER = re.compile(r"[-+.\de]+")
_NUMBERS = re.compile(r"[-+.\de]+(,[-+.\de]+)+")


def parse(
  command: Any,
  description: str | None = None,
  args: Sequence[str] | None = None,
  *,
  leave_unknown: bool = False,
  default: Any = None,
  settings: explain.Settings | None = None,
) -> Any:
  """Reads a command line, as `tyro.cli` does.

  Args:
    command: a dataclass to fill, or a function to call.
    description: what `--help` says before the flags.
    args: the words; by default the program's own.
    leave_unknown: whether to return unknown words too, instead of refusing them.
    default: a dataclass with the values of flags that are left out.
    settings: of what the words ask for, the values that will be in force; `--help` shows them.

  Returns:
    The checked dataclass, or what the function returns; with `leave_unknown` a pair of that and the unknown words.

  Raises:
    UserError: names the flag, its value and what would fit.
  """
  import tyro
  from tyro import _errors as events  # Private, so setup.cfg bounds tyro's minor version.

  words = _in_one_form(command, sys.argv[1:] if args is None else args)
  given: dict[str, Any] = {}
  filled = command
  if inspect.isfunction(command):
    # tyro calls this one; the command itself is called after tyro is done, with checked arguments.
    @functools.wraps(command)
    def filled(*args: Any, **values: Any) -> None:
      given.update(inspect.signature(command).bind(*args, **values).arguments)

  with events.on_parse_error(functools.partial(_refuse, command, words, leave_unknown)):
    found = tyro.cli(
      filled,
      # Every command has this flag, which is read before all others.
      description=explain.paragraphs(
        (inspect.getdoc(command) or "").partition("\n\nArgs:")[0] if description is None else description,
        f"{traces.FLAG}, beside any other flags, shows the trace behind an error.",
      ),
      args=words,
      return_unknown_args=leave_unknown,
      registry=explain.registry(filled, _known(command, words, default, settings)),
      **({} if default is None else {"default": default}),
    )
  config, rest = found if leave_unknown else (found, [])
  if inspect.isfunction(command):
    check_values(typing.get_type_hints(command, include_extras=True), given)
    config = command(**given)
  elif dataclasses.is_dataclass(config):
    check(config)
  return (config, rest) if leave_unknown else config


def _known(command: Any, words: Sequence[str], default: Any, settings: explain.Settings | None) -> Sequence[Setting]:
  """The values that `--help` shows: of the other words, or where these do not fit, of none."""
  if settings is None or not _HELP & set(words):
    return ()
  if inspect.isfunction(command):
    return settings(None, {})
  for tried in ([word for word in words if word not in _HELP], ()):
    with contextlib.suppress(UserError):
      return settings(parse(command, args=tried, default=default), given(command, tried))
  return ()


def given(command: Any, args: Sequence[str] | None = None) -> dict[str, str]:
  """The flags of a command that words name, by default the program's own, each with the word that names it."""
  words = [word.partition("=")[0] for word in (sys.argv[1:] if args is None else args) if word.startswith("--")]
  switches = {negated(flag): flag for flag in flag_types(command)}
  named = {word: word.replace("_", "-") for word in words}
  return {
    flag: word
    for word, flag in ((word, switches.get(name, name[2:])) for word, name in named.items())
    if flag in flag_types(command)
  }


def _in_one_form(command: Any, words: Sequence[str]) -> list[str]:
  """Words in which `--model.bottleneck False`, the form of earlier versions, is `--model.no-bottleneck`."""
  switches = {flag for flag, hint in flag_types(command).items() if {hint, *typing.get_args(hint)} & {bool}}
  found: list[str] = []
  switch = None  # The switch that the word before this one is.
  for word in words:
    name, equals, value = word.partition("=")
    said = value if equals else word
    before, switch = switch, name if name.startswith("--") and name[2:].replace("_", "-") in switches else None
    if equals and switch and said in ("True", "False"):
      found.append(negated(switch[2:].replace("_", "-")) if said == "False" else switch)
      switch = None
    elif before and word in ("True", "False"):
      if word == "False":
        found[-1] = negated(before[2:].replace("_", "-"))
    else:
      found.append(word)
  return found


def negated(flag: str) -> str:
  """`--model.no-bottleneck` of `model.bottleneck`."""
  head, dot, tail = flag.rpartition(".")
  return f"--{head}{dot}no-{tail}"


def choose(commands: Mapping[str, Callable], description: str) -> None:
  """Runs the function that the first word of the program's own names, with the flags after it.

  Raises:
    UserError: there is none, or no such function.
  """
  name, *words = sys.argv[1:] or [""]
  if name in commands:
    sys.argv = [f"{sys.argv[0]} {name}", *words]
    parse(commands[name])
  elif name in ("-h", "--help"):
    import tyro

    tyro.extras.subcommand_cli_from_dict(dict(commands), description=explain.paragraphs(description))
  else:
    raise UserError(f"{_quoted(name)}: {near(name, commands)}" if name else f"give one of {', '.join(commands)}")


def _refuse(command: Any, words: Sequence[str], leave_unknown: bool, event: Any) -> None:
  """Raises tyro's complaint as one line; leaves an unknown kind to tyro."""
  from tyro import _errors as events

  match event:
    case events.UnrecognizedArgs(tokens=tokens):
      _refuse_unknown(command, words, tokens)
    case events.MissingArgs(unrecognized_tokens=tokens) if tokens:
      _refuse_unknown(command, words, tokens)
    case events.MissingArgs(missing_arguments=[missing, *_]):
      raise UserError(f"{_name(missing.arg)}: has to be given: {in_words(missing.arg.field.type)}")
    case events.InvalidChoice(argument=argument, value=value, choices=choices):
      # Of a flag that may be unset tyro has the choices in any order, with None among them.
      fits = in_words(argument.field.type) if "None" in choices else " or ".join(choices)
      raise UserError(f"{_name(argument)} {_quoted(value)}: {fits}")
    case events.BadValue(argument=argument) | events.InstantiationFailure(argument=argument) if argument:
      known = {*given(command, words).values(), *_HELP}
      unknown = [n for n, word in enumerate(words) if word.startswith("--") and word.partition("=")[0] not in known]
      if argument.is_positional() and unknown and not leave_unknown:  # tyro stopped there, short of the argument.
        _refuse_unknown(command, words, words[unknown[0] :])
      value = " ".join(map(_quoted, values_of(argument.lowered.name_or_flags, words)))
      before = f" {value}: " if value else ": needs a value, "
      fits = in_words(argument.field.type)
      if _NUMBERS.fullmatch(value):
        mended = f": {value.replace(',', ' ')}"
        fits += mended if fits.startswith("one or more") else "; several values, with commas, are for ablate.py"
      raise UserError(f"{_name(argument)}{before}{fits}")


def _refuse_unknown(command: Any, words: Sequence[str], tokens: Sequence[str]) -> None:
  """Refuses words that belong to no flag."""
  first, *rest = tokens
  if not first.startswith("-"):
    place = next((n for n, word in enumerate(words) if first in (word, word.partition("=")[2])), len(words))
    before = [word.partition("=")[0] for word in words[: place + 1] if word.startswith("--")]
    commas = "; ablate.py takes several values of a flag, with commas between them" if _NUMBER.fullmatch(first) else ""
    alone = word_meant(first, flag_types(command)) or "belongs to no flag"
    far = f"one word too many after {before[-1]}{commas}" if before else alone
    raise UserError(f"{_quoted(first)}: {far}")
  name, equals, value = first.partition("=")
  following = [value] if equals else [word for word in rest[:1] if not word.startswith("--")]
  said = meant(name.lstrip("-").replace("_", "-"), flag_types(command))
  raise UserError(" ".join([name, *map(_quoted, following)]) + f": there is no such flag; {said}")


def _name(argument: Any) -> str:
  """A flag's name on the command line; for a positional word its name in the usage."""
  return argument.display_name() if argument.is_positional() else argument.lowered.name_or_flags[0]


def values_of(flags: Sequence[str], words: Sequence[str]) -> list[str]:
  """The words after the last use of a flag."""
  names = [flag.replace("_", "-") for flag in flags]
  uses = [n for n, word in enumerate(words) if word.partition("=")[0].replace("_", "-") in names]
  if not uses:
    return []
  _, equals, value = words[uses[-1]].partition("=")
  following = itertools.takewhile(lambda word: not word.startswith("--"), words[uses[-1] + 1 :])
  return [value, *following] if equals else list(following)


def _quoted(word: str) -> str:
  """A word that may be empty or have spaces in it."""
  return shlex.quote(word) if not word or set(word) & set(" \t\n'\"") else word
