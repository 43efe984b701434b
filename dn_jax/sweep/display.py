"""The progress of a sweep: a line for each run that ends, a bar over all and one for each under way, the time left."""

import pathlib
import time
from collections.abc import Mapping

import rich.console
import rich.progress

from dn_jax.config.resolve import slug
from dn_jax.errors import shown
from dn_jax.runs import records, rounding
from dn_jax.sweep.cells import Cell
from dn_jax.sweep.forecast import duration, side_by_side
from dn_jax.sweep.process import End, Outcome


class Display:
  """Prints lines, and on a terminal a live bar; where several runs go at once, also a bar for each under way.

  Args:
    console: prints them.
    work: of every run to do, by key, in any one unit; the bar and the time left follow from it.
    at_once: runs that go at once.
  """

  def __init__(self, console: rich.console.Console, work: Mapping[str, float], at_once: int = 1):
    self._console = console
    self._work = work
    self._at_once = max(1, min(at_once, len(work)))
    self._bars: dict[str, rich.progress.TaskID] = {}
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
    state = f"{slug(cell.config)}  epoch {epochs}/{cell.config.epochs}"
    if self._at_once == 1:
      self._show_all(f"{len(self._ended) + 1}/{self._total}  {state}")
      return
    if cell.key not in self._bars:
      self._bars[cell.key] = self._bar.add_task(cell.key, total=1.0, state=state)
    self._bar.update(self._bars[cell.key], completed=self._done[cell.key], state=state)
    self._show_all(f"{len(self._ended)}/{self._total} ended")

  def _show_all(self, state: str) -> None:
    share = 1.0 - sum(self._to_do()) / (sum(self._work.values()) or 1.0)
    self._bar.update(self._task, completed=share, state=state + self._left())

  def taken(self, cell: Cell, who: str, folder: pathlib.Path) -> None:
    """Prints that the sweep waits for a run that another process is at work on."""
    self._print(f"{slug(cell.config)}  {who} is at work on it; it is waited for  {folder}")

  def ended(self, cell: Cell, end: End, folder: pathlib.Path, epochs: int) -> None:
    """Prints the line of a run that has ended."""
    self._ended.add(cell.key)
    self.going(cell, cell.config.epochs if end.outcome is Outcome.DONE else epochs)
    if cell.key in self._bars:
      self._bar.remove_task(self._bars.pop(cell.key))
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
    self._console.print(shown(line), highlight=False, markup=False, soft_wrap=True)

  def _to_do(self) -> list[float]:
    """Work left of each run that has not ended, those that are furthest first."""
    left = {key: 1.0 - self._done.get(key, 0.0) for key in self._work if key not in self._ended}
    return [self._work[key] * left[key] for key in sorted(left, key=left.__getitem__)]

  def _left(self) -> str:
    """The time left at the rate so far; empty at first."""
    here = sum(work * (self._done.get(key, 0.0) - self._before.get(key, 0.0)) for key, work in self._work.items())
    if here <= 0 or not sum(to_do := self._to_do()):
      return ""
    a_unit = (time.monotonic() - self._begin) * self._at_once / here
    return f"  left {duration(a_unit * side_by_side(to_do, self._at_once))}"


def _test_error(folder: pathlib.Path) -> str:
  try:
    summary = records.read_summary(folder)
  except records.RunError:
    summary = None
  if summary is None:
    return "ended without a summary that can be read"
  return f"{rounding.in_words(summary.test_error_percent)} % test error"
