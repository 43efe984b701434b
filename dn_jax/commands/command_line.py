"""What every command shares: reading its flags, one line for a mistake, exit codes. Imports nothing heavy."""

import codecs
import io
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dn_jax.commands.flags import parse
from dn_jax.errors import ConfigurationError, UserError, in_a_line, reason, shown, shown_lines
from dn_jax.runs import rounding
from dn_jax.system import child_processes, ending, traces
from dn_jax.system.signals import Interrupted

if TYPE_CHECKING:
  import rich.console

  from dn_jax.inference.evaluate import Measured
  from dn_jax.runs.collection import Collection
  from dn_jax.runs.contents import ClassError

# What the name of a figure's file may end in.
FIGURES = (".png", ".svg", ".pdf")


def _escaped(error: UnicodeError) -> tuple[str, int]:
  """What a stream's encoding lacks, as escapes: most of all a name's bytes that are not UTF-8."""
  if not isinstance(error, UnicodeEncodeError):
    raise error
  lacking = error.object[error.start : error.end]
  return "".join(shown(each) if "\udc80" <= each <= "\udcff" else ascii(each)[1:-1] for each in lacking), error.end


codecs.register_error("shown", _escaped)


def main(command: Callable[[], object]) -> None:
  """Runs a command that reads its own flags, but for `--debug`.

  A `UserError`, and a refusal by the file system, is printed as one line and gives exit code 2; under `--debug` its
  trace comes before.
  """
  child_processes.hold()
  if traces.FLAG in sys.argv:
    sys.argv = [word for word in sys.argv if word != traces.FLAG]
    traces.ask()
  traces.hush()
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="shown")
  try:
    command()
  except Interrupted as stop:
    print(f"{stop}; the same command goes on from there", file=sys.stderr)
    sys.exit(stop.exit_code)
  except BrokenPipeError:  # The reader has gone, as `head` does; the rest of the output goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
  except (UserError, OSError) as error:
    if (line := in_a_line(error)) is None:
      raise
    if traces.asked():
      traces.show(error)
    print(f"error: {shown_lines(line)}", file=sys.stderr)
    ending.soon(2)
    sys.exit(2)


def program(command: Any, description: str | None) -> Callable[[], None]:
  """A `main` that reads the flags of `sys.argv` for a command, see `dn_jax.commands.flags.parse`, and runs it."""
  return lambda: main(lambda: parse(command, description))


def check_file(flag: str, path: pathlib.Path | None) -> None:
  """Refuses a file that could not be written, before the work begins.

  Raises:
    ConfigurationError: the path is a folder, or in no folder.
  """
  if path and (path.is_dir() or not path.parent.is_dir()):
    raise ConfigurationError(flag, path, "is no file in a folder that exists")


def check_figure(flag: str, path: pathlib.Path | None) -> None:
  """Refuses a figure's file that could not be written, before anything is imported, measured or drawn.

  Raises:
    ConfigurationError: its name ends in none of `FIGURES`, or it is a folder, or in none that can be written.
  """
  if path is None:
    return
  if path.suffix not in FIGURES:
    raise ConfigurationError(flag, path, f"must end in {', '.join(FIGURES)}")
  folder = path.absolute().parent
  if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
    raise ConfigurationError(flag, path, "is no file in a folder that can be written")


def check_confusion(path: pathlib.Path | None) -> None:
  """Refuses files of a confusion matrix that could not be written, before the work begins."""
  if path:
    from dn_jax.report import confusion

    for file in confusion.files(path):
      check_file("confusion", file)


def write_confusion(path: pathlib.Path, found: "Measured", title: str) -> None:
  """Writes and names the files of a measured network's confusion matrix.

  Raises:
    ConfigurationError: one cannot be written.
  """
  from dn_jax.report import confusion

  try:
    error = f"{rounding.in_words(found.error)} % of {found.pictures:,} wrong"
    confusion.write(path, found.confusion, found.classes, f"{title}: {error}")
  except OSError as error:
    raise ConfigurationError("confusion", path, f"cannot be written ({reason(error)})") from None
  for file in confusion.files(path):
    print(shown(file))


def class_lines(errors: "Sequence[ClassError]") -> list[str]:
  """A line for the error of each class; none where there are no classes."""
  names = [shown(each.name) for each in errors]
  width = max(map(len, names), default=0)
  lines = [
    f"  {name:{width}}  " + ("no image" if each.error is None else f"{rounding.in_words(each.error):>6} %")
    for name, each in zip(names, errors, strict=True)
  ]
  return ["error by class:", *lines] if lines else []


def runs_in(folder: pathlib.Path) -> "Collection":
  """Reads a folder of runs, or one run's, and prints a line for everything else in it.

  Raises:
    UserError: it is no folder, or holds no run that can be read.
  """
  from dn_jax.runs import collection

  if not folder.is_dir():
    raise UserError(f"{folder}: is not a folder")
  found = collection.read_one(folder) if (folder / "config.json").exists() else collection.read(folder)
  for line in found.skipped:
    print(f"skipped: {shown(line)}", file=sys.stderr)
  if not found.runs:
    raise UserError(f"{folder}: holds no run")
  return found


def console(width: int = 140) -> "rich.console.Console":
  """Prints to standard output: as wide as the terminal; `width` columns where there is no terminal."""
  import rich.console

  return rich.console.Console(width=None if sys.stdout.isatty() else width)
