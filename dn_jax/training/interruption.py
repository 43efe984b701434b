"""Being asked to stop (Ctrl-C, or a preemption notice) between two steps, not within one."""

import signal
import threading
from types import FrameType


class Interrupted(Exception):
  """The run stopped because a signal asked it to; what it had saved is kept."""

  def __init__(self, number: int):
    super().__init__(f"stopped by {signal.Signals(number).name}")
    self.exit_code = 128 + number


class Interruption:
  """While entered, SIGINT and SIGTERM are noted, not raised; a second one ends the process at once.

  Python raises KeyboardInterrupt wherever it happens to be, and where that is a callback of some library it is
  printed and forgotten.
  """

  def __init__(self) -> None:
    self.signal: int | None = None
    self._before: dict[int, object] = {}

  def __enter__(self) -> "Interruption":
    if threading.current_thread() is threading.main_thread():  # Elsewhere Python allows no handlers.
      for number in (signal.SIGINT, signal.SIGTERM):
        self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *exception: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.signal = number
    for other in self._before:
      signal.signal(other, signal.SIG_DFL)

  def check(self) -> None:
    """Between steps.

    Raises:
      Interrupted: a signal has come.
    """
    if self.signal is not None:
      raise Interrupted(self.signal)
