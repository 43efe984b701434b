"""Memory that compiling leaves behind."""

import ctypes
import gc
import sys

import jax


def give_back() -> None:
  """Has JAX forget what it traced, and the C library (glibc's) hand its free memory back to the system.

  To trace and to compile (or to load) the step of a deep network takes hundreds of MiB, which are free afterwards but
  stay with the process, beside what the step itself takes. A program that is held stays compiled; a function under
  `jax.jit` is traced anew when it is next called.
  """
  jax.clear_caches()
  gc.collect()
  if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
    trim(0)
