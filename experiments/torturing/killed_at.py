"""Runs a script that kills itself before it does something to a file for the nth time.

  python killed_at.py EVENT WORDS N SCRIPT FLAGS

EVENT: one of Python's audit events, such as os.rename (https://docs.python.org/3/library/audit_events.html); WORDS: in
the name of the file or folder, or of the new name.
"""

import os
import runpy
import signal
import sys
from typing import Any


def main() -> None:
  event, words, count, script, *flags = sys.argv[1:]
  left = int(count)

  def kill(name: str, arguments: tuple[Any, ...]) -> None:
    nonlocal left
    if name == event and any(isinstance(each, str | os.PathLike) and words in os.fspath(each) for each in arguments):
      left -= 1
      if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(kill)
  sys.argv = [script, *flags]
  sys.path[0] = os.path.dirname(script)
  runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
  main()
