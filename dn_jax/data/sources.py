"""Sources of streamed images: a folder of class folders, or records that TFDS prepared.

A source returns a picture's bytes and label by number, and is cheap to copy into a worker process.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dn_jax.config.schema import DataConfig
from dn_jax.data import image_files, labels, prepared, rule_one, splits, tfds
from dn_jax.data.class_folders import TEST, TRAIN, VALIDATION, class_folders, parts_of, some, without_classes
from dn_jax.data.image_files import BadPictureError
from dn_jax.data.walk import Walk
from dn_jax.errors import ConfigurationError, shown
from dn_jax.system import folders, stderr

FOLDER = "folder"
# Images of a source of which the bits are counted.
_LOOKED_AT = 16


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

  def known_labels(self) -> np.ndarray | None:
    """int [n]; None where they are known only once the pictures are read."""

  def names_in_class(self) -> list[str] | None:
    """What tells each picture from the others of its class; None where it is its place alone."""


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

  def known_labels(self) -> np.ndarray | None:
    found = self.source.known_labels()
    return None if found is None else found[self.numbers]

  def names_in_class(self) -> list[str] | None:
    names = self.source.names_in_class()
    return None if names is None else [names[number] for number in self.numbers]


class Sources(NamedTuple):
  """The splits of a data set."""

  train: Source
  valid: Source | None
  test: Source


class Taken(NamedTuple):
  """The splits of a data set, and lines that say what it was taken for."""

  splits: Sources
  said: tuple[str, ...]


class _Found(NamedTuple):
  """The parts that a data set has, by `TRAIN`, `VALIDATION` and `TEST`; where each comes from; and remarks."""

  parts: Mapping[str, Source]
  origins: Mapping[str, str]
  remarks: Sequence[str]


def opened(data: DataConfig, rule: int = splits.RULE) -> Sources:
  """`taken` without its lines."""
  return taken(data, rule).splits


def taken(data: DataConfig, rule: int = splits.RULE) -> Taken:
  """Opens a streamed data set.

  A folder has parts (train and val, train and test, or all three), or class folders alone. Of TFDS's data sets the test
  split is `test`, or `validation` where there is no `test` or it has no labels (ImageNet), or as `--data.test-split`
  says. Where no part is for testing, a tenth of each class is. See `dn_jax.data.splits` for which images are held out.

  Args:
    data: the data set.
    rule: by which a run splits it, 1 or 2.

  Raises:
    ConfigurationError: there is no such data set, it cannot be streamed, or its labels are none of its classes.
  """
  if data.test_split is not None and data.name == FOLDER:
    raise ConfigurationError("data.test-split", data.test_split, "is for a data set that TFDS prepared")
  if rule == 1:
    return Taken(_by_rule_one(data), ("images: split by the rule that this run began with",))
  found = _in_folder(data) if data.name == FOLDER else _in_records(data)
  parts, origins = dict(found.parts), dict(found.origins)
  count = data.validation or 0
  if count and VALIDATION in parts:
    fits = f"there is a validation part already, {origins[VALIDATION]}; leave this flag out"
    raise ConfigurationError("data.validation", count, fits)
  if TEST not in parts:
    parts[TRAIN], parts[TEST] = _a_tenth_apart(data, parts[TRAIN])
    origins[TEST] = "a tenth of each class of these"
  if count:
    parts[TRAIN], parts[VALIDATION] = _held_out(parts[TRAIN], count)
    origins[VALIDATION] = "held out of these"
  taken = Sources(parts[TRAIN], parts.get(VALIDATION), parts[TEST])
  return Taken(taken, (*_lines(taken, origins), *found.remarks, *_shallow(data, taken.train)))


def tested(data: DataConfig, classes: Sequence[str] | None) -> Source:
  """`tested_and_said` without its lines."""
  return tested_and_said(data, classes)[0]


def tested_and_said(data: DataConfig, classes: Sequence[str] | None) -> tuple[Source, tuple[str, ...]]:
  """The test images for a network trained elsewhere: a folder's test part (else val, else all), or TFDS's test split.

  Args:
    data: the data set.
    classes: the network's, in the order of its labels; None where their names are unknown.

  Returns:
    The images, and lines that say what the data set was taken for.

  Raises:
    ConfigurationError: as `taken`, or the classes are not the network's.
  """
  if data.name != FOLDER:
    version = tfds.newest_version(data.name, data.dir)
    described = tfds.described(version)
    name = prepared.test_split(data, described)
    if name is None:
      raise ConfigurationError("data.name", data.name, f"has the splits {', '.join(described.splits)}; test is needed")
    test = prepared.checked(data, version, described, name)
    if classes is not None and tuple(classes) != test.classes:
      raise ConfigurationError("data.name", data.name, "its classes are not the network's, or stand in another order")
    return test, (f"test images: split {name}", *_shallow(data, test))
  folder = _own_folder(data, "CLASS/IMAGE")
  if not folder.is_dir():
    raise ConfigurationError("data.dir", folder, "is not a folder")
  walk = Walk(folder)
  parts = parts_of(folder, walk, classes or ())
  places = [parts.folders[part] for part in (TEST, VALIDATION) if part in parts.folders] or [parts.whole]
  unlabelled = [place for place in places if without_classes(place, classes or (), walk)]
  remarks = [f"{shown(place)} is passed over: its images are in no class folders" for place in unlabelled]
  place = next((place for place in places if place not in unlabelled), places[0])
  source = class_folders("data.dir", place, classes, walk)
  if passed := walk.passed.line():
    remarks.append(passed)
  return source, (f"test images: {shown(source.folder)}", *remarks, *_shallow(data, source))


def _shallow(data: DataConfig, source: Source) -> list[str]:
  """A warning where values of 16-bit files use fewer bits, by some of a source's images."""
  if data.bit_depth is not None or (data.name != FOLDER and folders.is_bucket(folders.of("data.dir", data.dir or "."))):
    return []
  stderr.drop_lines()
  bits = []
  for number in sorted({len(source) * n // _LOOKED_AT for n in range(_LOOKED_AT)}):
    try:
      content, _ = source[number]
      image_files.check_size(content, number, data.max_pixels)
    except (BadPictureError, OSError, ConfigurationError):
      continue
    bits.append(image_files.bits_used(content) or 0)
  warning = image_files.shallow(max(bits, default=0))
  return [warning] if warning else []


def class_sizes(source: Source | None) -> np.ndarray | None:
  """int [classes]: images of each class; None where labels are unknown."""
  if source is None:
    return None
  found = source.known_labels()
  return None if found is None else np.bincount(found[found >= 0], minlength=len(source.classes))


def _in_folder(data: DataConfig) -> _Found:
  folder = _own_folder(data, "CLASS/IMAGE, or train and val")
  if not folder.is_dir():
    raise ConfigurationError("data.dir", folder, "is not a folder")
  walk = Walk(folder)
  places = parts_of(folder, walk)
  train = class_folders("data.dir", places.folders.get(TRAIN, places.whole), None, walk)
  parts, remarks = {TRAIN: train}, []
  for part, place in places.folders.items():
    if unlabelled := 0 if part == TRAIN else without_classes(place, train.classes, walk):
      where = shown(os.path.relpath(place, folder))
      remarks.append(f"{where} is passed over: its {unlabelled:,} images are in no class folders")
    elif part != TRAIN:
      parts[part] = class_folders("data.dir", place, train.classes, walk)
  origins = {part: shown(os.path.relpath(source.folder, folder)) for part, source in parts.items()}
  origins = {part: shown(folder) if place == "." else place for part, place in origins.items()}
  if VALIDATION in parts and TEST not in parts:
    parts[TEST], origins[TEST] = parts.pop(VALIDATION), origins.pop(VALIDATION)
    remarks.append(f"{origins[TEST]} is the test set, as published for ImageNet: there is no test part")
  if passed := walk.passed.line():
    remarks.append(passed)
  return _Found(parts, origins, remarks)


def _own_folder(data: DataConfig, needed: str) -> pathlib.Path:
  if data.dir is None:
    raise ConfigurationError("data.dir", "(unset)", f"--data.name folder needs the folder: {needed}")
  if folders.is_bucket(place := folders.of("data.dir", data.dir)):  # Listing a million files there takes minutes.
    raise ConfigurationError("data.dir", place, "a folder of images is read from this machine; mount the bucket")
  return data.dir


def _in_records(data: DataConfig) -> _Found:
  version = tfds.newest_version(data.name, data.dir)
  described = tfds.described(version)
  if (train := prepared.split_of(described, TRAIN)) is None:
    fits = f"has the splits {', '.join(described.splits)}; train is needed"
    raise ConfigurationError("data.name", data.name, fits)
  names = {TRAIN: train, TEST: prepared.test_split(data, described)}
  validation, remarks = prepared.split_of(described, VALIDATION), []
  if validation and validation not in names.values():
    if prepared.is_unlabelled(version, described, validation):
      remarks.append(f"split {validation} is left out: it has no labels")
    else:
      names[VALIDATION] = validation
  parts = {part: prepared.checked(data, version, described, name) for part, name in names.items() if name}
  origins = {part: f"split {names[part]}" for part in parts}
  unread = [source.split for source in parts.values() if source.labels is None]
  if names[TEST] and names[TEST] == validation and data.test_split is None:
    remarks.append(f"split {validation} is the test set, as published for ImageNet: there is no labelled test split")
  if unread:
    why = "in a bucket" if folders.is_bucket(version) else f"of more than {labels.MOST:,} records"
    line = f"labels {why} are checked as they come ({', '.join(unread)})"
    held_out = train in unread and (TEST not in parts or data.validation)
    remarks.append(line + "; images of any class are held out" * bool(held_out))
  return _Found(parts, origins, remarks)


def _by_rule_one(data: DataConfig) -> Sources:
  if data.name == FOLDER:
    train, test = rule_one.halves(_own_folder(data, "CLASS/IMAGE, or train and val"))
    if test is None:
      train, test = _apart(train, splits.evenly(train.known_labels(), len(train) // splits.ONE_IN))
  else:
    version = tfds.newest_version(data.name, data.dir)
    described = tfds.described(version)
    if (name := prepared.test_split(data, described)) is None:
      raise ConfigurationError("data.name", data.name, "has no split for testing any more")
    train, test = (prepared.checked(data, version, described, split) for split in (TRAIN, name))
  count = data.validation or 0
  if count >= len(train):
    raise ConfigurationError("data.validation", count, f"there are {len(train)} training images; at least 0, fewer")
  if not count:
    return Sources(train, None, test)
  # TFDS's labels were unknown.
  known = np.zeros(len(train), np.int64) if data.name != FOLDER else train.known_labels()
  return Sources(*_apart(train, splits.evenly(known, count)), test)


def _a_tenth_apart(data: DataConfig, source: Source) -> tuple[Part, Part]:
  """The training and the test images of a data set that has no part for testing."""
  sizes = class_sizes(source)
  if sizes is None:
    held = splits.evenly(np.zeros(len(source), np.int64), len(source) // splits.ONE_IN)
  else:
    held = splits.held(source.known_labels(), _ranks(source), splits.tenths(sizes))
  if not held.any():
    where = "data.dir" if data.name == FOLDER else "data.name"
    fits = "has no part for testing, and no class of two or more images to hold one out of"
    raise ConfigurationError(where, data.dir if data.name == FOLDER else data.name, fits)
  return _apart(source, held)


def _held_out(source: Source, count: int) -> tuple[Part, Part]:
  """The remaining and the held-out images."""
  sizes = class_sizes(source)
  if sizes is None:
    if not len(source.classes) <= count < len(source):
      fits = f"there are {len(source)} training images of {len(source.classes)} classes; at least one for each class"
      raise ConfigurationError("data.validation", count, fits)
    return _apart(source, splits.evenly(np.zeros(len(source), np.int64), count))
  splits.check_count(count, sizes)
  return _apart(source, splits.held(source.known_labels(), _ranks(source), splits.shares(sizes, count)))


def _ranks(source: Source) -> np.ndarray:
  names = source.names_in_class()
  known = source.known_labels()
  return splits.by_place(known) if names is None else splits.by_name(known, names)


def _apart(source: Source, held: np.ndarray) -> tuple[Part, Part]:
  return Part(source, np.flatnonzero(~held)), Part(source, np.flatnonzero(held))


def images_line(parts: Mapping[str, tuple[int, str]]) -> str:
  """A line that says how many images each part has, and where they come from."""
  uses = {TRAIN: "for training", VALIDATION: "for validation", TEST: "for test"}
  words = [
    f"{parts[part][0]:,} {use} ({parts[part][1]})" if part in parts else f"none {use}" for part, use in uses.items()
  ]
  return f"images: {', '.join(words)}"


def lacking_lines(classes: Sequence[str], sizes: Mapping[str, np.ndarray | None]) -> list[str]:
  """A line for each part that lacks classes.

  Args:
    classes: their names.
    sizes: of each part, int [classes]: images of each; None where unknown.
  """
  without = {
    part: [name for name, size in zip(classes, found, strict=True) if not size]
    for part, found in sizes.items()
    if found is not None
  }
  return [f"no {part} image of {some(names)}" for part, names in without.items() if names]


def _lines(found: Sources, origins: Mapping[str, str]) -> list[str]:
  """What the data set was taken for: classes, numbers of images, and where each part comes from."""
  classes = found.train.classes
  parts = {part: source for part, source in zip((TRAIN, VALIDATION, TEST), found, strict=True) if source is not None}
  counted = {part: (len(source), origins[part]) for part, source in parts.items()}
  sizes = {part: class_sizes(source) for part, source in parts.items()}
  return [f"classes: {len(classes):,} ({some(classes)})", images_line(counted), *lacking_lines(classes, sizes)]
