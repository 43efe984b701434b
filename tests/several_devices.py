"""A process with eight virtual devices, which tests send their cases and commands to: one start, and shared programs.

How many devices a process has is settled when it starts, and everything else is tested with one.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

COUNT = 8
_HERE = pathlib.Path(__file__).parent


def environment(count: int) -> dict[str, str]:
  """Of a process that has so many."""
  return os.environ | {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
    "PYTHONPATH": os.pathsep.join([str(_HERE.parent), str(_HERE)]),
  }


class Process:
  """The process, started when it is first asked for something."""

  def __init__(self) -> None:
    self._process: subprocess.Popen | None = None

  def case(self, name: str, *arguments: object) -> Any:
    """What a function of distributed_cases.py returns, as JSON has it."""
    return self._ask(name, *arguments)

  def call(self, *command: object) -> subprocess.CompletedProcess:
    """`conftest.call` there."""
    return subprocess.CompletedProcess(command, *self._ask("call", *map(str, command)))

  def __enter__(self) -> "Process":
    return self

  def __exit__(self, *exception: object) -> None:
    if self._process:
      self._process.communicate()

  def _ask(self, *question: object) -> Any:
    if self._process is None:
      self._process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(COUNT)
      )
    self._process.stdin.write(json.dumps(question) + "\n")
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    assert line, "the process with eight devices has ended"
    kind, answer = json.loads(line)
    assert kind == "answer", answer
    return answer


def serve() -> None:
  """Answers questions, a line each, until there are no more."""
  import traceback

  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # What is printed by accident is no answer.

  import conftest
  import distributed_cases

  for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
      if name == "call":
        done = conftest.call(*arguments)
        answer = "answer", (done.returncode, done.stdout, done.stderr)
      else:
        answer = "answer", getattr(distributed_cases, name)(*arguments)
    except Exception:
      answer = "failure", traceback.format_exc()
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
  serve()
