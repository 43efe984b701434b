"""A program that answers in lines of JSON, and may fail, hang or be killed."""

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from dn_jax.system import child_processes

# Seconds for a program to end by itself once nothing more is asked of it, so that it gives its device back in order.
_LEAVE = 10.0
# Characters of an error that a record keeps.
_SHOWN = 300


class PartFailed(Exception):
  """A part that began and failed; one line says why."""


class CutOff(PartFailed):
  """Its time was over."""


class Program:
  """A program in a process group of its own. It may end with this process, see `dn_jax.system.child_processes`.

  As a context it is ended, with all that it started.

  began: when it was started, of `time.monotonic`
  """

  def __init__(self, command: list[str], log: pathlib.Path, seconds: float, environment: Mapping[str, str]):
    """Starts it.

    Args:
      command: the program and its arguments.
      log: file for its standard error.
      seconds: that it has; an answer that comes later is not waited for.
      environment: beside this process's.

    Raises:
      PartFailed: it cannot be started.
    """
    self.began = time.monotonic()
    self._log, self._until, self._pending = log, self.began + seconds, b""
    with log.open("w") as errors:
      try:
        self._process = subprocess.Popen(
          command,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=errors,
          env={**child_processes.environment(), **environment},
          start_new_session=True,
        )
      except OSError as error:
        raise PartFailed(f"{command[0]}: {error.strerror}") from None

  def __enter__(self) -> "Program":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    if kind is None:
      with contextlib.suppress(subprocess.TimeoutExpired):
        self._process.wait(_LEAVE)
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    self._process.stdout.close()

  def answers(self) -> Iterator[dict[str, Any]]:
    """Its answers, until it ends well.

    Raises:
      PartFailed: it ended otherwise, or its time is over.
    """
    while True:
      while b"\n" not in self._pending:
        left = self._until - time.monotonic()
        if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
          raise CutOff(f"its time was over, after {time.monotonic() - self.began:.0f} s")
        piece = os.read(self._process.stdout.fileno(), 65536)
        if not piece and self._process.wait() == 0:
          return
        if not piece:
          raise PartFailed(self._why())
        self._pending += piece
      line, self._pending = self._pending.split(b"\n", 1)
      yield json.loads(line)

  def answer(self) -> dict[str, Any]:
    """Its next answer.

    Raises:
      PartFailed: it has none.
    """
    for answer in self.answers():
      return answer
    raise PartFailed("it ended without an answer")

  def ask(self, question: object) -> dict[str, Any]:
    """Sends a line, and returns the answer; raises as `answer` does."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(f"{question}\n".encode())
      self._process.stdin.flush()
    return self.answer()

  def _why(self) -> str:
    code = self._process.returncode
    if code < 0:
      return f"killed by {signal.Signals(-code).name}"
    return last_error(self._log.read_text(errors="replace")) or f"exit code {code}"


def last_error(text: str) -> str:
  """The line of a log that names the last exception, or else its last line; shortened."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
  line = (named or lines or [""])[-1]
  return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
