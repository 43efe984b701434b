"""Downloads a file whose MD5 sum is known; goes on where an earlier download was cut off."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import pathlib
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import IO

from dn_jax.errors import UserError
from dn_jax.system import folders

# Seconds without a byte after which a connection counts as broken, and before the next.
_PATIENCE, _PAUSE = 60.0, 1.0
# Connections that may break.
_ATTEMPTS = 5
_BLOCK = 2**18

# Takes the bytes that are there, and how many they will be where the server says so.
Progress = Callable[[int, int | None], None]


def download(address: str, path: pathlib.Path, md5: str, progress: Progress = lambda *_: None) -> None:
  """Downloads a file, and keeps it if its sum is right.

  Until it is whole it is PATH.part. Where a connection breaks, a new one asks for the rest; a server that does not know
  such requests sends all of it again.

  Args:
    address: http:// or https://.
    path: of the file; its folder is made.
    md5: its sum, in hexadecimal digits.
    progress: called after each block.

  Raises:
    UserError: no such server or file, connections that keep breaking (what came stays in PATH.part), another sum (what
      came is deleted), or another process that downloads it.
    OSError: it cannot be written.
  """
  part = path.with_name(path.name + ".part")
  for _ in range(_ATTEMPTS):
    try:
      broken = _fetch(address, part, progress)
    except urllib.error.HTTPError as error:
      broken = f"the server answers {error.code} {error.reason}"
      break
    except urllib.error.URLError as error:
      broken = str(error.reason)
      break
    if not broken:
      break
    time.sleep(_PAUSE)
  if broken:
    kept = f"; what came is in {part}, and the same command goes on from there" if part.is_file() else ""
    raise UserError(f"{address}: cannot be downloaded ({broken}){kept}")
  with part.open("rb") as file:
    found = hashlib.file_digest(file, "md5").hexdigest()
  if found != md5:
    part.unlink()
    raise UserError(f"{address}: what came has the MD5 sum {found}, and its maker's is {md5}; it was deleted")
  part.rename(path)


def _fetch(address: str, part: pathlib.Path, progress: Progress) -> str:
  """Fetches what is missing of a file over one connection; returns how that broke, or nothing where all is there.

  Raises:
    URLError, HTTPError: no server, or it has nothing there.
  """
  there = part.stat().st_size if part.is_file() else 0
  request = urllib.request.Request(address, headers={"Range": f"bytes={there}-"} if there else {})
  try:
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer, _alone(part) as file:
      first, size = _span(answer)
      if first > 0 and first != file.seek(0, os.SEEK_END):
        return "another part came than was asked for"
      file.truncate(first)
      while block := answer.read(_BLOCK):
        file.write(block)
        first += len(block)
        progress(first, size)
    return f"{first:,} of {size:,} bytes came" if size is not None and first < size else ""
  except urllib.error.HTTPError as error:
    if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not there:
      raise
    if error.headers.get("Content-Range") != f"bytes */{there}":
      part.unlink()  # It is longer than the file, so it is of another.
      return "less is there than had come"
    return ""
  except (http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
    return str(error) or type(error).__name__


def _span(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
  """The place in the file of the answer's first byte, and the file's size, if known."""
  if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if found is None:
      raise http.client.HTTPException("the server does not say which part it sends")
    return int(found[1]), None if found[2] == "*" else int(found[2])
  length = answer.headers.get("Content-Length", "")
  return 0, int(length) if length.isdecimal() else None


@contextlib.contextmanager
def _alone(part: pathlib.Path) -> Iterator[IO[bytes]]:
  """Opens a file that no other process writes to at the same time.

  Raises:
    UserError: another does.
  """
  part.parent.mkdir(parents=True, exist_ok=True)
  with folders.append_to(part) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"{part}: another process downloads it") from None
    except OSError:  # A file system without locks.
      pass
    yield file
