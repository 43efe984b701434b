"""Labels of streamed records: read once, kept in the cache, and checked."""

import hashlib
import io
import json
import pathlib

import numpy as np

from dn_jax.data import tfds
from dn_jax.system import folders

# Above so many records labels are not read ahead of the images.
MOST = 200_000
# Of records that are not read ahead, so many are looked at.
_FIRST = 8


def known(version: pathlib.Path, split: str, size: int) -> np.ndarray | None:
  """int64 [n]: a prepared split's labels, from the cache or read with the images undecoded.

  None where reading would take too long: in a bucket, or above 200,000 records.
  """
  if folders.is_bucket(version) or size > MOST:
    return None
  cached = folders.cache("labels") / f"{_digest(version, split)}.npy"
  try:
    found = np.load(io.BytesIO(cached.read_bytes()), allow_pickle=False)
    if found.shape == (size,) and found.dtype == np.int64:
      return found
  except (OSError, ValueError, EOFError):
    pass
  found = tfds.labels(version, split, range(size))
  content = io.BytesIO()
  np.save(content, found)
  try:
    cached.parent.mkdir(parents=True, exist_ok=True)
    folders.write_whole(cached, content.getvalue())
  except OSError:  # They are read again next time.
    pass
  return found


def first(version: pathlib.Path, split: str, size: int) -> np.ndarray:
  """int64: the labels of the first few records."""
  return tfds.labels(version, split, range(min(size, _FIRST)))


def fault(labels: np.ndarray, classes: int) -> str | None:
  """What is wrong with labels: how many are none of a class, and which the first of them is. None if nothing is."""
  labels = labels[labels != tfds.UNREAD]
  wrong = labels[(labels < 0) | (labels >= classes)]
  if not len(wrong):
    return None
  return f"{len(wrong):,} of {len(labels):,} labels are not 0 to {classes - 1}, the first is {wrong[0]}"


def _digest(version: pathlib.Path, split: str) -> str:
  """Of a split's name and of the files that it could lie in: names, sizes, times."""
  files = [
    (path.name, (found := path.stat()).st_size, found.st_mtime_ns)
    for path in sorted(version.iterdir())
    if path.suffix == ".json" or f"-{split}." in path.name
  ]
  return hashlib.sha256(json.dumps([str(version.resolve()), split, files]).encode()).hexdigest()[:32]
