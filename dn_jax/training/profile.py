"""A profile of a few commands to the device, once they are compiled."""

import pathlib

import jax

# Commands before it: the first compiles, the next may still settle.
_BEFORE = 3
_COMMANDS = 5


class Profile:
  """Counts commands and records those from the fourth to the eighth.

  What it writes opens in TensorBoard (`tensorboard --logdir FOLDER`, with its profile plugin) and, as
  `perfetto_trace.json.gz`, at ui.perfetto.dev.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._commands = 0
    self._recording = False

  def after_command(self) -> None:
    """To be called after each command to the device."""
    self._commands += 1
    if self._commands == _BEFORE:
      jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
      self._recording = True
    elif self._commands == _BEFORE + _COMMANDS:
      self.close()

  def close(self) -> None:
    """Ends a recording that is under way."""
    if self._recording:
      self._recording = False
      jax.profiler.stop_trace()
