"""The progress of a sweep: a line for each run that ends, a bar over all, the time left."""

import pathlib
import time
from collections.abc import Mapping

import rich.console
import rich.progress

from dn_jax.config.resolve import slug
from dn_jax.runs import records
from dn_jax.sweep.cells import Cell
from dn_jax.sweep.forecast import duration
from dn_jax.sweep.process import End, Outcome


class Display:
  """Prints lines, and on a terminal a live bar.

  Args:
    console: prints them.
    work: of every run to do, by key, in any one unit; the bar and the time left follow from it.
  """

  def __init__(self, console: rich.console.Console, work: Mapping[str, float]):
    self._console = console
    self._work = work
    self._total = len(work)
    self._ended: set[str] = set()
    self._begin = time.monotonic()
    # Shares of each run: done before this sweep, and by now.
    self._before: dict[str, float] = {}
    self._done: dict[str, float] = {}
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.completed:.0%}"),
      rich.progress.BarColumn(),
      rich.progress.TextColumn("{task.fields[state]}", markup=False),
      console=console,
      transient=True,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task("sweep", total=1.0, state="starting")

  def __enter__(self) -> "Display":
    self._bar.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._bar.stop()

  def begun(self, cell: Cell, epochs: int) -> None:
    """Notes the epochs of a run that were done before the sweep."""
    self._before[cell.key] = self._done[cell.key] = min(epochs / cell.config.epochs, 1.0)

  def going(self, cell: Cell, epochs: int) -> None:
    """Shows the epochs that a run under way has done."""
    self._done[cell.key] = max(self._done.get(cell.key, 0.0), min(epochs / cell.config.epochs, 1.0))
    state = f"{len(self._ended) + 1}/{self._total}  {slug(cell.config)}  epoch {epochs}/{cell.config.epochs}"
    share = 1.0 - self._to_do() / (sum(self._work.values()) or 1.0)
    self._bar.update(self._task, completed=share, state=state + self._left())

  def taken(self, cell: Cell, folder: pathlib.Path) -> None:
    """Prints that the sweep waits for a run of another."""
    self._print(f"{slug(cell.config)}  another sweep is carrying it out; it is waited for  {folder}")

  def ended(self, cell: Cell, end: End, folder: pathlib.Path, epochs: int) -> None:
    """Prints the line of a run that has ended."""
    self._ended.add(cell.key)
    self.going(cell, cell.config.epochs if end.outcome is Outcome.DONE else epochs)
    if end.outcome is Outcome.FAILED:
      result = f"failed: {end.error}"
    elif end.outcome is Outcome.STOPPED:
      result = f"stopped, {end.error or 'and saved'}"
    else:
      result = _test_error(folder)
    self._print(
      f"{len(self._ended):>{len(str(self._total))}}/{self._total}  {slug(cell.config)}  {result}  "
      f"({duration(end.seconds)})  {folder}{self._left()}"
    )

  def _print(self, line: str) -> None:
    self._console.print(line, highlight=False, markup=False, soft_wrap=True)

  def _to_do(self) -> float:
    """Work left of the runs that have not ended."""
    return sum(work * (1.0 - self._done.get(key, 0.0)) for key, work in self._work.items() if key not in self._ended)

  def _left(self) -> str:
    """The time left at the rate so far; empty at first."""
    here = sum(work * (self._done.get(key, 0.0) - self._before.get(key, 0.0)) for key, work in self._work.items())
    if here <= 0 or not (to_do := self._to_do()):
      return ""
    return f"  left {duration((time.monotonic() - self._begin) * to_do / here)}"


def _test_error(folder: pathlib.Path) -> str:
  try:
    summary = records.read_summary(folder)
  except records.RunError:
    summary = None
  return f"{summary.test_error:.2f} % test error" if summary else "ended without a summary that can be read"
