"""What a person watches while a sweep runs: a line a run, a bar over all, the time left."""

import time
from collections.abc import Mapping

import rich.console
import rich.progress

from dn_jax import runs
from dn_jax.collection import Run
from dn_jax.resolve import slug
from dn_jax.sweep.axes import Cell
from dn_jax.sweep.outlook import duration


class Display:
  """A live bar on a terminal, elsewhere the lines alone.

  Args:
    console: where to.
    work: of every run still to do, by key, in any unit: the bar and the time left go by it.
  """

  def __init__(self, console: rich.console.Console, work: Mapping[str, float]):
    self._console = console
    self._work = work
    self._total = len(work)
    self._ended = 0
    self._begin = time.monotonic()
    self._done_before: dict[str, float] = {}
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.completed:.0%}"),
      rich.progress.BarColumn(),
      rich.progress.TextColumn("{task.fields[state]}"),
      console=console,
      transient=True,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task("sweep", total=1.0, state="starting")
    self._parts: dict[str, float] = {}

  def __enter__(self) -> "Display":
    self._bar.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._bar.stop()

  def going(self, cell: Cell, epochs: int) -> None:
    """Tells how many epochs of a run that is under way are done."""
    if cell.key not in self._parts:
      self._done_before[cell.key] = epochs / cell.config.epochs
    self._parts[cell.key] = epochs / cell.config.epochs
    state = f"{self._ended + 1}/{self._total}  {slug(cell.config)}  epoch {epochs}/{cell.config.epochs}"
    self._bar.update(self._task, completed=self._share(), state=state + self._left())

  def ended(self, cell: Cell, run: Run | None, seconds: float) -> None:
    """Prints the line of a run that has ended: its error, or how it failed."""
    self._ended += 1
    self._parts[cell.key] = 1.0
    if run is not None and run.summary:
      result = f"{run.test_error:.2f} % test error"
    elif run is not None and run.failure:
      result = f"failed: {run.failure['error']}"
    else:
      result = "stopped, and saved"
    where = f"  {run.folder}" if run else ""
    self._console.print(
      f"{self._ended:>{len(str(self._total))}}/{self._total}  {slug(cell.config)}  {result}  "
      f"({duration(seconds)}){where}{self._left()}",
      highlight=False,
      soft_wrap=True,
    )

  def _share(self) -> float:
    """Of all work, what is done, by what was known before."""
    total = sum(self._work.values()) or 1.0
    return sum(self._work[key] * part for key, part in self._parts.items()) / total

  def _left(self) -> str:
    """The time left, at the rate so far; nothing before there is a rate."""
    total = sum(self._work.values()) or 1.0
    before = sum(self._work[key] * part for key, part in self._done_before.items()) / total
    here, share = self._share() - before, self._share()
    if here <= 0 or share >= 1:
      return ""
    return f"  left {duration((time.monotonic() - self._begin) * (1 - share) / here)}"


def epochs_done(run: Run | None) -> int:
  """Of a run on disk; 0 where its records cannot be read just now."""
  try:
    return len(runs.read_records(run.folder)) if run else 0
  except runs.RunError:
    return 0
