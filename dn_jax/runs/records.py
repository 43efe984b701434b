"""Writes and reads the records in a run's folder.

config.json     the resolved configuration: what the run is and how it was carried out
data.json       how many images each split has, a digest of their labels, by which rule they were split, and the classes
                of a streamed data set with their numbers of images
metrics.jsonl   one `EpochRecord` per line; errors are fractions of 1
results.csv     the same in the columns of the PyTorch implementation
summary.json    written at the end: `test_error_percent`, parameters, FLOPs, time, versions, the code's commit
curves.png      loss and error by epoch
profile/        under --profile: a trace of a few commands to the device
tensorboard/    under --tensorboard: its events
wandb/          under --wandb: W&B's files, a folder for each start, and the run's id there
checkpoints/    Orbax, the newest few and the best on validation
set-aside/      damaged checkpoints, and records without a checkpoint
log.txt         of a run that a sweep started: its output, start after start
failure.json    of such a run: how it last failed
run.lock        held by the process that trains the run, and names it; else empty (`dn_jax.system.lock`)
sweep.lock      likewise, by the sweep that carries it out
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from dn_jax.config.check import Misfit, from_json, to_dict
from dn_jax.config.nested import difference, identity, is_unsaid
from dn_jax.config.schema import RunConfig, without_retired
from dn_jax.errors import ConfigurationError, UserError, reason, shown
from dn_jax.runs.contents import EARLIER_NAMES, Data, EpochRecord, Failure, Summary
from dn_jax.system import folders

CHECKPOINTS, CURVES = "checkpoints", "curves.png"
# A link to a log in W&B's cache, which it makes and does not write through.
_WANDB_LOG = "wandb/*run-*/logs/debug-core.log"
# The name of config.json while it is written.
CLAIM = "config.json.new"
RESULTS_COLUMNS = ("epoch", "train_loss", "train_error", "valid_loss", "valid_error", "test_error")


class RunError(UserError):
  """A folder that is not a run, or a record in it that cannot be read."""


@contextlib.contextmanager
def written(folder: pathlib.Path) -> Iterator[None]:
  """Turns an OSError of a run's folder into a `ConfigurationError`, one line."""
  try:
    yield
  except OSError as error:
    raise ConfigurationError("out", folder, f"cannot be written ({reason(error)})") from None


def check_own(folder: pathlib.Path) -> None:
  """Refuses, by a `ConfigurationError`, a run's folder with a link in it, but W&B's; the folder may be one itself."""
  with written(folder):
    if (link := folders.link_in(folder, but=_WANDB_LOG)) is not None:
      fits = "is a link, through which a run would write elsewhere; remove it, or move there what it leads to"
      raise ConfigurationError("out", folder, f"{shown(link.relative_to(folder))} in it {fits}")


def create(folder: pathlib.Path, config: RunConfig, data: Data) -> None:
  """Writes down what a resolved run is, in a folder that it has to itself (`dn_jax.runs.place`).

  Raises:
    ConfigurationError: the folder cannot be written, or is of a run of other data (the message lists the difference).
  """
  with written(folder):
    if (folder / "config.json").exists():
      check_config(folder, config)
      check_data(folder, data)
    folders.make(folder)
    _write(folder / "data.json", data)
    _write(folder / "config.json", config)


def check_config(folder: pathlib.Path, config: RunConfig) -> None:
  """Raises `ConfigurationError`, with the difference, where a folder holds another run."""
  if lines := difference(identity(read_config(folder)), identity(config)):
    fits = "holds a run of another configuration; take another folder, or change back"
    raise ConfigurationError("out", folder, fits, *lines)


def check_data(folder: pathlib.Path, data: Data) -> None:
  """Raises `ConfigurationError`, with the difference, for images that are not those of the run."""
  recorded = read_data(folder)
  if recorded is None or recorded == data:
    return
  was, now = ({"pictures": each.pictures, "labels": each.labels} for each in (recorded, data))
  if was != now:
    what = f"images ({was}) than are there now ({now})"
  elif recorded.names != data.names:
    what = "classes than are there now"
  elif recorded.split_rule != data.split_rule:
    what = "split_rule than that of these images"
  elif _differ(recorded.classes, data.classes):
    what = "numbers of images of each class than are there now"
  else:
    return
  raise ConfigurationError("out", folder, f"was started with other {what}; point --data.dir to those")


def _differ(before: Any, now: Any) -> bool:
  """Whether classes have other numbers of images, where both are known."""
  pairs = (
    pair
    for each in zip(before or (), now or (), strict=True)
    for pair in zip(*map(dataclasses.astuple, each), strict=True)
  )
  return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def split_rule(folder: pathlib.Path) -> int:
  """The rule by which a run splits its images: that of its record, else 1; 2 for a run that has not begun."""
  data = read_data(folder) if (folder / "config.json").exists() else None
  return 2 if data is None else data.split_rule or 1


def finished(folder: pathlib.Path, config: RunConfig) -> Summary | None:
  """The summary of a finished run, else None; writes nothing.

  Raises:
    ConfigurationError: the folder's run is of another configuration.
  """
  if not (folder / "config.json").exists() or (summary := read_summary(folder)) is None:
    return None
  check_config(folder, config)
  return summary


def set_records_aside(folder: pathlib.Path) -> int:
  """Moves metrics.jsonl to set-aside/ before a run starts again; returns the number of its epochs."""
  path = folder / "metrics.jsonl"
  if not path.exists():
    return 0
  epochs = len(folders.read(path).splitlines()) if path.is_file() else 0
  _set_aside(path)
  return epochs


def read_config(folder: pathlib.Path) -> RunConfig:
  """The configuration of a run.

  Raises:
    RunError: the folder is not a run's, or its record is damaged.
  """
  path = folder / "config.json"
  if (text := _text(path)) is None:
    raise RunError(f"{folder}: not a run's folder (no config.json)")
  return _parsed(path, RunConfig, _without_retired(path, text))


def _without_retired(path: pathlib.Path, text: bytes) -> bytes:
  """A configuration's JSON without fields of earlier versions.

  Raises:
    RunError: such a field has a value that this version cannot carry out.
  """
  try:
    return json.dumps(without_retired(json.loads(text))).encode()
  except Misfit as misfit:
    raise RunError(f"{path}: cannot be read ({misfit})") from None
  except (ValueError, RecursionError):
    return text  # `_parsed` refuses it.


def write_records(folder: pathlib.Path, records: Sequence[EpochRecord]) -> None:
  """Rewrites metrics.jsonl and results.csv from all records so far."""
  lines = (json.dumps(_said(record, dataclasses.asdict(record))) + "\n" for record in records)
  folders.write_whole(folder / "metrics.jsonl", "".join(lines))
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(RESULTS_COLUMNS)
  for record in records:
    writer.writerow("" if (value := getattr(record, column)) is None else value for column in RESULTS_COLUMNS)
  folders.write_whole(folder / "results.csv", table.getvalue())


def read_records(folder: pathlib.Path) -> list[EpochRecord]:
  """The records of a run, oldest first; none where there is no metrics.jsonl yet. A damaged one raises `RunError`."""
  path = folder / "metrics.jsonl"
  lines = (_text(path) or b"").splitlines()
  return [_parsed(path, EpochRecord, line, f"line {number}: ") for number, line in enumerate(lines, start=1)]


def write_summary(folder: pathlib.Path, summary: Summary) -> None:
  """Writes summary.json, which marks the run as finished."""
  _write(folder / "summary.json", summary)


def read_summary(folder: pathlib.Path) -> Summary | None:
  """A finished run's summary, else None; also as earlier versions wrote it. A damaged one raises `RunError`."""
  path = folder / "summary.json"
  return None if (text := _text(path)) is None else _parsed(path, Summary, _as_named_today(text))


def _as_named_today(text: bytes) -> bytes:
  """A summary's JSON, with the names that its fields have today."""
  try:
    record = json.loads(text)
  except (ValueError, RecursionError):
    return text  # `_parsed` refuses it.
  if not isinstance(record, dict) or not record.keys() & EARLIER_NAMES.keys() or record.keys() & EARLIER_NAMES.values():
    return text  # Of a mixture it is not known which is meant: `_parsed` refuses it too.
  return json.dumps({EARLIER_NAMES.get(name, name): value for name, value in record.items()}).encode()


def claim(folder: pathlib.Path, config: RunConfig) -> None:
  """Makes a run's folder before the run begins, so that a failure can be recorded there.

  Raises:
    ConfigurationError: it cannot be written.
  """
  # Two sweeps may do this at the same time, with the same content: each renames a file of its own.
  mine = folder / f"{CLAIM}.{socket.gethostname()}-{os.getpid()}"
  with written(folder):
    folders.make(folder)
    if not (folder / "config.json").exists():
      _write(mine, config)
      folders.move(mine, folder / "config.json")


def write_failure(folder: pathlib.Path, failure: Failure | None) -> None:
  """Writes failure.json, or with None removes it; a damaged one is moved to set-aside/."""
  path = folder / "failure.json"
  try:
    read_failure(folder)
  except RunError:
    _set_aside(path)
  if failure is None:
    path.unlink(missing_ok=True)
  else:
    _write(path, failure)


def read_failure(folder: pathlib.Path) -> Failure | None:
  """How a run last failed; None where it has not. A damaged record raises `RunError`."""
  return _read(folder / "failure.json", Failure)


def read_data(folder: pathlib.Path) -> Data | None:
  """Which images a run has; None before it has begun. A damaged record raises `RunError`."""
  return _read(folder / "data.json", Data)


def read_classes(folder: pathlib.Path) -> tuple[str, ...] | None:
  """The names of a run's classes, or None, from `read_data`."""
  data = read_data(folder)
  return data and data.names


def _set_aside(path: pathlib.Path) -> None:
  """Moves a record into set-aside/, under a number."""
  aside = path.parent / "set-aside"
  folders.make_own(aside)
  names = (aside / f"{path.stem}-{n}{path.suffix}" for n in range(1000))
  folders.move(path, next(name for name in names if not name.exists()))


def _write(path: pathlib.Path, record: Any) -> None:
  """Writes a record as indented JSON."""
  text = json.dumps(_said(record, to_dict(record)), indent=2) + "\n"
  from_json(type(record), text)  # A record that could not be read again is a fault of ours, and is not written.
  folders.write_whole(path, text)


def _said(record: Any, values: dict[str, Any]) -> dict[str, Any]:
  """The values of a record's fields, without those that are not written."""
  found = {}
  for field in dataclasses.fields(record):
    own, value = getattr(record, field.name), values[field.name]
    if not is_unsaid(field, own) and not (own is None and "may_lack" in field.metadata):
      found[field.name] = _said(own, value) if dataclasses.is_dataclass(own) else value
  return found


def _read[T](path: pathlib.Path, kind: type[T]) -> T | None:
  text = _text(path)
  return None if text is None else _parsed(path, kind, text)


def _text(path: pathlib.Path) -> bytes | None:
  """A file's content; None where there is no file."""
  try:
    return folders.read(path)
  except FileNotFoundError:
    return None
  except OSError as error:
    raise RunError(f"{path}: cannot be read ({reason(error)})") from None


def _parsed[T](path: pathlib.Path, kind: type[T], text: bytes, where: str = "") -> T:
  try:
    return from_json(kind, text)
  except Misfit as misfit:
    raise RunError(f"{path}: cannot be read ({where}{misfit})") from None


def best_record(records: Sequence[EpochRecord]) -> EpochRecord:
  """The epoch of lowest validation error, the first of equals."""
  return min(records, key=lambda record: (record.valid_error, record.epoch))
