"""Caches between starts, of compiled programs above all, and memory freed after compiling."""

import ctypes
import dataclasses
import gc
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax

from dn_jax.system import kept_programs
from dn_jax.system.folders import cache as folder


@dataclasses.dataclass(frozen=True)
class Compilable:
  """A function that runs programs, and what compiles them ahead of its calls, which else do so.

  run:     the function
  compile: takes the arguments of a call, and keeps the program that such a call will run
  """

  run: Callable[..., Any]
  compile: Callable[..., None]

  def __call__(self, *arguments: Any, **options: Any) -> Any:
    return self.run(*arguments, **options)


def ahead(program: Any, *arguments: Any) -> Callable[..., Any]:
  """A function under `jax.jit`, compiled for arguments like these.

  Under --debug-nans the function itself, which finds its program in JAX's memory: JAX takes it apart to look for NaNs.
  """
  compiled = program.lower(*arguments).compile()
  return program if jax.config.jax_debug_nans else compiled


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
