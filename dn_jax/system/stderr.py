"""Drops the lines that libraries of C print on standard error about damaged images: they name no file.

libjpeg and libpng, within OpenCV, cannot be told to be quiet. Redirecting file descriptor 2 around a call would swallow
what other threads print meanwhile. So a small process reads all that is written there, and passes the rest on. It ends
after this process and its children, so that their last words come through, even a crash's.
"""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

# Of the messages in libjpeg's jerror.h that are warnings, and of libpng's.
_BEGINNINGS = (
  *(b"Corrupt JPEG data: ", b"Premature end of JPEG file", b"Invalid SOS parameters for sequential JPEG"),
  *(b"Inconsistent progression sequence for component ", b"Unknown Adobe color transform code "),
  *(b"Warning: unknown JFIF revision number ", b"libpng warning: ", b"libpng error: "),
)
# The process, once it is started.
_started: list[Any] = []


def drop_lines() -> None:
  """Starts the process, at the first call. Python's own standard error does without it.

  It does nothing where standard error was redirected within this process.
  """
  try:
    if _started or sys.stderr.fileno() != 2:
      return
  except (OSError, ValueError, AttributeError):  # No file, a closed one, or none at all.
    return
  import subprocess

  reading, writing = os.pipe()
  own = os.dup(2)
  command = [sys.executable, "-S", "-E", "-s", __file__]
  try:
    # Ctrl-C is not for it.
    _started.append(subprocess.Popen(command, stdin=reading, stdout=own, stderr=own, start_new_session=True))
  except OSError:
    for file in (own, writing):
      os.close(file)
    return
  finally:
    os.close(reading)
  os.dup2(writing, 2)
  os.close(writing)
  was = sys.stderr
  sys.stderr = io.TextIOWrapper(os.fdopen(own, "wb", 0), was.encoding, was.errors, write_through=True)


def passed_on(chunks: Iterable[bytes]) -> Iterator[bytes]:
  """What is left of a text that comes in chunks; the beginning of a line waits only if the line may be dropped."""
  held, within, dropped = b"", False, False
  for chunk in chunks:
    *lines, last = (held + chunk).split(b"\n")
    out = b""
    for line in lines:
      # Two threads' lines and their ends may come as a line and an empty one.
      dropped = not within and (line.startswith(_BEGINNINGS) or (dropped and not line))
      out += b"" if dropped else line + b"\n"
      within = False
    held = b""
    if within or not any(last.startswith(each) or each.startswith(last) for each in _BEGINNINGS):
      out, within = out + last, True
    else:
      held = last
    yield out
  yield b"" if held.startswith(_BEGINNINGS) else held


def _main() -> None:
  for text in passed_on(iter(lambda: os.read(0, 65536), b"")):
    while text:
      text = text[os.write(1, text) :]


if __name__ == "__main__":
  _main()
