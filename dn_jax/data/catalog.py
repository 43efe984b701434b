"""Loads a data set by name: all its uint8 images and labels, or a source that reads them one by one.

The data sets of the catalog fit a device's memory (SVHN, the largest: 1.9 GB). All others are streamed: `folder`, for
folders of pictures, and every other name that TFDS prepared. Splits and held-out images are the same for every seed.
Nothing is downloaded here; `experiments/prepare.py` does that.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dn_jax.config.datasets import LUMA, DatasetInfo, info_of
from dn_jax.config.schema import ClassImages, DataConfig
from dn_jax.data import archives, image_files, sources, splits, tfds
from dn_jax.data import labels as label_check
from dn_jax.data.sources import Source
from dn_jax.errors import ConfigurationError, shown

# Images turned to grey at a time.
_CHUNK = 10_000


class Split(NamedTuple):
  """images: uint8 [n, height, width, channels]; labels: int32 [n]."""

  images: np.ndarray
  labels: np.ndarray


class Dataset(NamedTuple):
  """The splits that a run uses; `valid` is None where nothing is held out.

  unverified: names of files whose MD5 sum is not their makers', see `dn_jax.data.archives`
  said:       lines that say what the data set was taken for
  rule:       by which it was split, see `dn_jax.data.splits`
  """

  info: DatasetInfo
  train: Split | Source
  valid: Split | Source | None
  test: Split | Source
  unverified: tuple[str, ...] = ()
  said: tuple[str, ...] = ()
  rule: int = splits.RULE


def known(data: DataConfig, rule: int = splits.RULE) -> DatasetInfo:
  """`info_of` with the number of classes, for which a streamed data set is opened; `rule` as of `load`.

  Raises:
    ConfigurationError: as `load`, except for mistakes that only reading finds.
  """
  info = info_of(data)
  return dataclasses.replace(info, num_classes=len(sources.opened(data, rule).train.classes)) if info.streamed else info


def pictures(split: Split | Source) -> int:
  """Number of images in a split."""
  return len(split.labels) if isinstance(split, Split) else len(split)


def load(config: DataConfig, rule: int = splits.RULE) -> Dataset:
  """Reads a data set and holds out the validation images.

  In grey where `config.channels` says so.

  Args:
    config: the data set.
    rule: by which a run splits it, 1 or 2, see `dn_jax.data.splits`.

  Raises:
    ConfigurationError: the data set is unknown, not prepared (the message has the command that prepares it), of other
      images than its name says, or too small for the validation split; its classes cannot be weighted.
  """
  dataset = _loaded(config, rule)
  lines = [_weights_line(dataset)] if config.class_weights else []
  if config.mixup or config.cutmix:
    lines.append("training images are mixed: their logged errors are of each image's own label alone")
  if config.channels == 1 and config.name != "digits":
    lines.append(_grey_line(config, dataset.info))
  return dataset._replace(said=(*dataset.said, *lines))


def _grey_line(config: DataConfig, info: DatasetInfo) -> str:
  """Says how images are turned to grey, and how they are normalised then."""
  said = "images are turned to grey: " + " + ".join(
    f"{share:g} {each}" for share, each in zip(LUMA, "RGB", strict=True)
  )
  if config.normalise not in (None, "channel"):
    return said + "; normalised by the mean grey image"
  if (info.mean[0], info.std[0]) == (0, 255):
    return said + "; divided by 255"
  return f"{said}; mean {info.mean[0]:g} and deviation {info.std[0]:g} are these sums of the published ones"


def _weights_line(dataset: Dataset) -> str:
  """Says which class has the least weight, and which the most."""
  weights = class_weights(dataset)
  names = map(str, range(len(weights))) if isinstance(dataset.train, Split) else dataset.train.classes
  pairs = sorted((weight, name) for weight, name in zip(weights.tolist(), names, strict=True) if weight)
  (least, rarer), (most, rarest) = pairs[0], pairs[-1]
  return f"class weights: from {least:.3g} ({shown(rarer)}) to {most:.3g} ({shown(rarest)})"


def _loaded(config: DataConfig, rule: int) -> Dataset:
  info = info_of(config)
  if info.streamed:
    found, said = sources.taken(config, rule)
    info = dataclasses.replace(info, num_classes=len(found.train.classes))
    return Dataset(info, *found, said=said, rule=rule)
  read, _, unverified = _source(config)
  test = check(info, "test", *read("test"))
  held_out = config.validation or 0
  parts = [check(info, split, *read(split)) for split in info.train_splits]
  if rule == 1 or tuple(len(part.labels) for part in parts) == info.published:
    shares = _shares(info, parts, held_out, rule)
    pairs = [hold_out(part, share, rule) for part, share in zip(parts, shares, strict=True)]
  else:
    pairs = [_apart(part, held) for part, held in zip(parts, _held(info, parts, held_out), strict=True)]
  train, valid = (
    found[0] if len(found) == 1 else Split(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
    for found in zip(*pairs, strict=True)
  )
  whence = " and ".join(info.train_splits)
  line = {"train": (len(train.labels), whence), "test": (len(test.labels), "test")}
  line |= {"validation": (held_out, "held out of these")} if held_out else {}
  sizes = {
    part: np.bincount(split.labels, minlength=info.num_classes)
    for part, split in (("train", train), ("validation", valid), ("test", test))
    if len(split.labels)
  }
  lacking = sources.lacking_lines(tuple(map(str, range(info.num_classes))), sizes)
  said = (f"classes: {info.num_classes}", sources.images_line(line), *lacking)
  return Dataset(info, train, valid if held_out else None, test, unverified(), said, rule)


def _held(info: DatasetInfo, parts: Sequence[Split], count: int) -> list[np.ndarray]:
  """bool [n] for each part of the training set: the validation images by rule 2, taken out of all parts as one.

  Raises:
    ConfigurationError: some class could not give one, or would lose its last training image.
  """
  labels = np.concatenate([part.labels for part in parts])
  sizes = np.bincount(labels, minlength=info.num_classes)
  splits.check_count(count, sizes, f"{info.name} has")
  counts = splits.shares(sizes, count) if count else np.zeros_like(sizes)
  held = splits.held(labels, splits.by_place(labels), counts)
  return np.split(held, np.cumsum([len(part.labels) for part in parts])[:-1])


def _apart(split: Split, held: np.ndarray) -> tuple[Split, Split]:
  """The remaining and the held-out images, each in the split's order."""
  if not held.any():  # Without copying the split.
    return split, Split(split.images[:0], split.labels[:0])
  return Split(split.images[~held], split.labels[~held]), Split(split.images[held], split.labels[held])


def _shares(info: DatasetInfo, parts: Sequence[Split], count: int, rule: int) -> list[int]:
  """How many of the validation images each part of a published training set gives, or of any by rule 1.

  Raises:
    ConfigurationError: some class could not give one, or would lose its last training image.
  """
  total = sum(len(part.labels) for part in parts)
  shares = [round(count * share) for share in info.validation_shares]
  if rule == 1:
    if count >= total:
      fits = f"{info.name} has {total} training images; at least 0, and fewer than that"
      raise ConfigurationError("data.validation", count, fits)
    return shares
  sizes = np.array([np.bincount(part.labels, minlength=info.num_classes) for part in parts])
  splits.check_count(count, sizes.sum(axis=0), f"{info.name} has")
  most = np.maximum(sizes - 1, 0).sum(axis=1).tolist()
  if min(shares) < info.num_classes:  # So few are of the first part alone.
    shares = [count] + [0] * (len(parts) - 1)
  for number, high in enumerate(most):  # What one part has not, the next one gives.
    over = max(0, shares[number] - high)
    shares[number] -= over
    shares[(number + 1) % len(parts)] += over
  if any(share > high for share, high in zip(shares, most, strict=True)):
    raise ConfigurationError("data.validation", count, f"{info.name} has too few training images; at most {sum(most)}")
  return shares


def count(config: DataConfig, rule: int = splits.RULE) -> tuple[int, int, int]:
  """Numbers of training, held-out and test images; none is read. `rule` as of `load`.

  Raises:
    ConfigurationError: as `load`, except for mistakes that only reading finds.
  """
  info = info_of(config)
  if info.streamed:
    found = sources.opened(config, rule)
    return len(found.train), len(found.valid or ()), len(found.test)
  source, held_out = _source(config), config.validation or 0
  train = sum(source.count(split) for split in info.train_splits)
  if held_out >= train:  # By either rule; the classes' own bounds are known once the labels are read.
    fits = f"{config.name} has {train} training images; at least 0, and fewer than that"
    raise ConfigurationError("data.validation", held_out, fits)
  return train - held_out, held_out, source.count("test")


def _source(config: DataConfig) -> tfds.Opened:
  if config.name == "digits":
    return tfds.Opened(_digits, lambda split: len(_digits(split)[1]))
  return archives.opened(config.name, config.dir) or tfds.opened(config.name, config.dir)


def fingerprint(dataset: Dataset) -> dict[str, Any]:
  """Identifies a data set's images: counts and a digest of all labels (fields of `dn_jax.runs.records.Data`).

  For streamed images the digest is of their files' names (or of TFDS's splits), and the classes' names are included,
  by rule 2 with the number of images of each.
  """
  parts = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
  told = hashlib.blake2b(digest_size=16)
  for split in filter(None, parts.values()):
    if isinstance(split, Split):
      told.update(np.ascontiguousarray(split.labels, "<i4").tobytes())
    else:
      told.update(split.told_by().encode("utf-8", "surrogateescape"))
  found = {
    "pictures": {name: pictures(split) for name, split in parts.items() if split is not None},
    "labels": told.hexdigest(),
  }
  if dataset.unverified:
    found["unverified"] = dataset.unverified
  if dataset.rule == splits.RULE:
    found["split_rule"] = splits.RULE
  if isinstance(dataset.train, Split):
    return found
  classes = tuple(dataset.train.classes)
  return found | {"classes": _counted(classes, parts.values()) if dataset.rule == splits.RULE else classes}


def remarks(dataset: Dataset) -> list[str]:
  """A line about files that are not known to be their makers' own."""
  files = ", ".join(dataset.unverified)
  return [f"read since the structure is whole, but without the makers' MD5 sum: {files}"] if files else []


def _counted(classes: Sequence[str], parts: Iterable[Source | None]) -> tuple[ClassImages, ...]:
  sizes = [
    [0] * len(classes) if source is None else [None] * len(classes) if found is None else found.tolist()
    for source in parts
    for found in [sources.class_sizes(source)]
  ]
  return tuple(ClassImages(name, *of_part) for name, *of_part in zip(classes, *sizes, strict=True))


def hold_out(split: Split, count: int, rule: int = splits.RULE) -> tuple[Split, Split]:
  """Takes `count` images out of a split as evenly over the classes as possible, as published: always the same ones.

  Args:
    split: the images.
    count: how many.
    rule: 1 or 2, by which a class keeps its last image, see `dn_jax.data.splits`.

  Returns:
    The remaining images and the held-out ones, each in the split's order.

  Raises:
    ConfigurationError: the split has no more than `count` images.
  """
  if not count:  # Without copying the split.
    return split, Split(split.images[:0], split.labels[:0])
  if count >= len(split.labels):
    raise ConfigurationError(
      "data.validation", count, f"a part of the training set has {len(split.labels)} images; hold out fewer"
    )
  return _apart(split, splits.evenly(split.labels, count, keep=0 if rule == 1 else 1))


def class_weights(dataset: Dataset) -> np.ndarray:
  """float64 [classes]: n / (classes * n_c), of all training images and of a class's; their mean over the images is 1.

  As scikit-learn's `balanced`. Classes without a training image are not counted, and have 0.

  Raises:
    ConfigurationError: labels are known only once the images are read.
  """
  if isinstance(dataset.train, Split):
    sizes = np.bincount(dataset.train.labels, minlength=dataset.info.num_classes)
  else:
    sizes = sources.class_sizes(dataset.train)
  if sizes is None:
    fits = f"labels of {dataset.info.name} are known only once its images are read; leave this flag out"
    raise ConfigurationError("data.class-weights", "balanced", fits)
  weights = np.zeros(len(sizes))
  weights[sizes > 0] = sizes.sum() / ((sizes > 0).sum() * sizes[sizes > 0])
  return weights


def class_names(config: DataConfig, count: int) -> tuple[str, ...] | None:
  """The names of the classes in the data set that TFDS prepared, or in its makers' files, if they are still there.

  None where these are not the names of `count` classes, which are then known by their numbers.
  """
  found = None
  with contextlib.suppress(ConfigurationError, OSError):
    found = archives.classes(config.name, config.dir)
  with contextlib.suppress(ConfigurationError, OSError):
    found = tfds.described(tfds.newest_version(config.name, config.dir)).classes
  return found if found and len(found) == count else None


def normalisation(dataset: Dataset, how: str | None) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation for normalising images; both broadcast over [height, width, channels].

  `channel`: the data set's published constants. `pixel`: the mean training image, and one standard deviation of all
  pixel values, without the mean image subtracted (the authors' Torch code of stochastic depth). `mean`: the mean
  image, and 1 (the authors' Caffe code).

  Raises:
    ValueError: none of these, such as the None of a configuration that is not resolved.
  """
  if how not in ("channel", "pixel", "mean"):
    raise ValueError(f"normalise {how!r}: channel, pixel or mean; `dn_jax.config.resolve.resolve` fills in a run's")
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
    raise ConfigurationError("data.dir", where, "has no images")
  if info.image_shape[2] == 1 and images.shape[3:] == (3,) and images.dtype == np.uint8:
    images = _grey(images)
  if images.shape[1:] != info.image_shape or images.dtype != np.uint8:
    raise ConfigurationError(
      "data.dir", where, f"images are {images.dtype} {images.shape[1:]}; they should be uint8 {info.image_shape}"
    )
  if fault := label_check.fault(labels, info.num_classes):
    fits = f"labels run from {labels.min()} to {labels.max()}; they should be 0 to {info.num_classes - 1} ({fault})"
    raise ConfigurationError("data.dir", where, fits)
  return Split(images, labels.astype(np.int32))


def _grey(images: np.ndarray) -> np.ndarray:
  """uint8 [n, height, width, 1]: the grey images of RGB [n, height, width, 3]."""
  found = np.empty((*images.shape[:3], 1), np.uint8)
  for first in range(0, len(images), _CHUNK):
    some = images[first : first + _CHUNK]
    found[first : first + _CHUNK] = image_files.grey(some.reshape(-1, *some.shape[2:])).reshape(*some.shape[:3], 1)
  return found


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
  """scikit-learn's 1,797 scanned digits: 1,297 to train, 500 to test, every class in proportion."""
  from sklearn.datasets import load_digits  # A second to import, for this data set alone.
  from sklearn.model_selection import train_test_split

  digits = load_digits()
  rows = np.arange(len(digits.target))
  train, test = train_test_split(rows, test_size=500, stratify=digits.target, random_state=0)
  rows = np.sort(train if split == "train" else test)
  return digits.images[rows, :, :, None].astype(np.uint8), digits.target[rows]
