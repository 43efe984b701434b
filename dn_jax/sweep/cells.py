"""From flags with several values to the runs of a sweep.

A sweep takes the flags of `experiments/train.py`. A flag may have several values, with commas between them; the runs
are the product of all. A file of such lines is the union of its lines' products.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import tyro

from dn_jax.config.network import name_of
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import RunConfig, fields, flag_types, jsonable
from dn_jax.errors import ConfigurationError, UserError, near
from dn_jax.runs import collection
from dn_jax.system import folders

Values = tuple[str, ...]
# What a sweep decides itself.
_OWN = {
  "out": "each run has its own folder, in the sweep's",
  **{
    f"distributed.{name}": "a sweep's run is one process; see --cluster"
    for name in ("coordinator", "num-processes", "process-id", "auto", "timeout", "heartbeat")
  },
}
# Carried out in another way, but they fill in flags that say what a run is.
_FILLS_IN = ("model.name", "protocol")


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a sweep.

  flags:  as `experiments/train.py` takes them; all but --out
  config: resolved
  given:  flag -> value as typed
  """

  flags: tuple[str, ...]
  config: RunConfig
  given: Mapping[str, str]

  @property
  def key(self) -> str:
    return collection.key(self.config)


def cells_of(
  tokens: Sequence[str],
  seeds: int | None = None,
  lines: Sequence[Sequence[str]] = ((),),
  also: Iterable[str] = (),
) -> list[Cell]:
  """The runs that flags ask for, all first seeds first; a run that is asked for twice comes once.

  Args:
    tokens: flags and values, of every run.
    seeds: how many, counted from 0; None: as --seed says.
    lines: flags and values of a file, line by line; each with `tokens`, and before them where both have a flag.
    also: flags besides a run's that the person may have meant, see `dn_jax.config.schema.flag_types`.

  Raises:
    UserError: flags or values that cannot be, all of them listed.
  """
  common = axes_of(tokens, also)
  if seeds is not None:
    if seeds < 1:
      raise ConfigurationError("seeds", seeds, "must be at least 1")
    if "seed" in common:
      raise ConfigurationError("seeds", seeds, "give --seeds or --seed, not both")
  products = [common | axes_of(line, also) for line in lines]
  _refuse([error for axes in products for error in _misfits(axes)])
  found: dict[str, Cell] = {}
  wrong = []
  for axes in products:
    if seeds is not None and "seed" not in axes:
      axes["seed"] = [(str(seed),) for seed in range(seeds)]
    for chosen in _products(axes):
      try:
        cell = _cell(chosen)
      except ConfigurationError as error:
        wrong.append(error)
        continue
      found.setdefault(cell.key, cell)
  _refuse(wrong)
  return list(found.values())


def _refuse(wrong: Sequence[ConfigurationError]) -> None:
  """Raises all of them as one, where there are any."""
  if lines := list(dict.fromkeys(map(str, wrong))):
    raise UserError("\n  ".join([f"{len(lines)} of the values do not fit; nothing was started", *lines]))


def axes_of(tokens: Sequence[str], also: Iterable[str] = ()) -> dict[str, list[Values]]:
  """Flags with the alternatives of each: `--model.blocks 6 12,6 6` has ("6", "12") and ("6", "6").

  Args:
    tokens: flags and values.
    also: flags besides a run's to offer in place of one that there is not.

  Raises:
    ConfigurationError: no flag of a run, an empty value, a flag given twice.
  """
  known = _types()
  found: dict[str, list[Values]] = {}
  for flag, words in _grouped(tokens):
    if flag not in known and (name := flag.replace("no-", "", 1)) in known and known[name] is bool:
      flag, words = name, [*words, "False"]
    if flag in _OWN:
      raise ConfigurationError(flag, " ".join(words), _OWN[flag])
    if flag not in known:
      raise ConfigurationError(flag, " ".join(words), f"there is no such flag; {near(flag, (*known, *also))}")
    if flag in found:
      raise ConfigurationError(flag, " ".join(words), "is given twice; put commas between its values")
    text = " ".join(words) or ("True" if known[flag] is bool else "")
    alternatives = [tuple(part.split()) for part in text.split(",")]
    if () in alternatives:
      raise ConfigurationError(flag, text or "(nothing)", "has an empty value")
    found[flag] = list(dict.fromkeys(alternatives))
  return found


def varied(cells: Sequence[Cell]) -> list[str]:
  """The flags, but for the seed, that differ between runs: the axes of a sweep's table."""
  flags = dict.fromkeys(flag for cell in cells for flag in cell.given if flag != "seed")
  return [flag for flag in flags if len({cell.given.get(flag) for cell in cells}) > 1]


def lines_of(path: pathlib.Path) -> list[list[str]]:
  """A file's lines as flags and values; empty ones and what follows a # is left out.

  Raises:
    ConfigurationError: it cannot be read, or says nothing.
  """
  try:
    text = path.read_text()
  except (OSError, ValueError) as error:
    raise ConfigurationError("file", path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
  if lines := [words for line in text.splitlines() if (words := line.split("#")[0].split())]:
    return lines
  raise ConfigurationError("file", path, "has no line with flags")


def _grouped(tokens: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
  flag: str | None = None
  words: list[str] = []
  for token in tokens:
    if token.startswith("--"):
      if flag is not None:
        yield flag, words
      name, equals, value = token[2:].partition("=")
      flag, words = name.replace("_", "-"), [value] if equals else []
    elif flag is None:
      raise UserError(f"{token}: a value without a flag before it")
    else:
      words.append(token)
  if flag is not None:
    yield flag, words


@functools.cache
def _types() -> Mapping[str, Any]:
  return flag_types(RunConfig)


def _misfits(axes: Mapping[str, Sequence[Values]], one_value: bool = True) -> Iterator[ConfigurationError]:
  """Alternatives that do not parse and, unless told otherwise, those that make no other run."""
  known = _types()
  part_of_run = {flag: is_part for flag, _, is_part in fields(RunConfig())}
  for flag, alternatives in axes.items():
    if one_value and len(alternatives) > 1 and not part_of_run[flag] and flag not in _FILLS_IN:
      text = ",".join(map(" ".join, alternatives))
      yield ConfigurationError(flag, text, "says how a run is carried out, not what it is; give one value")
    for words in alternatives:
      try:
        _value(flag, words)
      except ValueError:
        yield ConfigurationError(flag, " ".join(words), f"takes {_in_words(known[flag])}")


def _products(axes: Mapping[str, Sequence[Values]]) -> Iterator[dict[str, Values]]:
  """Every combination; the seed changes last, so that a sweep that is cut short has something everywhere."""
  ordered = {flag: axes[flag] for flag in sorted(axes, key=lambda flag: flag != "seed")}
  for values in itertools.product(*ordered.values()):
    yield dict(zip(ordered, values, strict=True))


def _cell(chosen: Mapping[str, Values]) -> Cell:
  flags = tuple(word for flag, words in chosen.items() for word in _as_flags(flag, words))
  given = {flag: " ".join(words) for flag, words in chosen.items()}
  config = RunConfig()
  for flag, words in chosen.items():
    config = _with(config, flag, _value(flag, words))
  return Cell(flags, resolve(config), given)


def _with(config: Any, flag: str, value: Any) -> Any:
  """A nested configuration with another value of a flag."""
  head, dot, tail = flag.partition(".")
  name = head.replace("-", "_")
  return dataclasses.replace(config, **{name: _with(getattr(config, name), tail, value) if dot else value})


def _as_flags(flag: str, words: Values) -> tuple[str, ...]:
  if _types()[flag] is bool and words in (("True",), ("False",)):
    head, dot, tail = flag.rpartition(".")
    return (f"--{flag}" if words == ("True",) else f"--{head}{dot}no-{tail}",)
  if pathlib.Path in typing.get_args(_types()[flag]):
    # The run may be carried out in another directory.
    return (f"--{flag}", *(str(folders.absolute(folders.of(flag, pathlib.Path(word)))) for word in words))
  return (f"--{flag}", *words)


@functools.cache
def _value(flag: str, words: Values) -> Any:
  """What train.py takes these words for, flag by flag: its parser takes a tenth of a second.

  Raises:
    ValueError: they do not parse.
  """
  if _types()[flag] is int and len(words) == 1:  # Seeds may be many.
    return int(words[0])
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
      parsed = tyro.cli(RunConfig, args=list(_as_flags(flag, words)))
    except SystemExit:
      raise ValueError(f"--{flag} {' '.join(words)}") from None
  return {name: value for name, value, _ in fields(parsed)}[flag]


def _in_words(hint: Any) -> str:
  """What a flag of a type takes."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return " or ".join(_in_words(each) for each in typing.get_args(hint) if each is not type(None))
  if typing.get_origin(hint) is Literal:
    return " or ".join(map(str, typing.get_args(hint)))
  if typing.get_origin(hint) is tuple:
    return f"one or more of {_in_words(typing.get_args(hint)[0])}"
  names = {bool: "True or False", int: "a whole number", float: "a number", pathlib.Path: "a path"}
  return names.get(hint, "a name")


def names(wanted: Mapping[str, Sequence[Values]], config: RunConfig) -> bool:
  """Whether a resolved run has, of each flag, one of the wanted values; `model.name` is what the run is called.

  Raises:
    ConfigurationError: a value that does not parse.
  """
  for error in _misfits(wanted, one_value=False):
    raise error
  found = {flag: jsonable(value) for flag, value, _ in fields(config)} | {"model.name": name_of(config.model)}
  return all(found[flag] in [jsonable(_value(flag, words)) for words in each] for flag, each in wanted.items())
