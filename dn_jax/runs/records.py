"""What a run leaves on disk, and reading it back.

config.json     the resolved configuration: what the run is and how it was carried out
data.json       how many pictures each split has, a digest of their labels, and the classes' names where known
metrics.jsonl   a line an epoch (`dn_jax.runs.records.EpochRecord`); errors are fractions of 1
results.csv     the same in the columns that users of the PyTorch implementation know
summary.json    written at the end: `test_error` in percent, parameters, FLOPs, time, versions, the code's commit
curves.png      loss and error by epoch
profile/        under --profile: a few commands to the device, recorded
checkpoints/    Orbax, the newest few and the best on validation
set-aside/      checkpoints found damaged, records that no checkpoint stands behind
log.txt         of a run that a sweep started: what it printed, start after start
failure.json    likewise: how it last failed
lock            likewise: empty, locked while a sweep carries the run out (`dn_jax.system.lock`)
"""

import csv
import dataclasses
import functools
import io
import json
import os
import pathlib
import socket
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dn_jax.config.schema import RunConfig, difference, from_dict, identity, to_dict
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.system import folders

CHECKPOINTS = "checkpoints"
# What a configuration is called while it is written.
CLAIM = "config.json.new"
RESULTS_COLUMNS = ("epoch", "train_loss", "train_error", "valid_loss", "valid_error", "test_error")


@dataclasses.dataclass(frozen=True)
class EpochRecord:
  """One line of metrics.jsonl.

  Errors are fractions of 1; `epoch` and `step` count what is done, from 1; None where there is no such split.
  `seconds` are of training, `evaluation_seconds` of evaluation; `waiting_seconds`, of training, went by until pictures
  were there that are read one by one.
  """

  epoch: int
  step: int
  learning_rate: float
  train_loss: float
  train_error: float
  valid_loss: float | None
  valid_error: float | None
  test_loss: float
  test_error: float
  test_top5_error: float
  seconds: float
  evaluation_seconds: float
  images_per_second: float
  waiting_seconds: float = 0.0


class RunError(UserError):
  """A folder that is not a run, or a record in it that cannot be read."""


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
    folders.make(folder)
    folders.write_whole(folder / "data.json", json.dumps(data, indent=2) + "\n")
    folders.write_whole(folder / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
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
  recorded = read_data(folder)
  if recorded is not None and recorded != data:
    was, now = ({name: value for name, value in each.items() if name != "classes"} for each in (recorded, data))
    what = f"pictures ({was}) than are there now ({now})" if was != now else "classes than are there now"
    raise ConfigurationError("out", folder, f"was started with other {what}; point --data.dir to those")


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
  epochs = len(path.read_text(errors="replace").splitlines()) if path.is_file() else 0
  _set_aside(path)
  return epochs


def read_config(folder: pathlib.Path) -> RunConfig:
  """The configuration of a run.

  Raises:
    RunError: the folder is not a run's, or its record is damaged.
  """
  path = folder / "config.json"
  if (record := _read(path)) is None:
    raise RunError(f"{folder}: not a run's folder (no config.json)")
  try:
    config = from_dict(RunConfig, record)
  except (ValueError, KeyError, TypeError) as error:
    raise RunError(f"{path}: cannot be read ({error})") from None
  if wrong := list(_misfits(config)):
    raise RunError(f"{path}: cannot be read (no run has {', '.join(wrong)})")
  return config


def write_records(folder: pathlib.Path, records: Sequence[EpochRecord]) -> None:
  """Writes metrics.jsonl and results.csv anew from all records so far: no line twice, none missing."""
  lines = (json.dumps(dataclasses.asdict(record)) + "\n" for record in records)
  folders.write_whole(folder / "metrics.jsonl", "".join(lines))
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(RESULTS_COLUMNS)
  for record in records:
    writer.writerow("" if (value := getattr(record, column)) is None else value for column in RESULTS_COLUMNS)
  folders.write_whole(folder / "results.csv", table.getvalue())


def read_records(folder: pathlib.Path) -> list[EpochRecord]:
  """The records of a run, oldest first; none where there is no metrics.jsonl yet.

  Raises:
    RunError: a line is damaged.
  """
  path = folder / "metrics.jsonl"
  try:
    records = [EpochRecord(**json.loads(line)) for line in path.read_text().splitlines()]
  except FileNotFoundError:
    return []
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise RunError(f"{path}: cannot be read ({_reason(error)})") from None
  # Of each kind of line one, since there are thousands.
  for record in {tuple(map(type, vars(record).values())): record for record in records}.values():
    if wrong := list(_misfits(record)):
      raise RunError(f"{path}: cannot be read (no epoch has {', '.join(wrong)})")
  return records


def write_summary(folder: pathlib.Path, summary: dict[str, Any]) -> None:
  """Writes summary.json: the run is finished."""
  folders.write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


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
  # Two sweeps may do this at the same time, with the same text: each replaces the file by one of its own.
  mine = folder / f"{CLAIM}.{socket.gethostname()}-{os.getpid()}"
  try:
    folders.make(folder)
    if not (folder / "config.json").exists():
      folders.write_whole(mine, json.dumps(to_dict(config), indent=2) + "\n")
      folders.replace(mine, folder / "config.json")
  except OSError as error:
    raise ConfigurationError("out", folder, f"cannot be written ({error.strerror}); take another folder") from None


def write_failure(folder: pathlib.Path, failure: dict[str, Any] | None) -> None:
  """Writes failure.json: `error` (a line), `exit_code`, `at`; None takes an earlier one away, a damaged one aside."""
  path = folder / "failure.json"
  try:
    read_failure(folder)
  except RunError:
    _set_aside(path)
  if failure is None:
    path.unlink(missing_ok=True)
  else:
    folders.write_whole(path, json.dumps(failure, indent=2) + "\n")


def read_failure(folder: pathlib.Path) -> dict[str, Any] | None:
  """How a run last failed; None where it has not.

  Raises:
    RunError: it is damaged.
  """
  path = folder / "failure.json"
  failure = _read(path)
  if failure is not None:
    check(path, failure, {"error": str, "exit_code": int | None, "at": str})
  return failure


def read_data(folder: pathlib.Path) -> dict[str, Any] | None:
  """What the run's pictures are; None before it has begun.

  Raises:
    RunError: it is damaged.
  """
  path = folder / "data.json"
  data = _read(path)
  if data is not None:
    check(path, data, {"pictures": dict[str, int], "labels": str})
  return data


def read_classes(folder: pathlib.Path) -> tuple[str, ...] | None:
  """The names of the classes of a run's pictures; None where they are not on record.

  Raises:
    RunError: the record is damaged.
  """
  data = read_data(folder)
  if data is None or "classes" not in data:
    return None
  check(folder / "data.json", data, {"classes": list[str]})
  return tuple(data["classes"])


def check(path: pathlib.Path, record: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
  """Refuses a record that lacks one of these fields, or has another type of it.

  Raises:
    RunError: which are missing or do not fit.
  """
  wrong = [
    f"{name} {json.dumps(record[name])[:40]}" if name in record else f"no {name}"
    for name, hint in fields.items()
    if name not in record or not _fits(record[name], hint)
  ]
  if wrong:
    raise RunError(f"{path}: cannot be read (it has {', '.join(wrong)})")


def _misfits(record: Any, prefix: str = "") -> Iterator[str]:
  """The fields of a dataclass whose values are of another type than it says."""
  for name, hint in _hints(type(record)).items():
    value = getattr(record, name)
    if dataclasses.is_dataclass(hint) and isinstance(value, hint):
      yield from _misfits(value, f"{prefix}{name}.")
    elif not _fits(value, hint):
      yield f"{prefix}{name} {value!r}"[:80]


_hints = functools.cache(typing.get_type_hints)


def _fits(value: Any, hint: Any) -> bool:
  """Whether a value is of a type; a whole number is a float too, and nothing but True and False is a bool."""
  kind, inner = typing.get_origin(hint), typing.get_args(hint)
  if kind in (typing.Union, types.UnionType):
    return any(_fits(value, each) for each in inner)
  if kind is typing.Literal:
    return value in inner
  if kind in (tuple, list):
    return isinstance(value, kind) and all(_fits(each, inner[0]) for each in value)
  if kind is dict:
    return isinstance(value, dict) and all(
      _fits(name, inner[0]) and _fits(each, inner[1]) for name, each in value.items()
    )
  if isinstance(value, bool):
    return hint is bool
  return isinstance(value, int | float if hint is float else hint)


def _set_aside(path: pathlib.Path) -> None:
  """Moves a record into set-aside/, under a number."""
  aside = path.parent / "set-aside"
  folders.make(aside)
  folders.move(
    path, next(target for n in range(1000) if not (target := aside / f"{path.stem}-{n}{path.suffix}").exists())
  )


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  try:
    record = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError, RecursionError) as error:
    raise RunError(f"{path}: cannot be read ({_reason(error)})") from None
  if not isinstance(record, dict):
    raise RunError(f"{path}: cannot be read (it is no record)")
  return record


def _reason(error: Exception) -> str:
  return getattr(error, "strerror", None) or str(error)


def best_record(records: Sequence[EpochRecord]) -> EpochRecord:
  """The epoch of lowest validation error, the first of equals."""
  return min(records, key=lambda record: (record.valid_error, record.epoch))
