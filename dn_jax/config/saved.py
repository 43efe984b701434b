"""A configuration in a file, from which a run starts: the config.json of another run, or YAML with the flags' names."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from dn_jax.config import plain_yaml
from dn_jax.config.check import Misfit, from_json
from dn_jax.config.meant import meant
from dn_jax.config.nested import difference, flags, flat, replaced
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import RunConfig, without_retired
from dn_jax.config.weights_file import BESIDE_A_NETWORK
from dn_jax.errors import ConfigurationError, UserError, reason
from dn_jax.system import folders

# In bytes; a run's record has 3,000.
_LONGEST = 2**16
# Characters of a name that a message shows.
_SHOWN = 60
_DEFAULTS = flags(RunConfig())
# Of a run's record: its folder, its processes, and the policy that its device decided on.
_OF_THAT_RUN = ("out", "model.remat", *(flag for flag in _DEFAULTS if flag.startswith("distributed.")))
# What a file says in other words than these flags, which win.
_IN_OTHER_WORDS = {
  "model.depth": ("model.blocks",),
  "model.blocks": ("model.depth",),
  "model.name": [f"model.{name}" for name in flags(RunConfig().model) if name not in BESIDE_A_NETWORK],
  "weights": ("weights-digest", "weights-revision"),
}


@dataclasses.dataclass(frozen=True)
class Saved:
  """What a file says of a run.

  path:   the file; None: there is none
  run:    what it leaves for a run to start from, see `read`
  values: flag -> value in JSON's types, as the file has them
  """

  path: pathlib.Path | None = None
  run: RunConfig = RunConfig()
  values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def origins(self) -> dict[str, str]:
    """The flags that the file names, as `dn_jax.config.origin.settings` takes them."""
    return dict.fromkeys(self.values, f"from {self.path}")

  def under(self, given: Collection[str]) -> RunConfig:
    """What a run with these flags starts from: they win, also over what the file says in other words."""
    return _without(self.run, [field for flag in given for field in _IN_OTHER_WORDS.get(flag, ())])

  def changes(self, resolved: RunConfig, given: Collection[str]) -> str | None:
    """A line about values of the file that the given flags changed beside their own; None where there are none."""
    start, now = flags(self.under(given)), flags(resolved)
    old = {flag: value for flag, value in self.values.items() if start[flag] is None and flag not in (*given, "out")}
    lines = difference(old, {flag: now[flag] for flag in old})
    return f"{self.path}: these values follow the flags given: {', '.join(lines)}" if lines else None


def read(path: pathlib.Path) -> Saved:
  """Reads a file, or the config.json in a run's folder.

  A run's config.json, or a file that names every value which a run fills in, is of a resolved run. Its values that are
  filled in alike without it are left unset, to follow the flags of the new run. Any other file is taken as written.

  Raises:
    ConfigurationError: it cannot be read, or a value in it does not fit.
  """
  path = folders.of("config", path)
  try:
    if path.is_dir():
      path /= "config.json"
    if not path.is_file():
      raise ConfigurationError("config", path, "is not a file" if path.exists() else "there is no such file")
    with path.open("rb") as file:
      content = file.read(_LONGEST + 1)
  except OSError as error:
    raise ConfigurationError("config", path, f"cannot be read ({reason(error)})") from None
  if len(content) > _LONGEST:
    raise ConfigurationError("config", path, f"is larger than any configuration ({_LONGEST:,} bytes)")
  try:
    record, is_json = _parsed(content)
    named = _named(without_retired(record))
    run = from_json(RunConfig, json.dumps(_nested(named)))
  except (Misfit, RecursionError) as error:
    why = error if isinstance(error, Misfit) else "lists or mappings within too many others"
    raise ConfigurationError("config", path, f"cannot be read ({why})") from None
  # An earlier version's record lacks what came later.
  is_record = is_json and path.name == "config.json" and "out" in named
  if is_resolved := is_record or named.keys() >= _filled_in():
    run = _without(run, _OF_THAT_RUN if is_json else ())
  said = flags(run)
  not_said = lambda flag: said[flag] is None or (is_resolved and said[flag] == _DEFAULTS[flag])
  values = {flag: said[flag] for flag in named if not not_said(flag)}
  if run.weights:  # As a flag has it: tyro knows no other paths.
    run = dataclasses.replace(run, weights=pathlib.Path(run.weights))
  return Saved(path, _asked(run) if is_resolved else run, values)


def _parsed(content: bytes) -> tuple[Any, bool]:
  """The record in a file, and whether it is JSON, which runs write; else it is YAML.

  Raises:
    Misfit: it is neither.
  """
  try:
    text = content.decode("utf-8-sig")
  except UnicodeDecodeError:
    raise Misfit("it is not UTF-8") from None

  def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
      raise ValueError
    return found

  with contextlib.suppress(ValueError, RecursionError):
    return json.loads(text, object_pairs_hook=once), True
  try:
    return json.loads(json.dumps(plain_yaml.read(text))), False
  except ValueError as error:
    raise Misfit(str(error)) from None


def _named(record: Any) -> dict[str, Any]:
  """The flags that a record names, nested as runs write them or by their own names, and their values.

  A path's ~/ is the home folder, as in a shell.

  Raises:
    Misfit: it is of no such form, or names something else.
  """
  if not isinstance(record, dict):
    raise Misfit("it needs names and values, such as seed: 1")
  found: dict[str, Any] = {}
  for flag, value in flat(record):
    if flag not in _DEFAULTS:
      if any(each.startswith(f"{flag}.") for each in _DEFAULTS):
        raise Misfit(f"{flag}: needs names and values below it")
      raise Misfit(f"{flag[:_SHOWN]}: there is no such flag; {meant(flag, _DEFAULTS)}")
    if flag in found:
      raise Misfit(f"{flag} is there twice")
    found[flag] = os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value
  return found


def _nested(named: Mapping[str, Any]) -> dict[str, Any]:
  """Flags as a run's record has them."""
  record: dict[str, Any] = {}
  for flag, value in named.items():
    section, _, name = flag.replace("-", "_").rpartition(".")
    (record.setdefault(section, {}) if section else record)[name] = value
  return record


@functools.cache
def _filled_in() -> set[str]:
  """The flags that a resolved run has and nobody need give, but its folder."""
  resolved = flags(resolve(RunConfig()))
  return {flag for flag, value in _DEFAULTS.items() if value is None and resolved[flag] is not None} - {"out"}


def _asked(run: RunConfig) -> RunConfig:
  """A resolved run as a person might have asked for it: without values that resolving fills in alike.

  The layers of blocks go before a depth, and all parts of a network before its name.
  """
  try:
    whole = resolve(run)
  except UserError:  # Flags may mend it.
    return run
  for flag in reversed(_DEFAULTS):
    if _DEFAULTS[flag] is None:
      with contextlib.suppress(UserError):
        tried = _without(run, [flag])
        run = tried if resolve(tried) == whole else run
  return run


def _without(run: RunConfig, unset: Collection[str]) -> RunConfig:
  """A run in which these flags are not given."""
  for flag in unset:
    default = functools.reduce(getattr, flag.replace("-", "_").split("."), RunConfig())
    run = replaced(run, flag, default)
  return run
