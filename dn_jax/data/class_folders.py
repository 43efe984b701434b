"""Takes a folder for what it is: class folders, alone or in parts for training, validation and test.

Parts are known by their usual names in any case. Folders around a data set, as archives leave them, are looked through.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dn_jax.data import walk
from dn_jax.data.walk import Walk
from dn_jax.errors import ConfigurationError, shown

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# In small letters.
_NAMES: Mapping[str, Sequence[str]] = {
  TRAIN: ("train", "training"),
  VALIDATION: ("val", "valid", "validation"),
  TEST: ("test", "testing"),
}
# After such a name, as in test_set.
_SET = re.compile(r"[ _-]?set$")
# In small letters: a folder within a part, around images without labels.
_NO_CLASS = frozenset({"all", "data", "image", "images", "img", "imgs", "unknown", "unlabeled", "unlabelled"})


def parts_by_name(names: Iterable[str]) -> dict[str, list[str]]:
  """Those of some names that usually say `TRAIN`, `VALIDATION` or `TEST`, in any case."""
  plain = {name: _SET.sub("", name.casefold()) for name in names}
  return {part: [name for name in plain if plain[name] in usual] for part, usual in _NAMES.items()}


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

  def known_labels(self) -> np.ndarray:
    """int [n]."""
    return np.asarray(self.labels, np.int64)

  def names_in_class(self) -> list[str]:
    """Each file's path below its class's folder."""
    return [file.partition("/")[2] for file in self.files]


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a folder was taken for.

  folders:  the folder of each part, by `TRAIN`, `VALIDATION` and `TEST`; empty for class folders without parts
  whole:    the folder itself, or the one within it that was looked through to
  """

  folders: Mapping[str, pathlib.Path]
  whole: pathlib.Path


def parts_of(folder: pathlib.Path, found: Walk, classes: Sequence[str] | None = None) -> Parts:
  """Finds the parts of a folder.

  Args:
    folder: of `--data.dir`.
    found: of that folder.
    classes: the network's, where it was trained already.

  Raises:
    ConfigurationError: it is no folder, a part has two names, or parts are there and none is for training (unless
      `classes` are given).
  """
  whole = _looked_through(folder, found, classes)
  names = found.children(whole).folders
  named = parts_by_name([name for name in names if name not in (classes or ())])
  if not (named[TRAIN] and (named[VALIDATION] or named[TEST])):  # A class may be called so: one of trains.
    named = {part: [name for name in alike if found.children(whole / name).folders] for part, alike in named.items()}
  for part, alike in named.items():
    if len(alike) > 1:
      raise ConfigurationError("data.dir", whole, f"has {' and '.join(alike)}, which both say {part}; leave one")
  of_part = {part: alike[0] for part, alike in named.items() if alike}
  if TRAIN in of_part and len(of_part) == 1:
    if classes is None:
      usual = ", ".join((*_NAMES[VALIDATION], TEST))
      raise ConfigurationError("data.dir", whole, f"has {of_part[TRAIN]} and none of {usual} beside it")
    of_part = {}
  elif of_part and TRAIN not in of_part and classes is None:
    there = " and ".join(of_part.values())
    raise ConfigurationError("data.dir", whole, f"has {there} and none of {', '.join(_NAMES[TRAIN])} beside it")
  if of_part:
    for name in sorted(set(names) - set(of_part.values())):
      found.passed.add(walk.BESIDE, os.path.relpath(whole / name, folder))
    for name in found.children(whole).images:
      found.passed.add(walk.LOOSE, os.path.relpath(whole / name, folder))
  return Parts({part: whole / name for part, name in of_part.items()}, whole)


def without_classes(folder: pathlib.Path, classes: Sequence[str], found: Walk) -> int:
  """The number of images in a part that has no class folders, as of a test whose labels are not published; else 0.

  They may be in one folder within another, each called like a part or by a word that says nothing.
  """
  while True:
    children = found.children(folder)
    if len(children.folders) != 1 or children.images or children.folders[0] in classes:
      return 0 if children.folders else len(children.images)
    (name,) = children.folders
    if name.casefold() not in (folder.name.casefold(), *_NO_CLASS) and not any(parts_by_name([name]).values()):
      return 0
    folder = folder / name


def class_folders(
  flag: str, folder: pathlib.Path, classes: Sequence[str] | None = None, found: Walk | None = None
) -> ClassFolders:
  """Lists a folder of class folders, and the folders within them.

  Args:
    flag: that gave the folder.
    folder: has files CLASS/IMAGE.
    classes: those that may be there, in the order of their labels; by default all there are, by name.
    found: reads a folder that this one is in; by default this one.

  Raises:
    ConfigurationError: no folder, fewer than two class folders, a class without images or folders that look like parts
      (both only where `classes` are not given), or other classes than given.
  """
  if not folder.is_dir():
    raise ConfigurationError(flag, folder, "is not a folder")
  found = found or Walk(folder, flag)
  folder = _looked_through(folder, found, classes)
  names, loose = found.children(folder)
  if not names:
    raise ConfigurationError(flag, folder, "has no class folders; put images at CLASS/IMAGE in it")
  if classes is None and len(names) == 1:
    raise ConfigurationError(flag, folder, f"has one class folder, {names[0]}; at least two are needed")
  if strange := sorted(set(names) - set(classes or names)):
    lacks = sorted(set(classes) - set(names))
    words = [f"lacks {some(lacks)}"] * bool(lacks) + [f"has {some(strange)} besides"]
    raise ConfigurationError(flag, folder, f"{' and '.join(words)}, unlike the classes that were trained on")
  for name in loose:
    found.passed.add(walk.LOOSE, name)
  by_class = {name: found.images(folder / name) if name in names else [] for name in classes or names}
  if classes is None:
    for name, files in by_class.items():
      if not files:
        what = "has no images" + (f" ({line})" if (line := found.passed.line()) else "")
        raise ConfigurationError(flag, folder / name, what)
    holders, alike = _alike(by_class)
    if alike:
      fits = f"folders in it ({some(holders)}) hold the same folders ({some(alike)}): they look like parts of a "
      fits += "data set, not like classes; call parts train and test, or train, val and test"
      raise ConfigurationError(flag, folder, fits)
    if said := _like_parts(by_class):
      fits = f"{said}: it looks like parts of a data set, not like classes; call parts train and test"
      raise ConfigurationError(flag, folder, fits)
  elif not any(by_class.values()):
    raise ConfigurationError(flag, folder, "has no images")
  labels = [label for label, files in enumerate(by_class.values()) for _ in files]
  files = [f"{name}/{file}" for name, files in by_class.items() for file in files]
  return ClassFolders(folder, tuple(by_class), tuple(files), tuple(labels))


def some(names: Sequence[str]) -> str:
  """The first names of many, each shortened."""
  short = [shown(name if len(name) <= 30 else f"{name[:27]}...") for name in names[:3]]
  return ", ".join(short) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _looked_through(folder: pathlib.Path, found: Walk, classes: Sequence[str] | None) -> pathlib.Path:
  """The folder, or the only one in it (and so on) where that holds folders and no images, as an archive leaves it."""
  while True:
    children = found.children(folder)
    if len(children.folders) != 1 or children.images or children.folders[0] in (classes or ()):
      return folder
    (name,) = children.folders
    # A training part alone is refused, unless it is in a folder of its own name.
    is_part = any(parts_by_name([name]).values()) and name.casefold() != folder.name.casefold()
    if is_part or not _is_around_classes(folder / name, found):
      return folder
    folder = folder / name


def _is_around_classes(folder: pathlib.Path, found: Walk) -> bool:
  """Whether a folder holds folders and no images."""
  children = found.children(folder)
  return bool(children.folders) and not children.images


def _alike(by_class: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
  """Folders, at least half of all, and the names of two or more folders that most of what is in them has in common.

  Folders around all that is in one, as an archive leaves them, do not count; one without folders says nothing.
  """
  unwrapped = {name: _unwrapped(files) for name, files in by_class.items()}
  holding = {name: counts for name, counts in unwrapped.items() if set(counts) != {()}}
  loose, total = (sum(map(of, holding.values())) for of in (lambda counts: counts[()], collections.Counter.total))
  if len(holding) < 2 or 2 * len(holding) < len(by_class) or 2 * loose >= total:
    return [], []
  for depth in range(max(len(parts) for counts in holding.values() for parts in counts)):
    names = [{parts[depth] for parts in counts if len(parts) > depth} for counts in holding.values()]
    shared, every = set.intersection(*names), set.union(*names)
    if len(shared) >= 2 and 2 * len(shared) >= len(every):
      return list(holding), sorted(shared)
    if not shared:
      break
  return [], []


def _like_parts(by_class: Mapping[str, Sequence[str]]) -> str | None:
  """What makes a folder of folders, each called like one of them, and another one look like parts; else None.

  A training part holds two folders or more, and no images beside them.
  """
  words = {name: set(re.split(r"[^a-z]+", name.casefold())) for name in by_class}
  saying = lambda part: [name for name in by_class if words[name] & set(_NAMES[part])]
  train = [name for name in saying(TRAIN) if len(held := _unwrapped(by_class[name])) > 1 and () not in held]
  other = [name for name in (*saying(TEST), *saying(VALIDATION)) if name not in train]
  return f"{some(train)} holds folders, and {some(other)} is beside it" if train and other else None


def _unwrapped(files: Sequence[str]) -> collections.Counter[tuple[str, ...]]:
  """How many files are in each folder, by its path below the innermost folder that all are in."""
  counts = collections.Counter(tuple(file.split("/")[:-1]) for file in files)
  levels = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*counts, strict=False))
  around = sum(1 for _ in levels)
  return collections.Counter({parts[around:]: count for parts, count in counts.items()})
