"""What a run leaves on disk, and reading it back.

config.json     the resolved configuration: what the run is and how it was carried out
data.json       how many pictures each split has, and a digest of their labels
metrics.jsonl   a line an epoch (`dn_jax.training.loop.EpochRecord`); errors are fractions of 1
results.csv     the same in the columns that users of the PyTorch implementation know
summary.json    written at the end: `test_error` in percent, parameters, FLOPs, time, versions, the code's commit
curves.png      loss and error by epoch
profile/        under --profile: a few commands to the device, recorded
checkpoints/    Orbax, the newest few and the best on validation
set-aside/      checkpoints found damaged, records that no checkpoint stands behind
log.txt         of a run that a sweep started: what it printed, start after start
failure.json    likewise: how it last failed
"""

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from dn_jax.configuration import ConfigurationError, RunConfig, UserError, difference, from_dict, identity, to_dict
from dn_jax.training.loop import EpochRecord

CHECKPOINTS = "checkpoints"
RESULTS_COLUMNS = ("epoch", "train_loss", "train_error", "valid_loss", "valid_error", "test_error")


class RunError(UserError):
  """A folder that is not a run, or a record in it that cannot be read."""


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Replaces a file whole: a reader, or a run killed here, sees the old one or the new one."""
  temporary = path.with_name(path.name + ".tmp")
  with temporary.open("w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def create(folder: pathlib.Path, config: RunConfig, data: dict[str, Any]) -> None:
  """Makes a run's folder, or checks that the one there is of the same run.

  Nothing is written before the folder is known to be free or the same run's.

  Args:
    folder: of the run.
    config: resolved.
    data: what the pictures are, as JSON has it.

  Raises:
    ConfigurationError: it cannot be written, holds something else, or is of another configuration or of other
      data (the message lists the difference).
  """
  try:
    if (folder / "config.json").exists():
      check_config(folder, config)
      check_data(folder, data)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
      raise ConfigurationError("out", folder, "is not a run's folder, and not empty; take another")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "data.json", json.dumps(data, indent=2) + "\n")
    write_atomically(folder / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
  except OSError as error:
    raise ConfigurationError("out", folder, f"cannot be written ({error.strerror}); take another folder") from None


def check_config(folder: pathlib.Path, config: RunConfig) -> None:
  """Refuses to take a run's folder for another run's.

  Raises:
    ConfigurationError: the message lists the difference.
  """
  if lines := difference(identity(read_config(folder)), identity(config)):
    fits = "holds a run of another configuration; take another folder, or change back\n  " + "\n  ".join(lines)
    raise ConfigurationError("out", folder, fits)


def check_data(folder: pathlib.Path, data: dict[str, Any]) -> None:
  """Refuses pictures that are not those of the run.

  Raises:
    ConfigurationError: the message says what was and what is there.
  """
  path = folder / "data.json"
  if not path.exists():
    return
  try:
    recorded = json.loads(path.read_text())
  except ValueError as error:
    raise RunError(f"{path}: cannot be read ({error})") from None
  if recorded != data:
    fits = f"was started with other pictures ({recorded}) than are there now ({data}); point --data.dir to those"
    raise ConfigurationError("out", folder, fits)


def finished(folder: pathlib.Path, config: RunConfig) -> dict[str, Any] | None:
  """The summary of a run that is finished, or None; writes nothing.

  Raises:
    ConfigurationError: the folder's run is of another configuration.
  """
  if not (folder / "config.json").exists() or (summary := read_summary(folder)) is None:
    return None
  check_config(folder, config)
  return summary


def set_records_aside(folder: pathlib.Path) -> int:
  """Moves metrics.jsonl out of the way of a run that starts again; returns how many epochs it tells of."""
  path = folder / "metrics.jsonl"
  if not path.exists():
    return 0
  aside = folder / "set-aside"
  aside.mkdir(exist_ok=True)
  epochs = len(path.read_text().splitlines())
  os.rename(path, next(target for n in range(1000) if not (target := aside / f"metrics-{n}.jsonl").exists()))
  return epochs


def read_config(folder: pathlib.Path) -> RunConfig:
  """The configuration of a run.

  Raises:
    RunError: the folder is not a run's, or its record is damaged.
  """
  try:
    return from_dict(RunConfig, json.loads((folder / "config.json").read_text()))
  except FileNotFoundError:
    raise RunError(f"{folder}: not a run's folder (no config.json)") from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise RunError(f"{folder / 'config.json'}: cannot be read ({error})") from None


def write_records(folder: pathlib.Path, records: Sequence[EpochRecord]) -> None:
  """Writes metrics.jsonl and results.csv anew from all records so far: no line twice, none missing."""
  lines = (json.dumps(dataclasses.asdict(record)) + "\n" for record in records)
  write_atomically(folder / "metrics.jsonl", "".join(lines))
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(RESULTS_COLUMNS)
  for record in records:
    writer.writerow("" if (value := getattr(record, column)) is None else value for column in RESULTS_COLUMNS)
  write_atomically(folder / "results.csv", table.getvalue())


def read_records(folder: pathlib.Path) -> list[EpochRecord]:
  """The records of a run, oldest first; none where there is no metrics.jsonl yet.

  Raises:
    RunError: a line is damaged.
  """
  path = folder / "metrics.jsonl"
  if not path.exists():
    return []
  try:
    return [EpochRecord(**json.loads(line)) for line in path.read_text().splitlines()]
  except (ValueError, TypeError) as error:
    raise RunError(f"{path}: cannot be read ({error})") from None


def write_summary(folder: pathlib.Path, summary: dict[str, Any]) -> None:
  """Writes summary.json: the run is finished."""
  write_atomically(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_summary(folder: pathlib.Path) -> dict[str, Any] | None:
  """A finished run's summary; None for a run that is not finished.

  Raises:
    RunError: it is damaged.
  """
  return _read(folder / "summary.json")


def claim(folder: pathlib.Path, config: RunConfig) -> None:
  """Makes a run's folder before the run begins, so that what befalls it has a place.

  Raises:
    ConfigurationError: it cannot be written.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
      write_atomically(folder / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
  except OSError as error:
    raise ConfigurationError("out", folder, f"cannot be written ({error.strerror}); take another folder") from None


def write_failure(folder: pathlib.Path, failure: dict[str, Any] | None) -> None:
  """Writes failure.json: `error` (a line), `exit_code`, `at`; None takes an earlier one away."""
  if failure is None:
    (folder / "failure.json").unlink(missing_ok=True)
  else:
    write_atomically(folder / "failure.json", json.dumps(failure, indent=2) + "\n")


def read_failure(folder: pathlib.Path) -> dict[str, Any] | None:
  """How a run last failed; None where it has not.

  Raises:
    RunError: it is damaged.
  """
  return _read(folder / "failure.json")


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  if not path.exists():
    return None
  try:
    record = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise RunError(f"{path}: cannot be read ({error})") from None
  if not isinstance(record, dict):
    raise RunError(f"{path}: cannot be read (it is no record)")
  return record


def best_record(records: Sequence[EpochRecord]) -> EpochRecord:
  """The epoch of lowest validation error, the first of equals."""
  return min(records, key=lambda record: (record.valid_error, record.epoch))
