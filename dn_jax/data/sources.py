"""Sources of streamed images: a folder of class folders, or records that TFDS prepared.

A source returns a picture's bytes and label by number, and is cheap to copy into a worker process.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dn_jax.config.schema import DataConfig
from dn_jax.data import tfds
from dn_jax.data.image_files import SUFFIXES, BadPictureError
from dn_jax.errors import ConfigurationError
from dn_jax.system import folders

FOLDER = "folder"
# Names of a folder's halves, in the order in which they are looked for.
_TRAIN, _TEST = ("train", "training"), ("val", "valid", "validation", "test")
# In a folder without halves, one picture in so many is for testing.
_ONE_IN = 10


class Source(Protocol):
  """Pictures by number; `classes` are the labels' names in order."""

  classes: tuple[str, ...]

  def __len__(self) -> int: ...

  def __getitem__(self, number: int) -> tuple[bytes, int]:
    """A picture file's content and its label."""

  def name_of(self, number: int) -> str:
    """A picture's path or record, for messages."""

  def told_by(self) -> str:
    """A text that identifies these pictures as far as possible without reading them."""


@dataclasses.dataclass(frozen=True)
class ClassFolders:
  """A folder with one folder per class; `labels` has one number per file."""

  folder: pathlib.Path
  classes: tuple[str, ...]
  files: tuple[str, ...]
  labels: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, number: int) -> tuple[bytes, int]:
    return pathlib.Path(self.name_of(number)).read_bytes(), self.labels[number]

  def name_of(self, number: int) -> str:
    return f"{self.folder}/{self.files[number]}"

  def told_by(self) -> str:
    return "\n".join(self.files)


def class_folders(flag: str, folder: pathlib.Path, classes: Sequence[str] | None = None) -> ClassFolders:
  """Lists a folder of class folders, and the folders within them.

  Args:
    flag: that gave the folder.
    folder: has files CLASS/PICTURE.
    classes: the classes that there must be, in the order of their labels; by default all there are, by name.

  Raises:
    ConfigurationError: no folder, fewer than two class folders, a class without pictures, or other classes than asked.
  """
  if not folder.is_dir():
    raise ConfigurationError(flag, folder, "is not a folder")
  found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
  if not found:
    raise ConfigurationError(flag, folder, "has no class folders; put pictures at CLASS/PICTURE in it")
  if classes is None and len(found) == 1:
    raise ConfigurationError(flag, folder, f"has one class folder, {found[0]}; at least two are needed")
  classes = tuple(found if classes is None else classes)
  if set(classes) != set(found):
    lacks, strange = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
    words = [f"lacks {_some(lacks)}"] * bool(lacks) + [f"has {_some(strange)} besides"] * bool(strange)
    raise ConfigurationError(flag, folder, f"{' and '.join(words)}, unlike the classes that were trained on")
  files: list[str] = []
  labels: list[int] = []
  for label, name in enumerate(classes):
    here = sorted(
      path.relative_to(folder).as_posix()
      for path in (folder / name).rglob("*")
      if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not here:
      raise ConfigurationError(flag, folder / name, f"has no pictures ({', '.join(sorted(SUFFIXES))})")
    files += here
    labels += [label] * len(here)
  return ClassFolders(folder, classes, tuple(files), tuple(labels))


def _some(names: Sequence[str]) -> str:
  return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclasses.dataclass(frozen=True)
class Part:
  """Some pictures of a source, by their numbers there."""

  source: Source
  numbers: np.ndarray

  @property
  def classes(self) -> tuple[str, ...]:
    return self.source.classes

  def __len__(self) -> int:
    return len(self.numbers)

  def __getitem__(self, number: int) -> tuple[bytes, int]:
    return self.source[int(self.numbers[number])]

  def name_of(self, number: int) -> str:
    return self.source.name_of(int(self.numbers[number]))

  def told_by(self) -> str:
    return f"{self.numbers.tolist()} of\n{self.source.told_by()}"


@dataclasses.dataclass(frozen=True)
class Records:
  """A split of a data set that TFDS prepared as array_record, with `image` and `label`."""

  folder: pathlib.Path
  split: str
  classes: tuple[str, ...]
  size: int

  def __len__(self) -> int:
    return self.size

  @functools.cached_property
  def _rows(self) -> Any:
    return tfds.undecoded(self.folder, self.split)

  def __getitem__(self, number: int) -> tuple[bytes, int]:
    try:
      row = self._rows[number]
    except Exception as error:  # A reader's own kinds, for a record that is damaged.
      raise BadPictureError(f"{self.name_of(number)}: cannot be read ({error})") from None
    return row["image"], int(row["label"])

  def name_of(self, number: int) -> str:
    return f"{self.folder}, split {self.split}, record {number}"

  def told_by(self) -> str:
    return f"{self.split} {self.size}"

  def __getstate__(self) -> dict[str, Any]:
    # A worker process opens the files itself.
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class Sources(NamedTuple):
  """The splits of a data set."""

  train: Source
  valid: Source | None
  test: Source


def opened(data: DataConfig) -> Sources:
  """Opens a streamed data set.

  A folder has two halves (train and val), or class folders of which every tenth picture is for testing: always the
  same ones, as evenly over the classes as possible. Of TFDS's data sets the test split is `test`, or `validation` where
  there is no `test` or it has no labels (ImageNet). Held-out pictures are even over the classes of a folder; TFDS's
  labels are unknown before reading, so any are taken.

  Raises:
    ConfigurationError: there is no such data set, or it cannot be streamed.
  """
  train, test = _folder(data) if data.name == FOLDER else _records(data)
  count = data.validation or 0
  if count >= len(train):
    raise ConfigurationError("data.validation", count, f"there are {len(train)} training pictures; at least 0, fewer")
  if not count:
    return Sources(train, None, test)
  return Sources(*_apart(train, held_out(_labels(train), count)), test)


def tested(data: DataConfig, classes: Sequence[str] | None) -> Source:
  """The test images for a network trained elsewhere: a folder's val half or all of it, or TFDS's test split.

  Args:
    data: the data set.
    classes: the network's, in the order of its labels; None where their names are unknown.

  Raises:
    ConfigurationError: as `opened`, or the classes are not the network's.
  """
  if data.name != FOLDER:
    _, test = _records(data)
    if classes is not None and tuple(classes) != test.classes:
      raise ConfigurationError("data.name", data.name, "its classes are not the network's, or stand in another order")
    return test
  folder = _own_folder(data, "CLASS/PICTURE")
  return class_folders("data.dir", _half(folder, _TEST) or folder, classes)


def _folder(data: DataConfig) -> tuple[Source, Source]:
  folder = _own_folder(data, "CLASS/PICTURE, or train and val")
  train, test = _half(folder, _TRAIN), _half(folder, _TEST)
  if train and test:
    pictures = class_folders("data.dir", train)
    return pictures, class_folders("data.dir", test, pictures.classes)
  if train:
    raise ConfigurationError("data.dir", folder, f"has {train.name} and none of {', '.join(_TEST)} beside it")
  whole = class_folders("data.dir", folder)
  if len(whole) < _ONE_IN:
    raise ConfigurationError("data.dir", folder, f"has {len(whole)} pictures; at least {_ONE_IN} are needed")
  return _apart(whole, held_out(_labels(whole), len(whole) // _ONE_IN))


def _own_folder(data: DataConfig, needed: str) -> pathlib.Path:
  if data.dir is None:
    raise ConfigurationError("data.dir", "(unset)", f"--data.name folder needs the folder: {needed}")
  if folders.is_bucket(place := folders.of("data.dir", data.dir)):  # Listing a million files there takes minutes.
    raise ConfigurationError("data.dir", place, "a folder of pictures is read from this machine; mount the bucket")
  return data.dir


def _half(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
  return next((folder / name for name in names if (folder / name).is_dir()), None)


def _records(data: DataConfig) -> tuple[Source, Source]:
  version = tfds.newest_version(data.name, data.dir)
  splits, classes = tfds.described(version)
  wanted = ["validation"] if data.name == "imagenet2012" else ["test", "validation"]
  test = next((name for name in wanted if name in splits), None)
  if "train" not in splits or test is None:
    raise ConfigurationError("data.name", data.name, f"has the splits {', '.join(splits)}; train and test are needed")
  train, test = (Records(version, name, classes, splits[name]) for name in ("train", test))
  return train, test


def _labels(source: Source) -> np.ndarray:
  """int32 [n]: the labels where known, else zeros."""
  if isinstance(source, Part):
    return _labels(source.source)[source.numbers]
  return np.asarray(source.labels if isinstance(source, ClassFolders) else [0] * len(source), np.int32)


def _apart(source: Source, held: np.ndarray) -> tuple[Part, Part]:
  return Part(source, np.flatnonzero(~held)), Part(source, np.flatnonzero(held))


def held_out(labels: np.ndarray, count: int) -> np.ndarray:
  """bool [n]: which `count` of n pictures to hold out, as evenly over the classes as possible; always the same ones."""
  rank = np.empty(len(labels), np.int64)
  shuffled = np.random.RandomState(0).permutation(len(labels))
  for label in np.unique(labels):
    members = shuffled[labels[shuffled] == label]
    rank[members] = np.arange(len(members))
  # The first of every class, then the second of every class, and so on.
  chosen = shuffled[np.argsort(rank[shuffled], kind="stable")[:count]]
  held = np.zeros(len(labels), bool)
  held[chosen] = True
  return held
