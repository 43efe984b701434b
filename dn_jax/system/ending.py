"""Ends a process that has said its last word, though a library's threads go on."""

import contextlib
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
    begun.wait()
    until = time.monotonic() + PATIENCE
    while others():
      if time.monotonic() > until:
        for stream in (sys.stdout, sys.stderr):
          with contextlib.suppress(OSError, ValueError, AttributeError):  # Its reader may have gone.
            stream.flush()
        os._exit(code)
      time.sleep(0.05)

  if others():
    # Called before Python waits for the workers of pools, and so before the main thread counts as ended.
    begun = threading.Event()
    threading._register_atexit(begun.set)
    threading.Thread(target=end, daemon=True).start()
