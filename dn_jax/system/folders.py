"""Folders of this machine or of a bucket (gs://), and the operations that differ between them.

A bucket has objects and no folders: an object is written whole or not at all, and copied rather than renamed. It has
no locks either.
"""

import errno
import functools
import importlib.util
import logging
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import IO

from dn_jax.errors import ConfigurationError

_BUCKET = "gs"
# How `opened` refuses what is no file.
NO_FILE = (errno.EISDIR, errno.ELOOP)
# Ends the names of files that are not whole yet.
TEMPORARY = ".tmp"
# Else epath imports TensorFlow where that happens to be installed.
os.environ.setdefault("EPATH_USE_TF", "false")


def of(flag: str, path: pathlib.Path) -> pathlib.Path:
  """Returns the path itself, or for gs://BUCKET/FOLDER an `etils.epath` path, which has the same methods.

  Args:
    flag: that gave the path.
    path: of a command line, where pathlib has turned gs:// into gs:/.

  Raises:
    ConfigurationError: the path is of another system such as s3://, or the bucket cannot be reached.
  """
  match = re.fullmatch(r"([a-z][a-z0-9]+):/+(.*)", str(path))
  if match is None:
    return path
  scheme, rest = match.groups()
  url = f"{scheme}://{rest}"
  if scheme != _BUCKET:
    raise ConfigurationError(flag, url, "a folder of this machine is needed, or gs://BUCKET/FOLDER")
  if "/" not in rest.strip("/"):
    raise ConfigurationError(flag, url, "give a folder in the bucket: gs://BUCKET/FOLDER")
  try:
    _reach(rest.split("/")[0])
  except ConnectionError as error:
    raise ConfigurationError(flag, url, str(error)) from None
  from etils import epath
  from etils.epath import gpath

  # Another module may have used epath before EPATH_USE_TF was set here.
  gpath._is_tf_installed.cache_clear()
  return epath.Path(url)


def is_bucket(path: pathlib.Path) -> bool:
  """Whether a path that `of` returned is a bucket's."""
  return not isinstance(path, pathlib.Path)


@functools.cache
def _reach(bucket: str) -> None:
  """Lists a bucket, once per process; raises `ConnectionError` where that fails."""
  if not importlib.util.find_spec("gcsfs"):
    raise ConnectionError("a bucket needs an extra: pip install -e '.[gcs]'")
  import fsspec.config
  import gcsfs
  import google.auth

  # Other processes write to the folders, so listings are not cached.
  fsspec.config.conf.setdefault(_BUCKET, {})["use_listings_cache"] = False

  for name in ("gcsfs", "google.auth"):
    logging.getLogger(name).setLevel(logging.ERROR)
  if not os.environ.get("STORAGE_EMULATOR_HOST"):
    try:
      google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError:
      raise ConnectionError("no credentials are found; gcloud auth application-default login makes some") from None
  try:
    gcsfs.GCSFileSystem().ls(bucket)
  except Exception as error:  # No such bucket, no right to it, no network: each layer has its own kinds.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ConnectionError(f"the bucket cannot be listed ({reason})") from None


def cache(name: str) -> pathlib.Path:
  """The path of `name` in $XDG_CACHE_HOME/dn_jax or ~/.cache/dn_jax."""
  home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  return home / "dn_jax" / name


def absolute(path: pathlib.Path) -> pathlib.Path:
  """The path for a process in another directory; a bucket's path is absolute already."""
  return path if is_bucket(path) else path.absolute()


def make(folder: pathlib.Path) -> list[pathlib.Path]:
  """Makes a folder and its parents, and returns those that were not there; in a bucket there is nothing to make."""
  if is_bucket(folder):
    return []
  made = [each for each in (folder, *folder.parents) if not each.exists()]
  folder.mkdir(parents=True, exist_ok=True)
  return made


def make_own(folder: pathlib.Path) -> None:
  """Makes a folder within a run's folder; an `OSError` refuses a link that stands there."""
  make(folder)
  if not is_bucket(folder) and folder.is_symlink():
    raise OSError(errno.ELOOP, "is a link", str(folder))


def link_in(folder: pathlib.Path, but: str) -> pathlib.Path | None:
  """A link below a folder, which may be one itself; None where there is none. A bucket has none.

  Args:
    folder: looked through.
    but: a pattern for paths in it that may be links.

  Raises:
    OSError: a folder that may not be read.
  """
  if is_bucket(folder):
    return None

  def refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # Removed meanwhile.
      raise error

  for where, inside, names in os.walk(folder, onerror=refuse):
    for name in (*inside, *names):
      path = pathlib.Path(where, name)
      within = path.relative_to(folder)
      # `match` looks at the last parts alone.
      if path.is_symlink() and not (within.match(but) and len(within.parts) == but.count("/") + 1):
        return path
  return None


def _open_own(name: str, flags: int) -> int:
  """Opens a file itself, for `open`: no link to one, and neither a pipe nor a device, which might not return."""
  try:
    number = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
  except OSError as error:
    if error.errno == errno.ELOOP:
      raise OSError(errno.ELOOP, "is a link", name) from None
    if error.errno == errno.ENXIO:  # A socket, or a pipe that nobody reads.
      raise OSError(errno.EISDIR, "is not a file", name) from None
    raise
  try:
    kind = os.fstat(number).st_mode
    if not stat.S_ISREG(kind):
      raise OSError(errno.EISDIR, os.strerror(errno.EISDIR) if stat.S_ISDIR(kind) else "is not a file", name)
    if flags & os.O_ACCMODE != os.O_RDONLY:
      check_own(number, name)
  except BaseException:
    os.close(number)
    raise
  return number


def check_own(number: int, path: str | pathlib.Path) -> None:
  """Refuses, by an `OSError`, an open file that has another name too: what is written to it would stand there too."""
  if os.fstat(number).st_nlink > 1:
    raise OSError(errno.EMLINK, "is a link (a hard one)", str(path))


def opened(path: pathlib.Path) -> IO[bytes]:
  """Opens a file of a run's folder to read it; an `OSError` (`NO_FILE`) refuses a link, a pipe, a device."""
  return path.open("rb") if is_bucket(path) else open(path, "rb", opener=_open_own)


def read(path: pathlib.Path) -> bytes:
  """The content of a file of a run's folder; refuses what `opened` does."""
  with opened(path) as file:
    return file.read()


def append_to(path: pathlib.Path) -> IO[bytes]:
  """Opens a file of a run's folder to add to it, or a new one; an `OSError` refuses a link, a pipe, a device."""
  return open(path, "ab", opener=_open_own)


def files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """All files below a folder; a link to a folder is not followed, and is one of them."""
  for path in sorted(folder.iterdir()):
    if path.is_dir() and not os.path.islink(path):
      yield from files(path)
    else:
      yield path


def size(path: pathlib.Path) -> int:
  """Size of a file in bytes; 0 where there is none."""
  if not path.exists():
    return 0
  return path.stat().length if is_bucket(path) else path.stat().st_size


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
  """Replaces a file atomically: a reader, or a process killed here, leaves the old file or the new one.

  Of several processes that write it at the same time, the last one's content stands.
  """
  content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
  if is_bucket(path):
    path.write_bytes(content)
    return
  # Nobody else has this name, nor a link that stands there: `x` makes a new file or fails.
  temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY}")
  with temporary.open("xb") as file:
    try:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise


def move(old: pathlib.Path, new: pathlib.Path) -> None:
  """Renames a file (over an existing one) or a folder; in a bucket it is copied, then the old one removed."""
  if not is_bucket(old):
    os.rename(old, new)
    return
  if not old.is_dir():
    old.copy(new, overwrite=True)
    old.unlink()
    return
  for path in files(old):
    path.copy(new / path.relative_to(old), overwrite=True)
  remove(old)


def remove(folder: pathlib.Path) -> None:
  """Removes a folder and all in it, if it is there."""
  if not is_bucket(folder):
    shutil.rmtree(folder, ignore_errors=True)
  elif folder.exists():
    folder.rmtree()
