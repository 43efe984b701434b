"""Being asked to stop (Ctrl-C, or a preemption notice): between two steps, with what was done saved."""

import os
import signal
import threading
from types import FrameType

import jax

# "Try again": the run is saved, and the same command goes on.
EXIT_CODE = 75


class Interrupted(Exception):
  """The run stopped because a signal asked it to; all it had done is saved."""

  exit_code = EXIT_CODE


class Interruption:
  """While entered, SIGINT and SIGTERM are noted, not raised; a second one ends the process at once.

  Python raises KeyboardInterrupt wherever it happens to be, and where that is a callback of some library it is
  printed and forgotten.

  Of several processes all stop at the same step: JAX's preemption service catches a SIGTERM of any of them and
  agrees on the step. It takes SIGTERM over, and a Python handler set over it would silence it; so a SIGINT is
  passed on to it as a SIGTERM, and a second SIGTERM ends a process only once they have agreed.
  """

  def __init__(self) -> None:
    self._asked = False
    self._polls = 0
    self._before: dict[int, object] = {}
    self._several = jax.process_count() > 1

  def __enter__(self) -> "Interruption":
    if threading.current_thread() is threading.main_thread():  # Elsewhere Python allows no handlers.
      for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
        self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *exception: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: FrameType | None) -> None:
    for other in self._before:
      signal.signal(other, signal.SIG_DFL)
    if self._several:
      os.kill(os.getpid(), signal.SIGTERM)
    else:
      self._asked = True

  def asked(self) -> bool:
    """Whether to stop here. Of several processes each asks equally often, and all get True at the same time."""
    if self._several and not self._asked:
      from jax.experimental import multihost_utils

      self._polls += 1
      self._asked = multihost_utils.reached_preemption_sync_point(self._polls)
      if self._asked:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return self._asked
