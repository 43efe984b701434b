"""What every script shares: flags, one line for a mistake, and the compilation cache."""

import os
import sys
from collections.abc import Callable

import jax

from dn_jax import cache
from dn_jax.configuration import UserError
from dn_jax.training.interruption import Interrupted


def main(command: Callable[[], object]) -> None:
  """Runs a script's command, which reads its own flags.

  A `UserError` is shown as one line, without a traceback, and gives exit code 2, as a flag that does not
  parse does.
  """
  use_compilation_cache()
  try:
    command()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except Interrupted as stop:
    print(f"{stop}; the same command goes on from there", file=sys.stderr)
    sys.exit(stop.exit_code)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def use_compilation_cache() -> None:
  """Keeps compiled programs between starts: in $JAX_COMPILATION_CACHE_DIR, or ~/.cache/dn_jax."""
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(cache.folder("compiled")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
