"""What a checkpoint on disk is, and whether it is whole.

Orbax commits a checkpoint by renaming a finished folder, and silently restores a file whose bits have flipped. So the
digest of each file is written after the commit, and a checkpoint is whole only where every digest fits.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp

from dn_jax.system import folders

_DIGESTS = "digests.json"
# Orbax's, in each checkpoint.
_METADATA = "_CHECKPOINT_METADATA"
# A step, as Orbax writes it.
_NAME = "0|[1-9][0-9]*"


def _digests(folder: pathlib.Path) -> dict[str, str]:
  """BLAKE2 digest of every file below a folder, by relative path."""
  result = {}
  for path in folders.files(folder):
    if path.name != _DIGESTS:
      with folders.opened(path) as file:
        result[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "blake2b").hexdigest()
  return result


def seal(folder: pathlib.Path) -> None:
  """Writes a finished checkpoint's digests into it, atomically."""
  cut_off = lambda name: name.startswith(_DIGESTS) and name.endswith(folders.TEMPORARY)  # An earlier seal.
  found = {name: digest for name, digest in _digests(folder).items() if not cut_off(name)}
  folders.write_whole(folder / _DIGESTS, json.dumps(found, indent=1))


def fault(folder: pathlib.Path) -> str | None:
  """The fault of a checkpoint, in words; None for a whole one."""
  try:
    expected = json.loads(folders.read(folder / _DIGESTS))
  except FileNotFoundError:
    return "it was not finished"
  except (OSError, ValueError, RecursionError):
    expected = None
  if not isinstance(expected, dict):
    return f"its {_DIGESTS} is damaged"
  try:
    found = _digests(folder)
  except FileNotFoundError:  # By a run that goes on, to make room for its newest.
    return "it was removed while it was read"
  except OSError as error:
    if error.errno not in folders.NO_FILE:
      raise
    return f"{os.path.relpath(error.filename, folder)} {error.strerror}"
  if missing := sorted(set(expected) - set(found)):
    return f"{missing[0]} is missing"
  if changed := sorted(name for name, digest in expected.items() if found[name] != digest):
    return f"{changed[0]} is damaged"
  return None


def is_checkpoint(path: pathlib.Path) -> bool:
  """Whether a folder is a checkpoint, whole or not, by what is in it: others' folders may have numbers for names."""
  return not os.path.islink(path) and any((path / name).exists() for name in (_METADATA, _DIGESTS))


def steps_on_disk(folder: pathlib.Path) -> list[int]:
  """Steps that have a committed checkpoint, newest first, whole or not."""
  if not folder.is_dir():
    return []
  return sorted((step for step in map(_step, folder.iterdir()) if step is not None), reverse=True)


def foreign_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """What has a checkpoint's name, and is none; an empty folder is in nobody's way."""
  if not folder.is_dir():
    return []
  named = sorted(path for path in folder.iterdir() if re.fullmatch(_NAME, path.name) and not is_checkpoint(path))
  return [path for path in named if os.path.islink(path) or not path.is_dir() or any(path.iterdir())]


def _step(path: pathlib.Path) -> int | None:
  """The step of a checkpoint; None for anything else."""
  return int(path.name) if re.fullmatch(_NAME, path.name) and is_checkpoint(path) else None


class Names(ocp.path.step.NameFormat):
  """Orbax's names of checkpoints, without what is none: Orbax would remove the oldest folders that have numbers."""

  _standard = ocp.path.step.standard_name_format()

  def build_name(self, step: int) -> str:
    return self._standard.build_name(step)

  def find_all(self, base_path: Any) -> Iterator[Any]:
    return (found for found in self._standard.find_all(base_path) if is_checkpoint(found.path))

  def find_step(self, base_path: Any, step: int) -> Any:
    return self._standard.find_step(base_path, step)
