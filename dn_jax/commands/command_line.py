"""What every command shares: how its flags are read, a mistake as one line, and exit codes. Imports nothing heavy."""

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from dn_jax.errors import UserError
from dn_jax.system import child_processes
from dn_jax.system.signals import Interrupted

if TYPE_CHECKING:
  import rich.console


def main(command: Callable[[], object]) -> None:
  """Runs a command, which reads its own flags.

  A `UserError` is shown as one line, without a traceback, and gives exit code 2, as a flag that does not
  parse does.
  """
  child_processes.hold()
  try:
    command()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except Interrupted as stop:
    print(f"{stop}; the same command goes on from there", file=sys.stderr)
    sys.exit(stop.exit_code)
  except BrokenPipeError:  # Who read the output has gone, as `head` does; what Python still writes goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def console(width: int = 140) -> "rich.console.Console":
  """Prints to standard output: as wide as the terminal, or `width` where it is none."""
  import rich.console

  return rich.console.Console(width=None if sys.stdout.isatty() else width)
