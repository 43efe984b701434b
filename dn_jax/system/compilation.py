"""What is kept between starts: folders, and compiled programs in one of them."""

import ctypes
import gc
import os
import pathlib
import sys

import jax


def folder(name: str) -> pathlib.Path:
  """`name` under $XDG_CACHE_HOME/dn_jax, or ~/.cache/dn_jax; not created."""
  home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  return home / "dn_jax" / name


def keep_compiled_programs() -> None:
  """Keeps compiled programs between starts: in $JAX_COMPILATION_CACHE_DIR, or ~/.cache/dn_jax/compiled."""
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(folder("compiled")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


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
