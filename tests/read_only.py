"""A disk that turns read-only under way, as this process's Python sees it: what writes below a folder is refused.

Python's audit events (https://docs.python.org/3/library/audit_events.html) come before each of these calls. Files that
are open stay so, as below a second mount that is read-only. C++ is not asked: it writes into folders that Orbax makes.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

_WRITES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}


@dataclasses.dataclass
class Disk:
  """Refuses everything below a folder from the nth write on that has some words in its path."""

  folder: pathlib.Path
  words: str
  left: int

  @property
  def is_read_only(self) -> bool:
    return self.left <= 0

  def refuse(self, path: str) -> None:
    if not pathlib.Path(path).is_relative_to(self.folder):
      return
    self.left -= self.words in path
    if self.is_read_only:
      raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)


_disks: list[Disk] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
  if not _disks or event not in _WRITES:
    return
  if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
    return
  for path in arguments[: 2 if event == "os.rename" else 1]:
    if isinstance(path, str | os.PathLike):
      _disks[-1].refuse(os.fspath(path))


@contextlib.contextmanager
def turning(folder: pathlib.Path, words: str, nth: int = 1) -> Iterator[Disk]:
  """While entered, the disk of a folder turns read-only at the nth write to a path below it with these words."""
  _listen()
  _disks.append(disk := Disk(folder, words, nth))
  try:
    yield disk
  finally:
    _disks.clear()


@functools.cache
def _listen() -> None:
  """For good: a hook cannot be taken away."""
  sys.addaudithook(_hear)
