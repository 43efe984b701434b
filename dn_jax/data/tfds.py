"""Reads data sets that TFDS prepared, on this machine or in a bucket.

array_record needs no TensorFlow (`tfds.data_source`); tfrecord does. Nothing is downloaded: a missing data set is an
error with the command that prepares it.
"""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dn_jax.config.datasets import root
from dn_jax.data import makers
from dn_jax.errors import ConfigurationError, first_line
from dn_jax.system import folders, traces

# Records read at a time.
_CHUNK = 1024
# The largest set of labels in use, all of ImageNet's, has 21,841.
_MOST_CLASSES = 1_000_000
# Stands for a damaged record's label.
UNREAD = -(2**62)


def prepare_command(name: str, folder: pathlib.Path | None) -> str:
  """The command line that prepares the data set."""
  in_bucket = folder is not None and folders.is_bucket(root(folder))
  where = " --data.dir DIR" if in_bucket else f" --data.dir {folder}" if folder else ""
  files = makers.downloads(name)
  what = " ".join(f"DIR/{file}" for file in files) or f"-r DIR/{name}"
  copied = f" && gcloud storage cp {what} {root(folder)}" if in_bucket else ""
  installed = "" if files else "pip install -e '.[prepare]' && "
  return f"{installed}python experiments/prepare.py --data.name {name}{where}{copied}"


class NotPreparedError(ConfigurationError):
  """A data set that is not there."""


class Opened(NamedTuple):
  """A prepared data set: functions of a split's name.

  read:  -> (images [n, height, width, channels], labels [n])
  count: -> n, without reading any
  unverified: () -> names of files that were read and have another MD5 sum than their makers'
  """

  read: Callable[[str], tuple[np.ndarray, np.ndarray]]
  count: Callable[[str], int]
  unverified: Callable[[], tuple[str, ...]] = tuple


def opened(name: str, folder: pathlib.Path | None) -> Opened:
  """Opens the newest prepared version of a data set.

  Raises:
    ConfigurationError: no such folder, not prepared there, or in a format that cannot be read here.
  """
  newest = newest_version(name, folder)
  builder = _builder(newest)

  def count(split: str) -> int:
    if split not in builder.info.splits:
      raise ConfigurationError(
        "data.dir", newest, f"has no split {split!r}; to get it: {prepare_command(name, folder)}"
      )
    return builder.info.splits[split].num_examples

  def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    pictures = count(split)
    with _refused(newest, f"split {split!r} cannot be read"), _here(newest, split) as version:
      check_shards(version, split)
      return _stacked(_rows(_builder(version), split), pictures)

  return Opened(read, count)


def newest_version(name: str, folder: pathlib.Path | None) -> pathlib.Path:
  """The folder of a data set's newest prepared version.

  Raises:
    ConfigurationError: no such folder, or it is not prepared there.
  """
  place = root(folder)
  if folder is not None and not place.is_dir():
    raise NotPreparedError("data.dir", place, "is not a folder")
  versions = [
    path
    for path in (place / name).glob("*")
    if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").is_file()
  ]
  if not versions:
    raise NotPreparedError("data.name", name, f"is not prepared in {place}; to get it: {prepare_command(name, folder)}")
  return max(versions, key=lambda path: tuple(map(int, path.name.split("."))))


class Described(NamedTuple):
  """A prepared data set's number of images by split, and the names of its classes."""

  splits: dict[str, int]
  classes: tuple[str, ...]


def described(version: pathlib.Path) -> Described:
  """Describes a prepared data set that can be streamed.

  Raises:
    ConfigurationError: it has no one label per image, or a format without random access.
  """
  import tensorflow_datasets as tfds

  builder = _builder(version)
  features = dict(builder.info.features or {})
  image, label = (features.get(name) for name in ("image", "label"))
  if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
    raise ConfigurationError("data.name", builder.name, "has no image and label in each record, which is needed")
  if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
    raise ConfigurationError(
      "data.dir", version, "is not in array_record format, which alone is read image by image; prepare it so again"
    )
  if not 1 <= label.num_classes <= _MOST_CLASSES:
    raise ConfigurationError(
      "data.dir", version, f"says that it has {label.num_classes:,} classes; 1 to {_MOST_CLASSES:,}"
    )
  return Described({name: split.num_examples for name, split in builder.info.splits.items()}, tuple(label.names))


def check_shards(version: pathlib.Path, split: str) -> None:
  """Compares the lengths of a split's shards with those that its description says.

  A shard that is longer would be read in part without a word, and of a shorter one the end would count as damaged. In a
  bucket nothing is compared: a request for each of a thousand shards takes minutes.

  Raises:
    ConfigurationError: a shard is missing, damaged, or of another length.
  """
  if folders.is_bucket(version):
    return
  import tensorflow_datasets as tfds
  from array_record.python import array_record_module

  with _refused(version, f"split {split!r} cannot be read"):
    info = _builder(version).info
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
      return
    for path, said in zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True):
      reader = array_record_module.ArrayRecordReader(str(path))
      count = reader.num_records()
      reader.close()
      if count != said:
        raise ValueError(f"its description says {said:,} records of {path.name}, which has {count:,}")


def undecoded(version: pathlib.Path, split: str) -> Any:
  """A split's records by number, `image` as the file's bytes.

  Raises:
    ConfigurationError: it cannot be opened.
  """
  import tensorflow_datasets as tfds

  with _refused(version, f"split {split!r} cannot be read"):
    return _builder(version).as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})


def labels(version: pathlib.Path, split: str, numbers: range) -> np.ndarray:
  """int64 [n]: the labels of some records of a split that can be streamed, `UNREAD` of damaged ones.

  Images stay undecoded.

  Raises:
    ConfigurationError: the split cannot be opened.
  """
  rows = undecoded(version, split)
  found = np.full(len(numbers), UNREAD, np.int64)
  for begin in range(0, len(numbers), _CHUNK):
    some = list(numbers[begin : begin + _CHUNK])
    try:
      found[begin : begin + len(some)] = [row["label"] for row in rows.__getitems__(some)]
    except Exception:  # A reader's own kinds. One damaged record fails all that are asked for with it.
      for place, number in enumerate(some, begin):
        with contextlib.suppress(Exception):
          found[place] = rows[number]["label"]
  return found


def _builder(version: pathlib.Path) -> Any:
  import tensorflow_datasets as tfds

  traces.hush()
  with _refused(version, "cannot be opened"):
    return tfds.builder_from_directory(version)


@contextlib.contextmanager
def _refused(version: pathlib.Path, what: str) -> Iterator[None]:
  """Turns TFDS's exceptions, which are of many kinds for a damaged record, into ours."""
  try:
    yield
  except ConfigurationError:
    raise
  except ImportError:
    fits = "is not in array_record format, and to read it needs TensorFlow: "
    fits += "pip install -e '.[prepare]'; or prepare it again as array_record"
    raise ConfigurationError("data.dir", version, fits) from None
  except Exception as error:
    raise ConfigurationError("data.dir", version, f"{what} ({first_line(error)})") from None


@contextlib.contextmanager
def _here(version: pathlib.Path, split: str) -> Iterator[pathlib.Path]:
  """A copy of a bucket's data set on this machine: one request per record would take minutes for 50,000 records."""
  if not folders.is_bucket(version):
    yield version
    return
  with tempfile.TemporaryDirectory() as folder:
    for path in version.iterdir():
      if path.suffix == ".json" or f"-{split}." in path.name:
        (pathlib.Path(folder) / path.name).write_bytes(path.read_bytes())
    yield pathlib.Path(folder)


def _rows(builder: Any, split: str) -> Iterator[dict[str, Any]]:
  import tensorflow_datasets as tfds

  if builder.info.file_format not in (tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.PARQUET):
    yield from tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    return
  source = builder.as_data_source(split=split)
  for first in range(0, len(source), _CHUNK):
    yield from source.__getitems__(list(range(first, min(first + _CHUNK, len(source)))))


def _stacked(rows: Iterator[dict[str, Any]], count: int) -> tuple[np.ndarray, np.ndarray]:
  """Fills one array, so that no image is in memory twice."""
  images, labels, done = np.empty(0), np.empty(count, np.int64), 0
  for number, row in enumerate(rows):
    if not number:
      images = np.empty((count, *row["image"].shape), row["image"].dtype)
    images[number], labels[number], done = row["image"], row["label"], number + 1
  if done != count:
    raise ValueError(f"its description says {count:,} records, and there are {done:,}")
  return images, labels
