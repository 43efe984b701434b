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
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tyro

from dn_jax.config import size, weights_file
from dn_jax.config.check import in_words
from dn_jax.config.meant import meant, word_meant
from dn_jax.config.nested import fields, flag_types, replaced
from dn_jax.config.network import name_of
from dn_jax.config.resolve import resolve
from dn_jax.config.saved import Saved
from dn_jax.config.schema import RunConfig
from dn_jax.config.weights_file import SUFFIXES
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.runs import collection
from dn_jax.system import folders, hub

Values = tuple[str, ...]
_TYPES = flag_types(RunConfig)
_SWITCHES = {flag for flag, hint in _TYPES.items() if bool in (hint, *typing.get_args(hint))}
# Flags that the sweep itself sets.
_OWN = {
  "out": "each run has its own folder, in the sweep's",
  **{
    f"distributed.{name}": "a sweep's run is one process; see --cluster"
    for name in ("coordinator", "num-processes", "process-id", "auto", "timeout", "heartbeat")
  },
}
# These say how a run is carried out, but fill in flags that say what it is.
_FILLS_IN = ("model.name", "protocol")


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a sweep.

  flags:  words for `experiments/train.py`; all but --out
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
  file: Saved = Saved(),
) -> list[Cell]:
  """The runs that flags ask for, each once; the first seed of every network comes first.

  Args:
    tokens: flags and values of all runs.
    seeds: seeds 0 to `seeds` - 1; None: as --seed says.
    lines: flags and values of a file, line by line; a line's flags replace those of `tokens`.
    also: other flags to suggest in place of an unknown one.
    file: what every run starts from.

  Raises:
    UserError: lists all flags and values that do not fit.
  """
  common = axes_of(tokens, also)
  if seeds is not None and "seed" in common:
    raise ConfigurationError("seeds", seeds, "give --seeds or --seed, not both")
  if own := [flag for flag in _of_a_run(file.run) if flag in _OWN]:
    raise ConfigurationError("config", file.path, f"says --{own[0]}; {_OWN[own[0]]}")
  products = [common | axes_of(line, also) for line in lines]
  _refuse([error for axes in products for error in _misfits(axes)])
  found: dict[str, Cell] = {}
  wrong = []
  for axes in products:
    if seeds is not None and "seed" not in axes:
      axes["seed"] = [(str(seed),) for seed in range(seeds)]
    for chosen in _products(axes):
      try:
        cell = cell_of(chosen, file)
      except ConfigurationError as error:
        wrong.append(error)
        continue
      found.setdefault(cell.key, cell)
  _refuse(wrong)
  return list(found.values())


def _refuse(wrong: Sequence[ConfigurationError]) -> None:
  """Raises the errors, if there are any, as one."""
  if lines := list(dict.fromkeys(map(str, wrong))):
    do = "does" if len(lines) == 1 else "do"
    raise UserError(f"{len(lines)} of the values {do} not fit; nothing was started", *lines)


def axes_of(tokens: Sequence[str], also: Iterable[str] = ()) -> dict[str, list[Values]]:
  """Flags with the alternatives of each: `--model.blocks 6 12,6 6` has ("6", "12") and ("6", "6").

  Raises:
    ConfigurationError: an unknown flag, an empty value, or a flag given twice.
  """
  found: dict[str, list[Values]] = {}
  for flag, words in _grouped(tokens):
    if flag not in _TYPES and (name := flag.replace("no-", "", 1)) in _SWITCHES:
      flag, words = name, [*words, "False"]
    if flag in _OWN:
      raise ConfigurationError(flag, " ".join(words), _OWN[flag])
    if flag not in _TYPES:
      raise ConfigurationError(flag, " ".join(words), f"there is no such flag; {meant(flag, (*_TYPES, *also))}")
    if flag in found:
      raise ConfigurationError(flag, " ".join(words), "is given twice; put commas between its values")
    text = " ".join(words) or ("True" if flag in _SWITCHES else "")
    alternatives = [tuple(part.split()) for part in text.split(",")]
    if () in alternatives:
      raise ConfigurationError(flag, text or "(nothing)", "has an empty value")
    found[flag] = list(dict.fromkeys(alternatives))
  return found


def varied(cells: Sequence[Cell]) -> list[str]:
  """The flags that differ between runs, without the seed: the axes of a sweep's table."""
  flags = dict.fromkeys(flag for cell in cells for flag in cell.given if flag != "seed")
  return [flag for flag in flags if len({cell.given.get(flag) for cell in cells}) > 1]


def lines_of(path: pathlib.Path) -> list[list[str]]:
  """A file's lines as flags and values, without empty lines and comments (#).

  Raises:
    ConfigurationError: the file cannot be read, or has no flags.
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
      raise UserError(f"{token}: {word_meant(token, _TYPES) or 'a value without a flag before it'}")
    else:
      words.append(token)
  if flag is not None:
    yield flag, words


def _misfits(axes: Mapping[str, Sequence[Values]]) -> Iterator[ConfigurationError]:
  """Alternatives that do not parse, and several values of a flag that does not tell runs apart."""
  part_of_run = {flag: is_part for flag, _, is_part in fields(RunConfig())}
  for flag, alternatives in axes.items():
    if len(alternatives) > 1 and not part_of_run[flag] and flag not in _FILLS_IN:
      text = ",".join(map(" ".join, alternatives))
      yield ConfigurationError(flag, text, "says how a run is carried out, not what it is; give one value")
    for words in alternatives:
      try:
        _value(flag, words)
      except ConfigurationError as error:
        yield error


def _products(axes: Mapping[str, Sequence[Values]]) -> Iterator[dict[str, Values]]:
  """Every combination; the seed changes last, so that a sweep that is cut short has some runs of every network."""
  ordered = {flag: axes[flag] for flag in sorted(axes, key=lambda flag: flag != "seed")}
  for values in itertools.product(*ordered.values()):
    yield dict(zip(ordered, values, strict=True))


def _of_a_run(run: RunConfig) -> dict[str, Values]:
  """The flags, one value each, that ask for a run."""
  defaults = {flag: value for flag, value, _ in fields(RunConfig())}
  return {
    flag: tuple(map(str, value if isinstance(value, tuple) else [value]))
    for flag, value, _ in fields(run)
    if value != defaults[flag]
  }


def cell_of(chosen: Mapping[str, Values], file: Saved = Saved()) -> Cell:
  """The run that flags with one value each ask for, over what a file says.

  Raises:
    ConfigurationError: a value does not fit.
  """
  asked = _of_a_run(file.under(chosen)) | chosen
  flags = tuple(word for flag, words in asked.items() for word in _as_flags(flag, words))
  given = {flag: " ".join(words) for flag, words in chosen.items()}
  config = RunConfig()
  for flag, words in asked.items():
    config = replaced(config, flag, _value(flag, words))
  if hub.is_address(config.weights):
    found = _fetched(config.weights)
    config = dataclasses.replace(config, weights=found.address.path, weights_digest=found.digest)
  weights_file.refuse_gone(config.weights)  # Without it a run would be another, and begin anew.
  config = resolve(config)
  size.refuse_beyond_this_machine(config)
  return Cell(flags, config, given)


@functools.cache
def _fetched(path: pathlib.PurePath) -> hub.Fetched:
  """The hub's file of weights that runs start from.

  Raises:
    ConfigurationError: it is of a branch, which may move on before the sweep is done.
  """
  address = hub.address_of("weights", path)
  if not address.is_of_a_commit:
    raise ConfigurationError("weights", address, "a sweep's runs start from one commit: hf://OWNER/NAME@COMMIT[/FILE]")
  return hub.fetch("weights", address, SUFFIXES, lambda line: print(line, file=sys.stderr))


def _as_flags(flag: str, words: Values) -> tuple[str, ...]:
  if flag in _SWITCHES and words in (("True",), ("False",)):
    head, dot, tail = flag.rpartition(".")
    return (f"--{flag}" if words == ("True",) else f"--{head}{dot}no-{tail}",)
  value = _value(flag, words)
  return (f"--{flag}", *([str(value)] if isinstance(value, pathlib.PurePath) else words))


@functools.cache
def _value(flag: str, words: Values) -> Any:
  """The value that train.py reads from the words after a flag; its whole parser would take a tenth of a second.

  Raises:
    ConfigurationError: the words do not parse.
  """
  hint = _TYPES[flag]
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
      value = tyro.cli(hint, args=words)
    except SystemExit:
      several = "; put commas between several" if len(words) > 1 else ""
      raise ConfigurationError(flag, " ".join(words), f"takes {in_words(hint)}{several}") from None
  if flag == "weights" and hub.is_address(value):
    return hub.address_of(flag, value).path
  # The run may start in another directory.
  return folders.absolute(folders.of(flag, value)) if isinstance(value, pathlib.PurePath) else value


def names(wanted: Mapping[str, Sequence[Values]], config: RunConfig) -> bool:
  """Whether a resolved run has, of each flag, one of the wanted values; `model.name` is the network's name.

  Raises:
    ConfigurationError: a value does not parse.
  """
  found = {flag: value for flag, value, _ in fields(config)} | {"model.name": name_of(config.model)}
  values = {flag: [_value(flag, words) for words in each] for flag, each in wanted.items()}
  return all(found[flag] in each for flag, each in values.items())
