"""A folder of this machine, or of a bucket (gs://), and what is done differently in each.

A bucket has objects and no folders: an object is written whole or not at all, and nothing can be renamed, only copied.
It has no locks either.
"""

import functools
import importlib.util
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from dn_jax.errors import ConfigurationError

# Names of other systems, such as s3://, are no folders here.
_BUCKET = "gs"
# Else epath imports TensorFlow where that happens to be installed.
os.environ.setdefault("EPATH_USE_TF", "false")


def of(flag: str, path: pathlib.Path) -> pathlib.Path:
  """What a path means: itself, or for gs://BUCKET/FOLDER a path of the same methods, see `etils.epath`.

  Args:
    flag: that gave the path.
    path: of a command line, where pathlib has made gs:/ of gs://.

  Raises:
    ConfigurationError: of another system, or a bucket that cannot be reached: in a line, before anything is done.
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
  except _UnreachableError as error:
    raise ConfigurationError(flag, url, str(error)) from None
  from etils import epath
  from etils.epath import gpath

  # What was decided when another used a path before this module was imported.
  gpath._is_tf_installed.cache_clear()
  return epath.Path(url)


def is_bucket(path: pathlib.Path) -> bool:
  """Whether a path of `of` is a bucket's."""
  return not isinstance(path, pathlib.Path)


class _UnreachableError(Exception):
  pass


@functools.cache
def _reach(bucket: str) -> None:
  """Looks at a bucket, once a process."""
  if not importlib.util.find_spec("gcsfs"):
    raise _UnreachableError("a bucket needs an extra: pip install -e '.[gcs]'")
  import fsspec.config
  import gcsfs
  import google.auth

  # What a folder held is looked up again each time: other processes write to it.
  fsspec.config.conf.setdefault(_BUCKET, {})["use_listings_cache"] = False

  for name in ("gcsfs", "google.auth"):
    logging.getLogger(name).setLevel(logging.ERROR)
  if not os.environ.get("STORAGE_EMULATOR_HOST"):
    try:
      google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError:
      raise _UnreachableError("no credentials are found; gcloud auth application-default login makes some") from None
  try:
    gcsfs.GCSFileSystem().ls(bucket)
  except Exception as error:  # No such bucket, no right to it, no network: each layer has its own kinds.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise _UnreachableError(f"the bucket cannot be listed ({reason})") from None


def absolute(path: pathlib.Path) -> pathlib.Path:
  """The same for a process in another directory; a bucket's is that already."""
  return path if is_bucket(path) else path.absolute()


def make(folder: pathlib.Path) -> None:
  """Makes a folder and those around it; in a bucket there is nothing to make."""
  if not is_bucket(folder):
    folder.mkdir(parents=True, exist_ok=True)


def files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """All files below a folder."""
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from files(path)
    else:
      yield path


def size(path: pathlib.Path) -> int:
  """Bytes of a file; 0 where there is none."""
  if not path.exists():
    return 0
  return path.stat().length if is_bucket(path) else path.stat().st_size


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
  """Replaces a file whole: a reader, or a process killed here, sees the old one or the new one."""
  content = content.encode() if isinstance(content, str) else content
  if is_bucket(path):
    path.write_bytes(content)
    return
  temporary = path.with_name(path.name + ".tmp")
  try:
    with temporary.open("wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise


def move(old: pathlib.Path, new: pathlib.Path) -> None:
  """Renames a file or folder; in a bucket a copy is made, and when it is whole the old one removed."""
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


def replace(old: pathlib.Path, new: pathlib.Path) -> None:
  """Renames a file, in place of another if there is one."""
  move(old, new) if is_bucket(old) else os.replace(old, new)


def remove(folder: pathlib.Path) -> None:
  """Removes a folder and all in it; one that is not there is none to remove."""
  if not is_bucket(folder):
    shutil.rmtree(folder, ignore_errors=True)
  elif folder.exists():
    folder.rmtree()
