"""Memory that compiling leaves behind."""

import ctypes
import gc
import sys


def give_back() -> None:
  """Has the C library hand its free memory back to the system; does nothing where that is not glibc.

  To trace and to compile (or to load) the step of a deep network takes hundreds of MiB, which are free afterwards but
  stay with the process, beside what the step itself takes.
  """
  gc.collect()
  if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
    trim(0)
