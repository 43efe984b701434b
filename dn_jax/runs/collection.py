"""Reads a folder of runs, which is the only state of a sweep.

A run is found by its key, a digest of the flags in its `config.json` that say what it is; its folder's name does not
matter.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence

from dn_jax.config.nested import difference, identity
from dn_jax.config.resolve import completed
from dn_jax.config.schema import RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.runs import records

# The folders of reports and of SLURM's jobs, beside the runs.
REPORT, JOBS = "report", "slurm"


def key(config: RunConfig) -> str:
  """Twelve hexadecimal digits that identify a resolved run."""
  return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:12]


def cell_key(config: RunConfig) -> str:
  """The same for a cell of a table, whose runs differ in their seeds alone."""
  return key(dataclasses.replace(config, seed=0))


@dataclasses.dataclass(frozen=True)
class Run:
  """A run on disk.

  config:  resolved
  summary: of a finished run; else None
  failure: how it last failed; None where it has not, or has finished since
  damaged: a line for each other record that cannot be read
  """

  folder: pathlib.Path
  config: RunConfig
  summary: records.Summary | None
  failure: records.Failure | None
  damaged: Sequence[str] = ()

  @property
  def key(self) -> str:
    return key(self.config)

  @property
  def test_error(self) -> float:
    """In percent, of a finished run."""
    return self.summary.test_error_percent


@dataclasses.dataclass(frozen=True)
class Collection:
  """The runs of a folder by name, each key once; and a line for everything else in it, and for damaged records."""

  folder: pathlib.Path
  runs: Sequence[Run]
  skipped: Sequence[str]

  def of_key(self, wanted: str) -> Run | None:
    return self._by_key.get(wanted)

  @functools.cached_property
  def _by_key(self) -> dict[str, Run]:
    return {run.key: run for run in self.runs}


def read(folder: pathlib.Path) -> Collection:
  """Reads a folder of runs.

  Foreign files and damaged records are named in `skipped`. So are copies of a run (a copy is not another seed): a
  finished one is taken, else the first by name. A missing folder counts as empty.

  Raises:
    ConfigurationError: it is no folder, cannot be read, or is itself a run's.
  """
  if folder.exists() and not folder.is_dir():
    raise ConfigurationError("out", folder, "is not a folder")
  if (folder / "config.json").exists():
    raise ConfigurationError("out", folder, "is one run's folder; give the folder around it")
  try:
    paths = sorted(folder.iterdir()) if folder.exists() else []
  except OSError as error:
    raise ConfigurationError("out", folder, f"cannot be read ({error.strerror})") from None
  found: dict[str, Run] = {}
  skipped = []
  for path in paths:
    try:
      if not path.is_dir() or not (path / "config.json").exists():
        if path.name not in (REPORT, JOBS):
          skipped.append(f"{path}: not a run's folder")
        continue
      run = read_run(path)
    except records.RunError as error:
      skipped.append(str(error))
      continue
    except OSError as error:
      skipped.append(f"{path}: cannot be read ({error.strerror})")
      continue
    skipped += run.damaged
    stays, goes = found.get(run.key), run
    if stays and run.summary and not stays.summary:
      stays, goes = run, stays
    found[run.key] = stays or run
    if stays:
      skipped.append(f"{goes.folder}: the same run as {stays.folder}")
  return Collection(folder, sorted(found.values(), key=lambda run: run.folder), skipped)


def read_one(folder: pathlib.Path) -> Collection:
  """One run's folder as a collection of its own; raises what `read_run` does."""
  run = read_run(folder)
  return Collection(folder, [run], run.damaged)


def read_run(folder: pathlib.Path) -> Run:
  """Reads one run.

  Raises:
    RunError: it is no run, or its config.json or summary.json is damaged.
  """
  config = records.read_config(folder)
  _check_resolved(folder / "config.json", config)
  summary = records.read_summary(folder)
  damaged: list[str] = []

  def tried[T](read_record: Callable[[pathlib.Path], T], otherwise: T) -> T:
    try:
      return read_record(folder)
    except records.RunError as error:
      damaged.append(str(error))
      return otherwise

  lost = records.Failure("for a reason that is lost: its failure.json is damaged", None, "an unknown time")
  failure = tried(records.read_failure, lost)
  epochs = tried(records.read_records, None)
  if summary and epochs is not None and len(epochs) != summary.epochs:
    damaged.append(f"{folder / 'metrics.jsonl'}: has {len(epochs)} epochs of {summary.epochs}")
  tried(records.read_data, None)
  return Run(folder, config, summary, None if summary else failure, damaged)


def _check_resolved(path: pathlib.Path, config: RunConfig) -> None:
  """Refuses a configuration that is not resolved, or cannot be."""
  try:
    open_ones = difference(identity(config), identity(completed(config)))
  except ConfigurationError as error:
    raise records.RunError(f"{path}: cannot be read ({error})") from None
  if open_ones:
    raise records.RunError(
      f"{path}: cannot be read (it leaves open {', '.join(line.split(':')[0] for line in open_ones)})"
    )


def place_for(collection: Collection, config: RunConfig, name: str) -> pathlib.Path:
  """The folder of a run: the one that holds it, or a new one named after it and its key.

  Another sweep that wants the same run gets the same new folder.
  """
  wanted = key(config)
  if found := collection.of_key(wanted):
    return found.folder
  names = (f"{name}_{wanted}", *(f"{name}_{wanted}-{n}" for n in range(2, 1000)))
  return next(path for each in names if _is_free_for(path := collection.folder / each, wanted))


def _is_free_for(folder: pathlib.Path, wanted: str) -> bool:
  if not folder.exists():
    return True
  try:
    return read_run(folder).key == wanted
  except records.RunError:  # Damaged, or another sweep is about to write its configuration.
    return folder.is_dir() and all(path.name.startswith(records.CLAIM) for path in folder.iterdir())


def cells(found: Iterable[Run]) -> dict[str, list[Run]]:
  """Runs by the key of their cell, each cell's by seed."""
  grouped: dict[str, list[Run]] = {}
  for run in found:
    grouped.setdefault(cell_key(run.config), []).append(run)
  return {cell: sorted(group, key=lambda run: run.config.seed) for cell, group in grouped.items()}
