"""A network without a run: the size of its images and its classes, from flags."""

import dataclasses

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig, ModelConfig
from dn_jax.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class DataName:
  name: str | None = None
  """Whose images and classes: digits, cifar10, cifar100, svhn_cropped (default: CIFAR-10's, or ImageNet's)."""


def input_of(
  model: ModelConfig, data: DataName, image_size: int | None = None, num_classes: int | None = None
) -> tuple[tuple[int, int, int], int]:
  """(height, width, channels) and classes: the data set's, or those of the flags.

  Raises:
    ConfigurationError: an unknown data set, or one whose images have no fixed size.
  """
  if model.stem == "imagenet" and data.name is None:
    shape, classes = (224, 224, 3), 1000
  else:
    info = datasets.info_of(DataConfig(data.name or "cifar10"))
    if info.streamed and num_classes is None:
      raise ConfigurationError("data.name", data.name, "has pictures of any size and class; give --num-classes")
    shape, classes = info.image_shape, info.num_classes
  return (image_size, image_size, shape[2]) if image_size else shape, num_classes or classes
