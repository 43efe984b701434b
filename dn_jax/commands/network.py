"""A network without a run: the size of its images and its classes, from flags."""

import dataclasses
from typing import Annotated

from dn_jax.config import datasets
from dn_jax.config.network import is_for_imagenet
from dn_jax.config.schema import DataConfig, ModelConfig, Unset
from dn_jax.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class DataName:
  name: Annotated[str | None, Unset("cifar10; of a network for ImageNet, its own")] = None
  """Take the images' size and the classes of this data set: digits, cifar10, cifar100 or svhn_cropped."""


def input_of(
  model: ModelConfig, data: DataName, image_size: int | None = None, num_classes: int | None = None
) -> tuple[tuple[int, int, int], int]:
  """(height, width, channels) and classes: the data set's, or those of the flags.

  Raises:
    ConfigurationError: an unknown data set, or one whose images have no fixed size.
  """
  if is_for_imagenet(model) and data.name is None:
    shape, classes = (224, 224, 3), 1000
  else:
    # "+" tells of training; the images are the same.
    info = datasets.info_of(DataConfig((data.name or "cifar10").removesuffix("+")))
    if info.streamed and num_classes is None:
      raise ConfigurationError("data.name", data.name, "has images of any size and class; give --num-classes")
    shape, classes = info.image_shape, info.num_classes
  return (image_size, image_size, shape[2]) if image_size else shape, num_classes or classes
