"""Reads what W&B wrote offline: a log of protobuf records in LevelDB's framing. W&B's own reader is not public."""

import json
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER, _FILE_HEADER = 32768, 7, 7


def records(path: pathlib.Path) -> Iterator[Any]:
  """The records of a .wandb file."""
  content, at, whole = path.read_bytes(), _FILE_HEADER, b""
  assert content[:4] == b":W&B"
  while at + _HEADER <= len(content):
    if (rest := _BLOCK - at % _BLOCK) < _HEADER:
      at += rest
      continue
    _, length, kind = struct.unpack("<IHB", content[at : at + _HEADER])
    whole += content[at + _HEADER : at + _HEADER + length]
    at += _HEADER + length
    if kind in (1, 4):  # Whole, or the last of several parts.
      yield wandb_internal_pb2.Record.FromString(whole)
      whole = b""


def read(folder: pathlib.Path) -> dict[str, Any]:
  """One start's offline folder: its run's id, name, project and configuration, its rows by step, its summary."""
  (path,) = folder.glob("*.wandb")
  found: dict[str, Any] = {"config": {}, "rows": {}, "summary": {}, "exit": None}
  for record in records(path):
    match record.WhichOneof("record_type"):
      case "run":
        found |= {"id": record.run.run_id, "name": record.run.display_name, "project": record.run.project}
        found["config"] |= _items(record.run.config.update)
      case "history":
        row = _items(record.history.item)
        found["rows"].setdefault(row.pop("_step"), {}).update(row)
      case "summary":
        found["summary"] |= _items(record.summary.update)
      case "exit":
        found["exit"] = record.exit.exit_code
  return found


def _items(items: Any) -> dict[str, Any]:
  return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
