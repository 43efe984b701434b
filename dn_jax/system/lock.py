"""Locks in a run's folder: one process at a time trains a run, and one sweep at a time carries it out.

Each is `flock` on a file of the folder, by `filelock`. The file names the process that has it. The kernel releases the
lock when that process has ended, however it ended; no child of it has the lock. So the file stays, and one that a dead
process left does not matter.

On NFS the server keeps the lock for all hosts (flock(2), "NFS details"). Mounted with `nolock` or `local_lock=flock`,
or on Lustre with `localflock`, it holds on one host alone. In a bucket (gs://), and on file systems without locks, a
run goes on without one: there people must start one process at a time.
"""

import contextlib
import errno
import functools
import os
import pathlib
import socket
import sys
from collections.abc import Callable, Iterator

import filelock

from dn_jax.errors import UserError, shown
from dn_jax.system import folders

# Held by the process that trains the run (of several processes by the first), and by a sweep that carries it out.
RUN, SWEEP = "run.lock", "sweep.lock"
# Ends what a process says that was started second.
AT_WORK = "is at work on this run; wait for it, stop it, or take another folder"
# What a file system says that has no locks.
_WITHOUT = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
# Seconds to try for: another process may be looking who has the lock, or about to write its name down.
_PATIENCE = 0.5


class TakenError(UserError):
  """Another process has the lock; `who` says which."""

  def __init__(self, folder: pathlib.Path, who: str):
    super().__init__(f"--out {shown(folder)}: {who} {AT_WORK}")
    self.who = who


@contextlib.contextmanager
def held(folder: pathlib.Path, name: str) -> Iterator[None]:
  """Holds a lock of a run's existing folder; where there are no locks, says so once.

  Raises:
    TakenError: another process has it.
    OSError: the folder cannot be written.
  """
  if folders.is_bucket(folder):
    _say_without("a bucket")
    yield
    return
  folder.stat()  # `filelock` would make it.
  numbers: list[int] = []
  lock = _lock(folder / name, numbers.append)
  try:
    lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 10)
  except filelock.Timeout:
    raise TakenError(folder, _holder(folder / name)) from None
  except OSError as error:
    if error.errno not in _WITHOUT:
      raise
    _say_without("its file system")
    yield
    return
  # A full disk may refuse the name; the lock holds all the same.
  with contextlib.suppress(OSError):
    os.ftruncate(numbers[0], 0)
    os.pwrite(numbers[0], f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      os.ftruncate(numbers[0], 0)
    lock.release()


def holder(folder: pathlib.Path, name: str) -> str | None:
  """The process that has a lock of a run's folder, in words; None where it is free, or there are no locks."""
  path = folder / name
  if folders.is_bucket(folder) or not path.exists():
    return None
  lock = _lock(path)
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    return _holder(path)
  except OSError as error:
    if error.errno in _WITHOUT:
      return None
    raise
  lock.release()
  return None


def _lock(path: pathlib.Path, got: Callable[[int], None] = lambda number: None) -> filelock.FileLock:
  """A lock that refuses a link, and hands its file's descriptor over once it is held."""

  def check(number: int) -> None:
    folders.check_own(number, path)
    got(number)

  return filelock.FileLock(path, thread_local=False, fallback_to_soft=False, on_acquired=check)


def _holder(path: pathlib.Path) -> str:
  """The process whose name is in a lock's file."""
  try:
    host, number = folders.read(path)[:400].decode(errors="replace").split()
  except (OSError, ValueError):
    return "another process"
  return f"process {shown(number)} on {shown(host)}"


@functools.cache
def _say_without(what: str) -> None:
  print(f"{what} has no locks: nothing else may be started on this run's folder meanwhile", file=sys.stderr)
