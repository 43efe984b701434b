"""Reads CIFAR-10, CIFAR-100 and SVHN as their makers hand them out, in the order in which TFDS stores them.

TFDS sorts a split's images by a hash of the split's name and of the image's number in the makers' files. In that order,
held-out images, digests and a run that goes on are the same from either source.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import pathlib
import posixpath
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dn_jax.config.datasets import root
from dn_jax.data import batches, makers, tfds
from dn_jax.data.batches import CHANNELS, SIDE, Batch, MisfitError
from dn_jax.data.makers import Form
from dn_jax.data.unpickle import BadPickleError, unpickle
from dn_jax.errors import ConfigurationError, first_line
from dn_jax.system import folders

# Bytes; the makers' batches have up to 150 MiB.
_LARGEST_BATCH = 2**29
# Images moved at a time.
_CHUNK = 500


class Found(NamedTuple):
  """Where a data set lies: its files in `folder`, or the folder within the archive `packed`."""

  form: Form
  folder: pathlib.Path
  packed: pathlib.Path | None

  def path(self, file: str) -> pathlib.Path:
    """Of one of its files, for messages too."""
    return self.packed / self.form.folder / file if self.packed else self.folder / file


def opened(name: str, folder: pathlib.Path | None) -> tfds.Opened | None:
  """Opens a data set of its makers' files; None where there are none, or where TFDS prepared it in the same folder.

  Raises:
    ConfigurationError: some of the files are missing; of `read` and `count` also: a file is damaged, cut short, or of
      another structure.
  """
  place = root(folder)
  if prepared_by_tfds(name, place) or (found := _found(name, place)) is None:
    return None
  kept: dict[str, list[Batch]] = {}
  unverified: list[str] = []

  def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    if split not in kept:  # All splits of an archive at once, as it is unpacked from begin to end.
      kept.update(_batches(found, found.form.splits if found.packed else (split,), unverified))
    return in_order(split, kept.pop(split))

  def count(split: str) -> int:
    return _counts(found, tuple(map(folders.size, _paths(found))))[split]

  return tfds.Opened(read, count, lambda: tuple(unverified))


def prepared_by_tfds(name: str, place: pathlib.Path) -> bool:
  """Whether a folder has a version of the data set that TFDS prepared, which then goes first."""
  return any((version / "dataset_info.json").is_file() for version in (place / name).glob("*"))


def classes(name: str, folder: pathlib.Path | None) -> tuple[str, ...] | None:
  """The names of the classes, in the order of their labels; None where the makers' files are not there, or have none.

  Raises:
    ConfigurationError: as `opened`.
  """
  if (found := _found(name, root(folder))) is None:
    return None
  if found.form.kind == "matlab":
    return tuple(map(str, range(10)))
  file, key = found.form.names
  try:
    content = _content(found, (file,), [])[file]
  except ConfigurationError:
    return None
  with _refused(found.path(file)):
    names = batches.entry_of(unpickle(content), key) if key else content.split()
    return tuple(each.decode() if isinstance(each, bytes) else str(each) for each in names)


def md5(path: pathlib.Path) -> str:
  """A file's MD5 sum, in hexadecimal digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "md5").hexdigest()


def order(split: str, count: int) -> np.ndarray:
  """int64 [count]: the numbers of a split's images in the makers' files, in the order in which TFDS stores them.

  As `tensorflow_datasets.core.shuffle.Shuffler` sorts them, with the split's name as salt and the number as key.
  """
  salted = hashlib.md5(split.encode())
  keys = bytearray()
  for number in range(count):
    key = salted.copy()
    key.update(b"%d" % number)
    keys += key.digest()
  high, low = np.frombuffer(keys, ">u8").reshape(-1, 2).T
  return np.lexsort((low, high))


def in_order(split: str, parts: Sequence[Batch]) -> tuple[np.ndarray, np.ndarray]:
  """A split's images, uint8 [n, height, width, channels], and labels, int64 [n], in TFDS's order."""
  count = sum(len(part.labels) for part in parts)
  place = np.empty(count, np.int64)
  place[order(split, count)] = np.arange(count)
  images, labels = np.empty((count, SIDE, SIDE, CHANNELS), np.uint8), np.empty(count, np.int64)
  first = 0
  for part in parts:
    places = place[first : first + len(part.labels)]
    labels[places] = part.labels
    for start in range(0, len(places), _CHUNK):
      chunk = slice(start, start + _CHUNK)
      for channel in range(CHANNELS):  # Half the time of one transposition.
        images[places[chunk], :, :, channel] = part.planes[chunk, channel]
    first += len(places)
  return images, labels


def _found(name: str, place: pathlib.Path) -> Found | None:
  """The first form of which everything is there.

  Raises:
    ConfigurationError: a part of one form is there, and all of none.
  """
  partial = []
  for form in makers.FORMS.get(name, ()):
    folder = place if place.name == form.folder else place / form.folder
    missing = [file for file in form.files if not (folder / file).is_file()]
    if not missing:
      return Found(form, folder, None)
    if form.archive and (place / form.archive).is_file():
      return Found(form, folder, place / form.archive)
    if len(missing) < len(form.files):
      partial.append((folder, missing))
  for folder, missing in partial:
    fits = f"lacks {', '.join(missing)}; to get all of it: {tfds.prepare_command(name, place)}"
    raise ConfigurationError("data.dir", folder, fits)
  return None


def _paths(found: Found) -> list[pathlib.Path]:
  """The files on disk."""
  return [found.packed] if found.packed else [found.folder / file for file in found.form.files]


@functools.lru_cache
def _counts(found: Found, sizes: tuple[int, ...]) -> dict[str, int]:
  """Number of images by split; a sweep asks once for each of its cells. `sizes` of the files tell others apart."""
  if found.form.kind != "matlab":
    parts = _batches(found, found.form.splits, [])
    return {split: sum(len(part.labels) for part in parts[split]) for split in parts}
  counts = {}
  for split, (file,) in found.form.splits.items():
    with _here(found.folder / file) as here, _refused(found.folder / file):
      counts[split] = batches.matlab_count(here)
  return counts


def _batches(found: Found, splits: Collection[str], unverified: list[str]) -> dict[str, list[Batch]]:
  """The batches of each split; the names of files of other sums than their makers' are added to `unverified`."""
  form = found.form
  files = [file for split in splits for file in form.splits[split]]
  parts = {}
  if form.kind == "matlab":
    for file in files:
      with _here(found.folder / file) as here, _refused(found.folder / file):
        _verify(file, md5(here), unverified)
        parts[file] = batches.of_matlab(here)
  else:
    read = batches.of_pickle if form.kind == "pickled" else batches.of_records
    content = _content(found, files, unverified)
    for file in files:
      with _refused(found.path(file)):
        parts[file] = read(content.pop(file), form)
  return {split: [parts[file] for file in form.splits[split]] for split in splits}


def _content(found: Found, files: Collection[str], unverified: list[str]) -> dict[str, bytes]:
  """The content of files of a folder, or of the archive of it.

  Raises:
    ConfigurationError: one is missing or cannot be read, or the archive is damaged.
  """
  if found.packed is None:
    content = {}
    for file in files:
      with _refused(found.path(file)):
        content[file] = found.path(file).read_bytes()
        _verify(f"{found.form.folder}/{file}", hashlib.md5(content[file]).hexdigest(), unverified)
    return content
  with _here(found.packed) as here, _refused(found.packed):
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
      summed = beside.submit(md5, here)
      content = _unpacked(here, {f"{found.form.folder}/{file}": file for file in files})
      _verify(found.form.archive, summed.result(), unverified)
    if missing := [file for file in files if file not in content]:
      raise MisfitError(f"lacks {found.form.folder}/{', '.join(missing)}")
    return content


def _unpacked(archive: pathlib.Path, files: dict[str, str]) -> dict[str, bytes]:
  """The content of members of a .tar.gz, under the names that `files` gives them.

  The archive is read to its end, where gzip's own sum stands.
  """
  content = {}
  with tarfile.open(archive, "r:gz") as tar:
    for member in tar:
      file = files.get(posixpath.normpath(member.name))
      if file is None or not member.isfile():
        continue
      if member.size > _LARGEST_BATCH or file in content:
        raise MisfitError(f"{member.name} is there twice, or has more than {_LARGEST_BATCH >> 20} MiB")
      content[file] = tar.extractfile(member).read()
    while tar.fileobj.read(2**20):
      pass
  return content


@contextlib.contextmanager
def _refused(path: pathlib.Path) -> Iterator[None]:
  """Turns what a damaged file raises, which is of many kinds, into one line."""
  try:
    yield
  except ConfigurationError:
    raise
  except (MisfitError, BadPickleError) as error:
    raise ConfigurationError("data.dir", path, str(error)) from None
  except Exception as error:
    raise ConfigurationError("data.dir", path, f"cannot be read; it may be cut short ({first_line(error)})") from None


def _verify(name: str, found: str, unverified: list[str]) -> None:
  if found != makers.MD5.get(name) and name not in unverified:
    unverified.append(name)


@contextlib.contextmanager
def _here(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """The file itself, or a copy on this machine of one in a bucket, which is read in small pieces."""
  if not folders.is_bucket(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / path.name
    with path.open("rb") as there, copy.open("wb") as here:
      shutil.copyfileobj(there, here, 2**24)
    yield copy
