"""A process that ends with the one that started it, however that ends.

A run whose sweep (or whose cluster's worker) was killed must not go on writing: the next start takes its folder over.
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
  """For a process that this one starts and that is to end with it."""
  return os.environ | {_VARIABLE: str(os.getpid())}


def hold() -> None:
  """In that process: ties it to its parent."""
  if parent := os.environ.pop(_VARIABLE, None):
    tie(int(parent))


def tie(parent: int) -> None:
  """Has the kernel kill this process when its parent, of that number, ends. Linux only; elsewhere it does nothing."""
  if sys.platform != "linux":
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # It ended before.
    os.kill(os.getpid(), signal.SIGKILL)


def follow(parent: int, every: float = 1.0) -> None:
  """Ends this process soon after its parent, of that number, by looking every so many seconds.

  For a process that a thread started which may end before either: to the kernel the parent of `tie` is that thread.
  """

  def look() -> None:
    while os.getppid() == parent:
      time.sleep(every)
    os.kill(os.getpid(), signal.SIGKILL)

  threading.Thread(target=look, daemon=True).start()
