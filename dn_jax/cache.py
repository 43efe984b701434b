"""What is kept between starts: folders, and compiled programs in one of them."""

import os
import pathlib

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
