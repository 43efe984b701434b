"""Ends a process when its parent ends, even if that is killed.

A run whose sweep or cluster worker was killed must stop writing, since the next start takes over its folder.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

_VARIABLE = "DN_JAX_TETHERED_TO"
_PR_SET_PDEATHSIG = 1


def environment() -> Mapping[str, str]:
  """The environment of a child that calls `hold`, to end with this process."""
  return os.environ | {_VARIABLE: str(os.getpid())}


def hold() -> None:
  """Ties this process to a parent that started it with `environment`."""
  if parent := os.environ.pop(_VARIABLE, None):
    tie(int(parent))


def tie(parent: int) -> None:
  """Has the kernel kill this process when its parent (a process id) ends. Linux only; elsewhere it does nothing."""
  if sys.platform != "linux":
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # It ended before.
    os.kill(os.getpid(), signal.SIGKILL)


def follow(parent: int, every: float = 1.0) -> None:
  """Ends this process soon after its parent (a process id), by polling every so many seconds.

  For a process started by a thread that may end earlier: for the kernel, `tie`'s parent is that thread.
  """

  def look() -> None:
    while os.getppid() == parent:
      time.sleep(every)
    os.kill(os.getpid(), signal.SIGKILL)

  threading.Thread(target=look, daemon=True).start()
