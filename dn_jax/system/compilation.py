"""Caches between starts, of compiled programs above all, and memory freed after compiling."""

import ctypes
import gc
import os
import pathlib
import sys

import jax

from dn_jax.system import kept_programs
from dn_jax.system.folders import cache as folder


def keep_compiled_programs() -> None:
  """Keeps compiled programs between starts: in $JAX_COMPILATION_CACHE_DIR, or ~/.cache/dn_jax/compiled.

  Those of training steps are kept once more, to be found without tracing, in its folder `steps`, unless it is a bucket.
  """
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(folder("compiled")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  where = jax.config.jax_compilation_cache_dir
  here = jax.config.jax_enable_compilation_cache and "://" not in where
  kept_programs.keep_in(pathlib.Path(where) / "steps" if here else None)


def give_back() -> None:
  """Clears JAX's traces, and has glibc return free memory to the system.

  Tracing and compiling (or loading) the step of a deep network takes hundreds of MiB, which the process would keep.
  Compiled programs that are referenced stay; a function under `jax.jit` is traced again at its next call.
  """
  jax.clear_caches()
  gc.collect()
  if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
    trim(0)
