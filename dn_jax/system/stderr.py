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

  reading, writing = _pipe()
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


def _pipe() -> tuple[int, int]:
  """Linux keeps apart what is written at once, up to 4 KiB; elsewhere the end of another's line may get lost."""
  try:
    return os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
  except (AttributeError, OSError):
    return os.pipe()


def passed_on(writes: Iterable[bytes]) -> Iterator[bytes]:
  """What is left of what was written, write by write.

  libjpeg writes a line at once. libpng writes its text, then the end of its line; other threads write in between.
  """
  ends = 0
  for text in writes:
    if ends and text == b"\n":
      ends -= 1
      yield b""
      continue
    lines = text.splitlines(keepends=True)
    dropped = [line for line in lines if line.startswith(_BEGINNINGS)]
    ends += sum(not line.endswith(b"\n") for line in dropped)
    yield b"".join(line for line in lines if line not in dropped)


def _main() -> None:
  for text in passed_on(iter(lambda: os.read(0, 65536), b"")):
    while text:
      text = text[os.write(1, text) :]


if __name__ == "__main__":
  _main()
