"""Carries out the missing runs of a sweep: on this machine one after another or a few at once, or on a cluster."""

import collections
import contextlib
import inspect
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from dn_jax.config.resolve import slug
from dn_jax.runs import collection, records
from dn_jax.runs.collection import Collection
from dn_jax.sweep.cells import Cell
from dn_jax.sweep.display import Display
from dn_jax.sweep.lanes import Lane
from dn_jax.sweep.process import LOOK, End, Outcome, Run, advance, begin, write_failure
from dn_jax.system import folders, lock
from dn_jax.system.signals import Interrupted, Interruption

# Seconds between two looks at a run's progress, and at the runs that another process has.
_LOOK = 2.0


class Job(NamedTuple):
  """A run to do, its folder, and the command that trains it."""

  cell: Cell
  folder: pathlib.Path
  command: tuple[str, ...]


class Place(Protocol):
  """Where runs are carried out."""

  def __call__(
    self, jobs: Sequence[Job], time_out: float | None, stop: Callable[[], bool], look: Callable[[Job], None]
  ) -> Iterator[tuple[Job, End]]:
    """Carries jobs out; yields each as it ends, and once if another process has it.

    Args:
      jobs: to do.
      time_out: seconds for each; None: no limit.
      stop: once true, the runs under way save and end, and no more begin.
      look: is called now and then with each job under way.
    """


def missing(cells: Sequence[Cell], there: Collection) -> list[Cell]:
  """The unfinished runs in the sweep's order, but those that failed before come last."""
  found = [(cell, there.of_key(cell.key)) for cell in cells]
  left = [(cell, run) for cell, run in found if not (run and run.summary)]
  return [cell for cell, _ in sorted(left, key=lambda pair: bool(pair[1] and pair[1].failure))]


def refuse_taken(cells: Sequence[Cell], there: Collection) -> None:
  """Refuses a sweep at once if others are at work on each of its missing runs.

  Where it has another run to do, it does that and then waits for theirs (`Here`).

  Raises:
    TakenError: says who.
  """
  folders_of = [run.folder if (run := there.of_key(cell.key)) else None for cell in cells]
  for look in range(2):  # The runs of a sweep that was just killed are about to end.
    time.sleep(_LOOK * look)
    if not folders_of or (who := _holder(folders_of[0])) is None or not all(map(_holder, folders_of)):
      return
  raise lock.TakenError(folders_of[0], who)


def _holder(folder: pathlib.Path | None) -> str | None:
  """The process that trains a run, or the sweep that begins it; None where it is free, or cannot be looked at."""
  try:
    return folder and (lock.holder(folder, lock.RUN) or lock.holder(folder, lock.SWEEP))
  except OSError:  # Who begins the run hears why.
    return None


def jobs_of(cells: Sequence[Cell], there: Collection, train: Sequence[str]) -> list[Job]:
  """Gives every run its command and its folder, and writes its configuration there.

  Args:
    cells: to do.
    there: the collection they belong to.
    train: the words after Python that train a run.

  Raises:
    ConfigurationError: a folder cannot be written.
  """
  jobs = []
  for cell in cells:
    # A cluster's workers start in other directories.
    folder = folders.absolute(collection.place_for(there, cell.config, slug(cell.config)))
    records.claim(folder, cell.config)
    jobs.append(Job(cell, folder, (*train, *cell.flags, "--out", str(folder))))
  return jobs


def sweep(jobs: Sequence[Job], place: Place, time_out: float | None, display: Display) -> list[Job]:
  """Carries the jobs out; returns those that failed.

  Raises:
    Interrupted: SIGINT or SIGTERM came; the runs under way have saved.
  """
  failed, stopped = [], False
  with Interruption() as interruption, display:
    looked: dict[str, float] = {}

    def look(job: Job) -> None:
      if time.monotonic() - looked.get(job.cell.key, 0.0) > _LOOK:
        looked[job.cell.key] = time.monotonic()
        display.going(job.cell, epochs_done(job.folder))

    for job in jobs:
      display.begun(job.cell, epochs_done(job.folder))
    for job, end in place(jobs, time_out, interruption.asked, look):
      if end.outcome is Outcome.TAKEN:
        display.taken(job.cell, end.error, job.folder)
        continue
      display.ended(job.cell, end, job.folder, epochs_done(job.folder))
      if end.outcome is Outcome.FAILED:
        failed.append(job)
        with contextlib.suppress(OSError):
          if not (job.folder / "failure.json").exists():  # Its worker could not write it.
            write_failure(job.folder, end.error, None)
      stopped |= end.outcome is Outcome.STOPPED
    if stopped or interruption.asked():
      raise Interrupted("stopped, and saved")
  return failed


class Here:
  """A `Place`: this machine, a run in each lane; the runs that another process has come last.

  Args:
    lanes: what is different in the environment of each lane's runs.
  """

  def __init__(self, lanes: Sequence[Lane] = ({},)):
    self._lanes = lanes

  def __call__(
    self, jobs: Sequence[Job], time_out: float | None, stop: Callable[[], bool], look: Callable[[Job], None]
  ) -> Iterator[tuple[Job, End]]:
    left, elsewhere, told = collections.deque(jobs), [], set()
    free, under_way = list(self._lanes), list[_UnderWay]()
    stopped, again = False, 0.0

    def stopping() -> bool:
      return stopped or stop()

    try:
      while under_way or ((left or elsewhere) and not stopping()):
        while left and free and not stopping():
          job, lane = left.popleft(), free.pop(0)
          run = begin((sys.executable, *job.command), job.folder, time_out, stopping, lane)
          under_way.append(_UnderWay(job, lane, run))
        before = len(under_way)
        for each in under_way.copy():
          end = advance(each.run)
          if end is None:
            look(each.job)
            continue
          under_way.remove(each)
          free.insert(0, each.lane)
          if end.outcome is Outcome.TAKEN:
            elsewhere.append(each.job)
            again = time.monotonic() + _LOOK
            if each.job.folder in told:
              continue
            told.add(each.job.folder)
          # If nobody here asked it to: the machine may be going away.
          stopped |= end.outcome is Outcome.STOPPED
          yield each.job, end
        if not left and elsewhere and time.monotonic() > again:
          left, elsewhere = collections.deque(elsewhere), []
        elif len(under_way) == before:
          time.sleep(LOOK)
    finally:  # An exception: the runs under way save first. All are asked before one is waited for.
      stopped = True
      for each in under_way:
        if inspect.getgeneratorstate(each.run) == inspect.GEN_SUSPENDED:
          advance(each.run)
      for each in under_way:
        each.run.close()


class _UnderWay(NamedTuple):
  job: Job
  lane: Lane
  run: Run


def epochs_done(folder: pathlib.Path) -> int:
  """Epochs of a run on disk; 0 if its records cannot be read just now."""
  try:
    return len(records.read_records(folder))
  except records.RunError:
    return 0
