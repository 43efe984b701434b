"""Ends a process that has said its last word, though a library's threads go on."""

import os
import sys
import threading
import time

# Seconds that threads have to end by themselves.
PATIENCE = 10.0


def soon(code: int) -> None:
  """Has the process end with an exit code, at most `PATIENCE` seconds after its main thread.

  Orbax's threads wait for the parts of a checkpoint, also for one that the file system refused: for five minutes in one
  case, and Python waits for them.
  """
  main = threading.main_thread()

  def others() -> bool:
    return any(not each.daemon for each in threading.enumerate() if each is not main)

  def end() -> None:
    main.join()
    until = time.monotonic() + PATIENCE
    while others():
      if time.monotonic() > until:
        for stream in (sys.stdout, sys.stderr):
          stream.flush()
        os._exit(code)
      time.sleep(0.05)

  if others():
    threading.Thread(target=end, daemon=True).start()
