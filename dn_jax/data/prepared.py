"""Splits of streamed data sets that TFDS prepared: their records by number, with labels that are checked."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from dn_jax.config.schema import DataConfig
from dn_jax.data import labels, tfds
from dn_jax.data.class_folders import TEST, TRAIN, VALIDATION, parts_by_name
from dn_jax.data.image_files import BadPictureError
from dn_jax.errors import ConfigurationError, first_line


@dataclasses.dataclass(frozen=True)
class Records:
  """A split of a data set that TFDS prepared as array_record, with `image` and `label`; `labels` where known."""

  folder: pathlib.Path
  split: str
  classes: tuple[str, ...]
  size: int
  labels: np.ndarray | None = None

  def __len__(self) -> int:
    return self.size

  @functools.cached_property
  def _rows(self) -> Any:
    return tfds.undecoded(self.folder, self.split)

  def __getitem__(self, number: int) -> tuple[bytes, int]:
    try:
      row = self._rows[number]
    except Exception as error:  # A reader's own kinds, for a record that is damaged.
      raise BadPictureError(f"{self.name_of(number)}: cannot be read ({first_line(error)})") from None
    label = int(row["label"])
    if not 0 <= label < len(self.classes):
      fits = f"label {label} of record {number} of split {self.split} is not 0 to {len(self.classes) - 1}"
      raise ConfigurationError("data.dir", self.folder, fits)
    return row["image"], label

  def name_of(self, number: int) -> str:
    return f"{self.folder}, split {self.split}, record {number}"

  def told_by(self) -> str:
    return f"{self.split} {self.size}"

  def known_labels(self) -> np.ndarray | None:
    return self.labels

  def names_in_class(self) -> None:
    return None

  def __getstate__(self) -> dict[str, Any]:
    # A worker process opens the files itself.
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def split_of(described: tfds.Described, part: str) -> str | None:
  """The split of a part, by its own name or the first of the usual ones; None where there is none."""
  usual = parts_by_name(described.splits)[part]
  return part if part in usual else next(iter(usual), None)


def test_split(data: DataConfig, described: tfds.Described) -> str | None:
  """The name of the test split; None where none is for testing."""
  if (asked := data.test_split) is not None:
    train = split_of(described, TRAIN)
    if asked not in described.splits or asked == train:
      others = ", ".join(name for name in described.splits if name != train)
      raise ConfigurationError("data.test-split", asked, f"one of {others}" if others else "there is train alone")
    return asked
  wanted = [VALIDATION] if data.name == "imagenet2012" else [TEST, VALIDATION]
  return next((name for part in wanted if (name := split_of(described, part))), None)


def is_unlabelled(version: pathlib.Path, described: tfds.Described, split: str) -> bool:
  """Whether the labels of a split that are looked at are all -1, as TFDS has it where none is published."""
  size = described.splits[split]
  found = labels.known(version, split, size) if size else None
  looked_at = labels.first(version, split, size) if found is None else found
  return size > 0 and bool((looked_at == -1).all())


def checked(data: DataConfig, version: pathlib.Path, described: tfds.Described, split: str) -> Records:
  """A split, whose labels are read where that takes little time, and checked.

  Raises:
    ConfigurationError: labels are none of the classes; in place of a test split a labelled one is offered.
  """
  size, classes = described.splits[split], described.classes
  if not size:
    raise ConfigurationError("data.name", data.name, f"split {split} has no images")
  tfds.check_shards(version, split)
  found = labels.known(version, split, size)
  looked_at = labels.first(version, split, size) if found is None else found
  if fault := labels.fault(looked_at, len(classes)):
    fits = f"split {split}: {fault}"
    train = split_of(described, TRAIN)
    others = [name for name in described.splits if name not in (train, split)]
    if split != test_split(data, described):
      others = []
    for other in others:
      if not labels.fault(labels.first(version, other, described.splits[other]), len(classes)):
        fits += f"; split {other} has labels: --data.test-split {other}"
    raise ConfigurationError("data.name", data.name, fits)
  return Records(version, split, classes, size, found)
