"""Faults of a run's folder while it trains: removed, renamed, its disk full or read-only, another run in it."""

import contextlib
import os
import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator

from torturing.kills import Missed
from torturing.runs import Victim
from torturing.started import Mistake, Started

# Seen by the run, whose process is stopped meanwhile; left when the run has ended, to mend it.
Harm = Callable[[Victim], contextlib.AbstractContextManager[None]]


class LeftOut(Exception):
  """This machine does not allow it; the words say what."""


def meanwhile(victim: Victim, harm: Harm, *allowed: int) -> str:
  """Harms the folder of a run while it trains, and looks how the run ends.

  Args:
    allowed: exit codes. After a 0 the harm did not reach it.
  """
  started = victim.start()
  with contextlib.ExitStack() as stack:
    stack.callback(started.kill)
    if not victim.wait_for_moment(started):
      started.end(0)
      raise Missed
    with started.frozen():
      before = victim.whole()
      if missed := victim.finished():
        pass
      else:
        stack.enter_context(harm(victim))
    codes = started.end(0 if missed else allowed[0], *allowed)
    if missed or 0 in codes:
      raise Missed
  if victim.seen.exists():  # A folder that was removed has nothing left to keep.
    victim.check_kept(before)
  return ""


@contextlib.contextmanager
def deleted(victim: Victim) -> Iterator[None]:
  while victim.seen.exists():
    shutil.rmtree(victim.seen, ignore_errors=True)
  yield
  _check_away(victim)


@contextlib.contextmanager
def renamed(victim: Victim) -> Iterator[None]:
  away = victim.seen.with_name("away")
  victim.seen.rename(away)
  yield
  _check_away(victim)
  away.rename(victim.seen)


def _check_away(victim: Victim) -> None:
  if victim.seen.exists():
    raise Mistake(f"the run made its folder anew: {sorted(path.name for path in victim.seen.iterdir())}")


def second(victim: Victim) -> str:
  """Starts a run that trains a second time, which is refused; the first ends as if nothing had been."""
  started = victim.start()
  try:
    if not victim.wait_for_moment(started):
      started.end(0)
      raise Missed
    with started.frozen():
      if victim.finished():
        raise Missed
      other = victim.start()
      other.end(2)
      _check_refused(other, victim)
    started.end(0)
  finally:
    started.kill()
  return ""


def two_at_once(victim: Victim) -> str:
  """Starts a run twice at the same time: one of both trains, the other is refused or finds it finished."""
  both = [victim.start(), victim.start()]
  try:
    codes = [started.end(0, 2)[0] for started in both]
  finally:
    for started in both:
      started.kill()
  if codes == [2, 2]:
    raise Mistake("both were refused")
  if codes == [0, 0]:
    raise Missed
  return ""


def _check_refused(other: Started, victim: Victim) -> None:
  if "is at work on this run" not in other.mistakes():
    raise Mistake(f"the second was refused by {other.mistakes()!r}")


class _Namespace:
  """A shell that may mount file systems, which it and what enters its namespace see."""

  def __init__(self) -> None:
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh"]
    pipe = subprocess.PIPE
    try:
      self._shell = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
      raise LeftOut("mounting a disk needs unshare, of util-linux") from None
    number = str(self._shell.pid)
    self.enter = ("nsenter", "--target", number, "--user", "--mount", "--preserve-credentials")
    self.root = pathlib.Path("/proc", number, "root")

  def do(self, *words: object) -> None:
    """Runs a command; raises `LeftOut` where it fails."""
    try:
      print(shlex.join(map(str, words)), ">&2; echo $?", file=self._shell.stdin, flush=True)
      code = self._shell.stdout.readline().strip()
    except BrokenPipeError:
      code = ""
    if code != "0":
      raise LeftOut(f"{words[0]} is refused in a user namespace")

  def close(self) -> None:
    self._shell.kill()
    self._shell.communicate()


@contextlib.contextmanager
def _on_disk(victim: Victim) -> Iterator[_Namespace]:
  """Has a run on a disk of its own meanwhile, with what it has written so far."""
  disk = victim.place / "disk"
  disk.mkdir(exist_ok=True)
  here, own = victim.out, _Namespace()
  try:
    own.do("mount", "-t", "tmpfs", "-o", "size=64m", "none", disk)
    if here.exists():
      own.do("cp", "-a", here, disk / "run")
    victim.out, victim.before = disk / "run", own.enter
    victim.seen = pathlib.Path(f"{own.root}{disk}") / "run"
    yield own
    shutil.rmtree(here, ignore_errors=True)
    own.do("cp", "-a", disk / "run", here)
  finally:
    own.close()
    victim.out = victim.seen = here
    victim.before = ()


def on_a_disk(victim: Victim, harm: Callable[[Victim, _Namespace], contextlib.AbstractContextManager[None]]) -> str:
  """Harms the disk of a run while it trains."""
  with _on_disk(victim) as disk:
    return meanwhile(victim, lambda _: harm(victim, disk), 2, 0)


@contextlib.contextmanager
def full(victim: Victim, disk: _Namespace) -> Iterator[None]:
  there = os.statvfs(victim.seen)
  used = (there.f_blocks - there.f_bfree) * there.f_frsize // 1024
  disk.do("mount", "-o", f"remount,size={used + victim.rng.randint(4, 160)}k", victim.out.parent)
  yield
  disk.do("mount", "-o", "remount,size=64m", victim.out.parent)


@contextlib.contextmanager
def without_inodes(victim: Victim, disk: _Namespace) -> Iterator[None]:
  there = os.statvfs(victim.seen)
  most = there.f_files - there.f_ffree + victim.rng.randint(0, 120)
  disk.do("mount", "-o", f"remount,nr_inodes={most}", victim.out.parent)
  yield
  disk.do("mount", "-o", "remount,nr_inodes=100000", victim.out.parent)


@contextlib.contextmanager
def read_only(victim: Victim, disk: _Namespace) -> Iterator[None]:
  """A second mount over the first, since one with open files cannot be remounted."""
  disk.do("mount", "--bind", victim.out, victim.out)
  disk.do("mount", "-o", "remount,bind,ro", victim.out)
  yield
  disk.do("umount", victim.out)
