"""Processes that carry a run out, and how they end."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from dn_jax.system import child_processes

# Seconds after which a process hangs, however busy the machine is.
HANGS = 3600
# Between two looks at a run.
LOOK = 0.02
# What XLA says where a busy machine takes minutes to compile.
_ALARM = re.compile(r"E\d{4} .*slow_operation_alarm.*\n|\*{32}\n(\[Compiling .*\n)?")


class Mistake(Exception):
  """A run did what it must not; the words say what."""


class Started:
  """The processes of one start, each with what it prints in files.

  Args:
    commands: the words after Python of each process.
    logs: files without ending, one for each process.
    before: words in front of each command.
  """

  def __init__(self, commands: Sequence[Sequence[str]], logs: Sequence[pathlib.Path], before: Sequence[str] = ()):
    self._logs = logs
    environment = child_processes.environment() | {"COLUMNS": "500"}  # So that no line is broken.
    self.processes = []
    for command, log in zip(commands, logs, strict=True):
      with log.with_suffix(".out").open("w") as out, log.with_suffix(".err").open("w") as err:
        words = [*before, sys.executable, *command]
        self.processes.append(
          subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
        )

  def said(self, process: int = 0) -> str:
    """Standard output of a process so far."""
    return self._logs[process].with_suffix(".out").read_text(errors="replace")

  def mistakes(self, process: int = 0) -> str:
    """Standard error of a process so far."""
    return self._logs[process].with_suffix(".err").read_text(errors="replace")

  def goes_on(self) -> bool:
    return all(process.poll() is None for process in self.processes)

  @contextlib.contextmanager
  def frozen(self) -> Iterator[None]:
    """Stops the only process meanwhile, so that it does not end before its fault."""
    (process,) = self.processes
    process.send_signal(signal.SIGSTOP)
    try:
      yield
    finally:
      process.send_signal(signal.SIGCONT)

  def kill(self) -> None:
    for process in self.processes:
      process.kill()
      process.wait()

  def end(self, *allowed: int) -> list[int]:
    """Waits for the end of all processes; returns their exit codes.

    Raises:
      Mistake: a process hangs, ends with another code than is allowed, or says more than a line of its mistake.
    """
    stop = time.monotonic() + HANGS
    try:
      codes = [process.wait(max(0.1, stop - time.monotonic())) for process in self.processes]
    except subprocess.TimeoutExpired:
      raise Mistake(f"did not end within {HANGS} s") from None
    finally:
      self.kill()
    for number, code in enumerate(codes):
      check_words(code, self.said(number), self.mistakes(number), allowed, alone=len(codes) == 1)
    return codes


def check_words(code: int, said: str, mistakes: str, allowed: Sequence[int], *, alone: bool = True) -> None:
  """Raises `Mistake` for an end as no process may end.

  Args:
    code: its exit code.
    said: its standard output.
    mistakes: its standard error.
    allowed: exit codes.
    alone: whether JAX has no words of its own about other processes.
  """
  lines = [line for line in _ALARM.sub("", mistakes).splitlines() if line]
  last = (lines or said.strip().splitlines() or [""])[-1]
  if code not in allowed:
    raise Mistake(f"exit code {code}: {last!r}")
  if "Traceback" in said + mistakes:
    raise Mistake(f"exit code {code} after a traceback: {last!r}")
  if code > 0 and not lines:
    raise Mistake(f"exit code {code} without a word")
  if code == 2 and (not last.startswith("error: ") or (alone and len(lines) > 1)):
    raise Mistake(f"exit code 2 after {len(lines)} lines: {last!r}")


def asked_to_end(process: subprocess.Popen, number: signal.Signals) -> None:
  """Sends a signal to a process, perhaps one that has just ended."""
  with contextlib.suppress(ProcessLookupError):
    os.kill(process.pid, number)
