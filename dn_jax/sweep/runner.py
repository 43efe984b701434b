"""A sweep carried out: the runs that are missing, one after another here or many at once on a cluster."""

import collections
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
from dn_jax.sweep.process import End, Outcome, carry_out, write_failure
from dn_jax.system import folders
from dn_jax.system.signals import Interrupted, Interruption

# Seconds between two looks at how far a run is.
_LOOK = 2.0


class Job(NamedTuple):
  """A run to do: which, where, and the command that does it."""

  cell: Cell
  folder: pathlib.Path
  command: tuple[str, ...]


class Place(Protocol):
  """Where runs are carried out."""

  def __call__(
    self, jobs: Sequence[Job], time_out: float | None, stop: Callable[[], bool], look: Callable[[Job], None]
  ) -> Iterator[tuple[Job, End]]:
    """Carries jobs out, giving each as it ends, and once where another sweep has it; `look` is called now and then.

    Once `stop()` is true, what is under way saves and ends, and nothing more is begun.
    """


def missing(cells: Sequence[Cell], there: Collection) -> list[Cell]:
  """The runs that are not finished, in the sweep's order; those that failed before come last."""
  found = {cell.key: there.of_key(cell.key) for cell in cells}
  left = [cell for cell in cells if not (found[cell.key] and found[cell.key].summary)]
  return sorted(left, key=lambda cell: bool(found[cell.key] and found[cell.key].failure))


def jobs_of(cells: Sequence[Cell], there: Collection, train: Sequence[str]) -> list[Job]:
  """Gives every run its folder, where its configuration is written down, and its command.

  Args:
    cells: to do.
    there: the collection they belong to.
    train: words after Python that train a run, such as `python -m dn_jax train`'s.

  Raises:
    ConfigurationError: a folder cannot be written.
  """
  jobs = []
  for cell in cells:
    # A cluster's workers are started in other directories.
    folder = folders.absolute(collection.place_for(there, cell.config, slug(cell.config)))
    records.claim(folder, cell.config)
    jobs.append(Job(cell, folder, (*train, *cell.flags, "--out", str(folder))))
  return jobs


def sweep(jobs: Sequence[Job], place: Place, time_out: float | None, display: Display) -> list[Job]:
  """Carries the jobs out; returns those that failed.

  Raises:
    Interrupted: SIGINT or SIGTERM came; what was under way has saved.
  """
  failed, stopped, unsaved = [], False, False
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
        display.taken(job.cell, job.folder)
        continue
      display.ended(job.cell, end, job.folder, epochs_done(job.folder))
      if end.outcome is Outcome.FAILED:
        failed.append(job)
        if not (job.folder / "failure.json").exists():  # Its worker could not.
          write_failure(job.folder, end.error, None)
      stopped |= end.outcome is Outcome.STOPPED
      unsaved |= end.outcome is Outcome.STOPPED and bool(end.error)
    if stopped or interruption.asked():
      raise Interrupted("stopped" if unsaved else "stopped, and saved")
  return failed


def here(
  jobs: Sequence[Job], time_out: float | None, stop: Callable[[], bool], look: Callable[[Job], None]
) -> Iterator[tuple[Job, End]]:
  """A `Place`: this machine, one run after another; those that another sweep has come last."""
  left, told, in_vain = collections.deque(jobs), set(), 0
  while left and not stop():
    job = left.popleft()

    def stop_or_look(job: Job = job) -> bool:
      look(job)
      return stop()

    end = carry_out((sys.executable, *job.command), job.folder, time_out, stop_or_look)
    if end.outcome is Outcome.TAKEN:
      left.append(job)
      if job.folder not in told:
        told.add(job.folder)
        yield job, end
      in_vain += 1
      if in_vain >= len(left):  # There is nothing else to do.
        time.sleep(_LOOK)
      continue
    in_vain = 0
    yield job, end
    if end.outcome is Outcome.STOPPED:  # By somebody: the machine may be going away.
      return


def epochs_done(folder: pathlib.Path) -> int:
  """Of a run on disk; 0 where its records cannot be read just now."""
  try:
    return len(records.read_records(folder))
  except records.RunError:
    return 0
