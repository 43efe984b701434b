"""The data sets by name, and their properties that are known before reading."""

import dataclasses
import difflib
import math
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dn_jax.errors import ConfigurationError, near
from dn_jax.system import folders

if TYPE_CHECKING:
  from dn_jax.config.schema import DataConfig


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """A data set before it is read.

  name, num_classes: as in TFDS
  image_shape:       (height, width, channels)
  mean, std:         of each channel, in pixel values, for the published normalisation
  highest:           a pixel's highest value
  mirror, pad:       the augmentation "+"
  column:            the paper's column, without "+"; empty where it has none
  train_splits:      splits that together are the training set
  validation_shares: share of the validation set from each of those
  published:        images of each of those; of so many, the validation images are the published ones, evenly by class
  published_test:   images of the test set
  streamed:          whether images are read one by one, and resized; `num_classes` is then 0 until it is opened
  resize:            for streamed images, the shorter side of a test image before it is cropped
  """

  name: str
  num_classes: int
  image_shape: tuple[int, int, int]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  highest: int = 255
  mirror: bool = True
  pad: int = 4
  column: str = ""
  train_splits: tuple[str, ...] = ("train",)
  validation_shares: tuple[float, ...] = (1.0,)
  published: tuple[int, ...] = ()
  published_test: int = 0
  streamed: bool = False
  resize: int = 0


# CIFAR: per-channel constants of the authors' Torch code. SVHN: pixels / 255 (paper, section 4.1).
# digits: mean and standard deviation of its training images' values (0 to 16).
CATALOG: Mapping[str, DatasetInfo] = {
  info.name: info
  for info in (
    DatasetInfo("digits", 10, (8, 8, 1), (4.884,), (6.016,), highest=16, mirror=False, pad=1),
    DatasetInfo(
      "cifar10",
      10,
      (32, 32, 3),
      (125.3, 123.0, 113.9),
      (63.0, 62.1, 66.7),
      column="c10",
      published=(50_000,),
      published_test=10_000,
    ),
    DatasetInfo(
      "cifar100",
      100,
      (32, 32, 3),
      (129.3, 124.1, 112.4),
      (68.2, 65.4, 70.4),
      column="c100",
      published=(50_000,),
      published_test=10_000,
    ),
    DatasetInfo(
      "svhn_cropped",
      10,
      (32, 32, 3),
      (0.0, 0.0, 0.0),
      (255.0, 255.0, 255.0),
      mirror=False,
      column="svhn",
      train_splits=("train", "extra"),
      validation_shares=(2 / 3, 1 / 3),
      published=(73_257, 531_131),
      published_test=26_032,
    ),
  )
}


# Red's, green's and blue's share of a grey value (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)

# ImageNet's, as for every published network.
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Its classes; its name in TFDS, its training images, and those for validation, on which published networks are tested.
IMAGENET_CLASSES = 1000
_IMAGENET = ("imagenet2012", (1_281_167,), 50_000)
# Sizes of ImageNet's protocol: the crop, and the shorter side of a test image before it.
_CROP, _RESIZE = 224, 256


def info_of(data: "DataConfig") -> DatasetInfo:
  """The properties of a data set that are known before it is opened.

  Raises:
    ConfigurationError: its name is unknown (near names are offered), or --data.size or --data.channels does not apply.
  """
  info, named = recorded(data), _of_column(data.name)
  misspelt = named != data.name or difflib.get_close_matches(data.name.lower(), CATALOG, cutoff=0.6)
  if data.name not in CATALOG and misspelt and not (root(data.dir) / data.name).is_dir():
    fits = near(data.name, CATALOG) if named == data.name else f"did you mean {named}?"
    raise ConfigurationError("data.name", data.name, fits)
  return info


def recorded(data: "DataConfig") -> DatasetInfo:
  """`info_of` a run's record: its images may be gone, so no folder is looked for.

  Raises:
    ConfigurationError: --data.size or --data.channels does not apply.
  """
  info = _named(data)
  own = info.image_shape[2]
  if data.channels in (None, own):
    return info
  if data.channels > own:
    raise ConfigurationError("data.channels", data.channels, f"images of {data.name} are grey; {own}")
  # The mean of grey values is this sum of the means. The deviation is this sum if the channels vary together, as they
  # nearly do; else it is a little less.
  mean, std = ((round(math.sumprod(LUMA, each), 3),) for each in (info.mean, info.std))
  return dataclasses.replace(info, image_shape=(*info.image_shape[:2], 1), mean=mean, std=std, column="")


def _of_column(name: str) -> str:
  """The data set whose column in the paper's tables has this name; the name itself where there is none."""
  return next((info.name for info in CATALOG.values() if info.column and name.lower() == info.column), name)


def _named(data: "DataConfig") -> DatasetInfo:
  """`recorded`, in the data set's own colours."""
  if data.name in CATALOG:
    for flag, value in (("data.size", data.size), ("data.resize", data.resize)):
      if value is not None:
        raise ConfigurationError(flag, value, f"{data.name} has a size; for images that are read one by one")
    of_files = ("test_split", "bit_depth", "interpolation")
    for flag, value in ((f"data.{name.replace('_', '-')}", getattr(data, name)) for name in of_files):
      if value is not None:
        fits = f"{data.name} has its published test set and pixels; for images that are read one by one"
        raise ConfigurationError(flag, value, fits)
    return CATALOG[data.name]
  if data.name.endswith("+"):
    fits = f'"+" is a flag of its own: --data.name {_of_column(data.name[:-1])} --data.augment'
    raise ConfigurationError("data.name", data.name, fits)
  size = _CROP if data.size is None else data.size
  resize = round(size * _RESIZE / _CROP) if data.resize is None else data.resize
  info = DatasetInfo(data.name, 0, (size, size, 3), _IMAGENET_MEAN, _IMAGENET_STD, pad=0, streamed=True, resize=resize)
  name, train, test = _IMAGENET
  return dataclasses.replace(info, published=train, published_test=test) if data.name == name else info


def root(folder: pathlib.Path | None) -> pathlib.Path:
  """The folder of prepared data sets, by default TFDS's own.

  Raises:
    ConfigurationError: a bucket that cannot be reached.
  """
  if folder is None:
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
  return folders.of("data.dir", folder)
