"""A run's progress: a bar, and a line for every epoch; if asked for, a recording of a few commands."""

import datetime
import pathlib

import jax
import rich.console
import rich.progress

from dn_jax.runs.records import EpochRecord

# Commands before the recorded ones: the first compiles, the next may still settle.
_BEFORE = 3
_RECORDED = 5


class ProgressDisplay:
  """A live bar on a terminal, with loss, error, images per second and time left; elsewhere only the lines.

  Args:
    console: shows them.
    epochs: of the whole run.
    images: of one epoch.
    epochs_done: by earlier starts.
  """

  def __init__(self, console: rich.console.Console, epochs: int, images: int, epochs_done: int):
    self._console = console
    self._epochs = epochs
    self._images = images
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
      rich.progress.BarColumn(),
      rich.progress.TaskProgressColumn(),
      rich.progress.TextColumn("{task.fields[state]}"),
      rich.progress.TextColumn("left"),
      rich.progress.TimeRemainingColumn(),
      console=console,
      transient=True,
      disable=not console.is_terminal,
      speed_estimate_period=120,
    )
    self._task = self._bar.add_task(
      "train",
      total=epochs * images,
      completed=epochs_done * images,
      epoch=min(epochs_done + 1, epochs),
      epochs=epochs,
      state="compiling the training step",
    )

  def __enter__(self) -> "ProgressDisplay":
    self._bar.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._bar.stop()

  def progress(self, epoch: int, images: int, loss: float, error: float) -> None:
    """Moves the bar; see `dn_jax.training.loop.Watcher`."""
    speed = self._bar.tasks[0].speed
    self._show(epoch, (epoch - 1) * self._images + images, loss, error, f"{speed:,.0f} pictures/s" if speed else "")

  def _show(self, epoch: int, completed: int, loss: float, error: float, rate: str) -> None:
    state = f"loss {loss:.4f}  error {error:.2%}  {rate}"
    self._bar.update(self._task, completed=completed, epoch=min(epoch, self._epochs), state=state)

  def epoch(self, record: EpochRecord) -> None:
    """Prints an epoch's line."""
    rate = f"{record.images_per_second:,.0f} pictures/s"
    self._show(record.epoch + 1, record.epoch * self._images, record.train_loss, record.train_error, rate)
    valid = "" if record.valid_error is None else f"  valid {record.valid_error:.2%}"
    share = record.waiting_seconds / record.seconds
    waiting = f" (waiting for them {share:.0%})" if record.waiting_seconds else ""
    left = datetime.timedelta(
      seconds=round((self._epochs - record.epoch) * (record.seconds + record.evaluation_seconds))
    )
    self._console.print(
      f"epoch {record.epoch:>{len(str(self._epochs))}}/{self._epochs}  rate {record.learning_rate:<7.3g} "
      f"train loss {record.train_loss:.4f} error {record.train_error:.2%}{valid}  test {record.test_error:.2%}  "
      f"{rate}{waiting}  left {left}",
      highlight=False,
      soft_wrap=True,
    )


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
