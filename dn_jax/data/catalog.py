"""Loads a data set by name: all its uint8 images and labels, or a source that reads them one by one.

The data sets of the catalog fit a device's memory (SVHN, the largest: 1.9 GB). All others are streamed: `folder`, for
folders of pictures, and every other name that TFDS prepared. Splits and held-out images are the same for every seed.
Nothing is downloaded here; `experiments/prepare.py` does that.
"""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np

from dn_jax.config.datasets import DatasetInfo, info_of
from dn_jax.config.schema import DataConfig
from dn_jax.data import archives, sources, tfds
from dn_jax.data.sources import Source
from dn_jax.errors import ConfigurationError


class Split(NamedTuple):
  """images: uint8 [n, height, width, channels]; labels: int32 [n]."""

  images: np.ndarray
  labels: np.ndarray


class Dataset(NamedTuple):
  """The splits that a run uses; `valid` is None where nothing is held out.

  `unverified` are names of files whose MD5 sum is not their makers', see `dn_jax.data.archives`.
  """

  info: DatasetInfo
  train: Split | Source
  valid: Split | Source | None
  test: Split | Source
  unverified: tuple[str, ...] = ()


def known(data: DataConfig) -> DatasetInfo:
  """`info_of` with the number of classes, for which a streamed data set is opened.

  Raises:
    ConfigurationError: as `load`, except for mistakes that only reading finds.
  """
  info = info_of(data)
  return dataclasses.replace(info, num_classes=len(sources.opened(data).train.classes)) if info.streamed else info


def pictures(split: Split | Source) -> int:
  """Number of images in a split."""
  return len(split.labels) if isinstance(split, Split) else len(split)


def load(config: DataConfig) -> Dataset:
  """Reads a data set and holds out the validation images.

  Raises:
    ConfigurationError: the data set is unknown, not prepared (the message has the command that prepares it), of other
      images than its name says, or too small for the validation split.
  """
  info = info_of(config)
  if info.streamed:
    splits = sources.opened(config)
    return Dataset(dataclasses.replace(info, num_classes=len(splits.train.classes)), *splits)
  read, _, unverified = _source(config)
  test = check(info, "test", *read("test"))
  held_out = config.validation or 0
  parts = [check(info, split, *read(split)) for split in info.train_splits]
  total = sum(len(part.labels) for part in parts)
  if held_out >= total:
    raise ConfigurationError(
      "data.validation", held_out, f"{info.name} has {total} training pictures; at least 0, and fewer than that"
    )
  shares = [round(held_out * share) for share in info.validation_shares]
  pairs = [hold_out(part, share) for part, share in zip(parts, shares, strict=True)]
  train, valid = (
    splits[0] if len(splits) == 1 else Split(*(np.concatenate(arrays) for arrays in zip(*splits, strict=True)))
    for splits in zip(*pairs, strict=True)
  )
  return Dataset(info, train, valid if held_out else None, test, unverified())


def count(config: DataConfig) -> tuple[int, int, int]:
  """Numbers of training, held-out and test images; none is read.

  Raises:
    ConfigurationError: as `load`, except for mistakes that only reading finds.
  """
  info = info_of(config)
  if info.streamed:
    splits = sources.opened(config)
    return len(splits.train), len(splits.valid or ()), len(splits.test)
  source, held_out = _source(config), config.validation or 0
  train = sum(source.count(split) for split in info.train_splits)
  if held_out >= train:
    raise ConfigurationError(
      "data.validation", held_out, f"{config.name} has {train} training pictures; fewer than that"
    )
  return train - held_out, held_out, source.count("test")


def _source(config: DataConfig) -> tfds.Opened:
  if config.name == "digits":
    return tfds.Opened(_digits, lambda split: len(_digits(split)[1]))
  return archives.opened(config.name, config.dir) or tfds.opened(config.name, config.dir)


def fingerprint(dataset: Dataset) -> dict[str, Any]:
  """Identifies a data set's images: counts and a digest of all labels (fields of `dn_jax.runs.records.Data`).

  For streamed images the digest is of their files' names (or of TFDS's splits), and the classes' names are included.
  """
  splits = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
  told = hashlib.blake2b(digest_size=16)
  for split in filter(None, splits.values()):
    if isinstance(split, Split):
      told.update(np.ascontiguousarray(split.labels, "<i4").tobytes())
    else:
      told.update(split.told_by().encode())
  found = {
    "pictures": {name: pictures(split) for name, split in splits.items() if split is not None},
    "labels": told.hexdigest(),
  }
  if dataset.unverified:
    found["unverified"] = dataset.unverified
  return found if isinstance(dataset.train, Split) else found | {"classes": tuple(dataset.train.classes)}


def remarks(dataset: Dataset) -> list[str]:
  """A line about files that are not known to be their makers' own."""
  files = ", ".join(dataset.unverified)
  return [f"read since the structure is whole, but without the makers' MD5 sum: {files}"] if files else []


def hold_out(split: Split, count: int) -> tuple[Split, Split]:
  """Takes `count` images out of a split, as evenly over the classes as possible; always the same ones.

  Returns:
    The remaining images and the held-out ones, each in the split's order.

  Raises:
    ConfigurationError: the split has no more than `count` images.
  """
  if not count:  # Without copying the split.
    return split, Split(split.images[:0], split.labels[:0])
  if count >= len(split.labels):
    raise ConfigurationError(
      "data.validation", count, f"a part of the training set has {len(split.labels)} pictures; hold out fewer"
    )
  held = sources.held_out(split.labels, count)
  return Split(split.images[~held], split.labels[~held]), Split(split.images[held], split.labels[held])


def normalisation(dataset: Dataset, how: str) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation for normalising images; both broadcast over [height, width, channels].

  `channel`: the data set's published constants. `pixel`: the mean training image, and one standard deviation of all
  pixel values, without the mean image subtracted (the authors' Torch code of stochastic depth). `mean`: the mean
  image, and 1 (the authors' Caffe code).
  """
  if how == "channel":
    return np.asarray(dataset.info.mean), np.asarray(dataset.info.std)
  pictures = dataset.train.images
  mean = pictures.mean(axis=0, dtype=np.float64)
  if how == "mean":
    return mean, np.ones(1)
  # E[x^2] - E[x]^2, the sums exact in integers.
  square = np.square(pictures, dtype=np.uint32).sum(dtype=np.uint64) / pictures.size
  return mean, np.sqrt(square - np.square(pictures.sum(dtype=np.uint64) / pictures.size))[None]


def check(info: DatasetInfo, split: str, images: np.ndarray, labels: np.ndarray) -> Split:
  """Makes a split of images and labels that its data set's name promises.

  Raises:
    ConfigurationError: no images, another shape or type, or labels out of range.
  """
  where = f"{info.name}, split {split}"
  if not len(images):
    raise ConfigurationError("data.dir", where, "has no pictures")
  if images.shape[1:] != info.image_shape or images.dtype != np.uint8:
    raise ConfigurationError(
      "data.dir", where, f"pictures are {images.dtype} {images.shape[1:]}; they should be uint8 {info.image_shape}"
    )
  if labels.min() < 0 or labels.max() >= info.num_classes:
    raise ConfigurationError(
      "data.dir", where, f"labels run from {labels.min()} to {labels.max()}; they should be 0 to {info.num_classes - 1}"
    )
  return Split(images, labels.astype(np.int32))


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
  """scikit-learn's 1,797 scanned digits: 1,297 to train, 500 to test, every class in proportion."""
  from sklearn.datasets import load_digits  # A second to import, for this data set alone.
  from sklearn.model_selection import train_test_split

  digits = load_digits()
  rows = np.arange(len(digits.target))
  train, test = train_test_split(rows, test_size=500, stratify=digits.target, random_state=0)
  rows = np.sort(train if split == "train" else test)
  return digits.images[rows, :, :, None].astype(np.uint8), digits.target[rows]
