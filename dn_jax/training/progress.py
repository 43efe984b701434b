"""A run's progress: a bar, and a line for every epoch; if asked for, a recording of a few commands."""

import datetime
import pathlib
from collections.abc import Sequence

import jax
import rich.console
import rich.progress

from dn_jax.runs import rounding
from dn_jax.runs.records import EpochRecord
from dn_jax.training.loop import Plan

# Seconds of compiling from which on they are said.
_SAID_FROM = 1.0
# Commands before the recorded ones: the first ones may still settle.
_BEFORE = 3
_RECORDED = 5


class ProgressDisplay:
  """A live bar on a terminal, with loss, error, images per second and time left; elsewhere only the lines.

  Args:
    console: shows them.
    plan: of the whole run.
    records: of the epochs that earlier starts have done.
  """

  def __init__(self, console: rich.console.Console, plan: Plan, records: Sequence[EpochRecord]):
    self._console = console
    self._plan = plan
    # Of one evaluation; None before the first.
    self._evaluation = records[-1].evaluation_seconds if records else None
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("epoch {task.fields[epoch]}/{task.total}"),
      rich.progress.BarColumn(),
      rich.progress.TaskProgressColumn(),
      rich.progress.TextColumn("{task.fields[state]}"),
      console=console,
      transient=True,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task(
      "train",
      total=plan.epochs,
      completed=len(records),
      epoch=min(len(records) + 1, plan.epochs),
      state="compiling the training step",
    )

  def __enter__(self) -> "ProgressDisplay":
    self._bar.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._bar.stop()

  def compiled(self, what: str, seconds: float) -> None:
    """Prints for how long programs were compiled; see `dn_jax.training.loop.Watcher`."""
    self._bar.update(self._task, state="")
    if seconds >= _SAID_FROM:
      self._console.print(f"compiling: {seconds:.0f} s ({what})", highlight=False)

  def progress(self, epoch: int, images: int, seconds: float, loss: float, error: float) -> None:
    """Moves the bar; see `dn_jax.training.loop.Watcher`."""
    self._show(epoch - 1, images, loss, error, images / seconds)

  def epoch(self, record: EpochRecord) -> None:
    """Prints an epoch's line."""
    self._evaluation, rate = record.evaluation_seconds, record.images_per_second
    self._show(record.epoch, 0, record.train_loss, record.train_error, rate)
    valid = "" if record.valid_error is None else f"  valid {_percent(record.valid_error)}"
    share = record.waiting_seconds / record.seconds
    waiting = f" (waiting for them {share:.0%})" if record.waiting_seconds else ""
    epochs = self._plan.epochs
    self._console.print(
      f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  rate {record.learning_rate:<7.3g} "
      f"train loss {record.train_loss:.4f} error {_percent(record.train_error)}{valid}  "
      f"test {_percent(record.test_error)}  {rate:,.0f} images/s{waiting}  left {self._left(record.epoch, 0, rate)}",
      highlight=False,
      soft_wrap=True,
    )

  def _show(self, epochs: int, images: int, loss: float, error: float, rate: float) -> None:
    """Shows the position after so many whole epochs and images of the next one."""
    self._bar.update(
      self._task,
      completed=epochs + images / self._plan.images_per_epoch,
      epoch=min(epochs + 1, self._plan.epochs),
      state=f"loss {loss:.4f}  error {_percent(error)}  {rate:,.0f} images/s  left {self._left(epochs, images, rate)}",
    )

  def _left(self, epochs: int, images: int, rate: float) -> datetime.timedelta:
    """Time to the end of the run, after so many whole epochs and images of the next one, at images a second."""
    # A training step takes about three forward passes.
    evaluation = self._plan.evaluated_images / (3 * rate) if self._evaluation is None else self._evaluation
    epochs = self._plan.epochs - epochs
    training = (epochs * self._plan.images_per_epoch - images) / rate
    return datetime.timedelta(seconds=round(training + epochs * evaluation))


def _percent(error: float) -> str:
  return f"{rounding.in_words(100 * error)}%"


class Profile:
  """Records the fourth to eighth command to the device.

  The files open in TensorBoard (`tensorboard --logdir FOLDER`, with its profile plugin) and, as
  `perfetto_trace.json.gz`, at ui.perfetto.dev.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._commands = 0
    self._recording = False

  def after_command(self) -> None:
    """Counts a command."""
    self._commands += 1
    if self._commands == _BEFORE:
      jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
      self._recording = True
    elif self._commands == _BEFORE + _RECORDED:
      self.close()

  def close(self) -> None:
    """Stops a recording."""
    if self._recording:
      self._recording = False
      jax.profiler.stop_trace()
