"""A folder of runs, read. Nothing else is state: what a sweep has done is what lies there.

A run is found by its key, a digest of the flags that say what it is, which is made anew from its `config.json`;
what its folder is called does not matter.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dn_jax import runs
from dn_jax.configuration import ConfigurationError, RunConfig, identity

# What reports of a collection are kept in, beside its runs.
REPORT = "report"


def key(config: RunConfig) -> str:
  """Twelve hexadecimal digits that tell a resolved run from every other."""
  return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:12]


def cell_key(config: RunConfig) -> str:
  """Likewise of a cell of a table: its runs differ in their seeds alone."""
  return key(dataclasses.replace(config, seed=0))


@dataclasses.dataclass(frozen=True)
class Run:
  """A run as it lies on disk.

  folder:  of the run
  config:  resolved
  summary: of a finished run, see `dn_jax.runs`; else None
  failure: how it last failed; None where it has not, or has finished since
  """

  folder: pathlib.Path
  config: RunConfig
  summary: Mapping[str, Any] | None
  failure: Mapping[str, Any] | None

  @property
  def key(self) -> str:
    return key(self.config)

  @property
  def test_error(self) -> float:
    """In percent, of a finished run."""
    return self.summary["test_error"]


@dataclasses.dataclass(frozen=True)
class Collection:
  """The runs of a folder, by name, and a line for everything in it that is none."""

  folder: pathlib.Path
  runs: Sequence[Run]
  skipped: Sequence[str]

  def of_key(self, wanted: str) -> Run | None:
    """The run of that key: a finished one before one that is not, the first by name of equals."""
    found = [run for run in self.runs if run.key == wanted]
    return min(found, key=lambda run: run.summary is None, default=None)


def read(folder: pathlib.Path) -> Collection:
  """Reads a folder of runs; changes nothing.

  Foreign files and damaged records are skipped, and named in `skipped`. A folder that is not there is an empty one.

  Raises:
    ConfigurationError: it is no folder, or itself a run's.
  """
  if folder.exists() and not folder.is_dir():
    raise ConfigurationError("out", folder, "is not a folder")
  if (folder / "config.json").exists():
    raise ConfigurationError("out", folder, "is one run's folder; give the folder around it")
  found, skipped = [], []
  for path in sorted(folder.iterdir()) if folder.exists() else ():
    if path.name == REPORT and not (path / "config.json").exists():
      continue
    if not path.is_dir() or not (path / "config.json").exists():
      skipped.append(f"{path}: not a run's folder")
      continue
    try:
      found.append(read_run(path))
    except runs.RunError as error:
      skipped.append(str(error))
  return Collection(folder, found, skipped)


def read_run(folder: pathlib.Path) -> Run:
  """Reads one run.

  Raises:
    runs.RunError: it is none, or a record is damaged.
  """
  summary = runs.read_summary(folder)
  if summary is not None and not isinstance(summary.get("test_error"), int | float):
    raise runs.RunError(f"{folder / 'summary.json'}: has no test error")
  return Run(folder, runs.read_config(folder), summary, None if summary else runs.read_failure(folder))


def place_for(collection: Collection, config: RunConfig, name: str) -> pathlib.Path:
  """The folder of a run: where it lies, or a new one, named after it and its key."""
  wanted = key(config)
  if found := collection.of_key(wanted):
    return found.folder
  names = (f"{name}_{wanted}", *(f"{name}_{wanted}-{n}" for n in range(2, 1000)))
  return next(path for each in names if not (path := collection.folder / each).exists())


def cells(found: Iterable[Run]) -> dict[str, list[Run]]:
  """Runs by cell, those of a cell by seed."""
  grouped: dict[str, list[Run]] = {}
  for run in found:
    grouped.setdefault(cell_key(run.config), []).append(run)
  return {cell: sorted(group, key=lambda run: run.config.seed) for cell, group in grouped.items()}
