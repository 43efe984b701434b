"""A network without a run: the size of its images and its classes, from flags."""

import dataclasses

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig, ModelConfig
from dn_jax.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class DataName:
  name: str | None = None
  """Whose pictures and classes: digits, cifar10, cifar100, svhn_cropped (default: CIFAR-10's, or ImageNet's)."""


def input_of(
  model: ModelConfig, data: DataName, image_size: int | None = None, num_classes: int | None = None
) -> tuple[tuple[int, int, int], int]:
  """(height, width, channels) and classes: those of the data set, where flags do not say otherwise.

  Args:
    model: completed.
    data: whose images.
    image_size: height and width, instead of the data set's.
    num_classes: instead of the data set's.

  Raises:
    ConfigurationError: a flag's value does not fit.
  """
  for flag, value in (("image-size", image_size), ("num-classes", num_classes)):
    if value is not None and value < 1:
      raise ConfigurationError(flag, value, "must be at least 1")
  if model.stem == "imagenet" and data.name is None:
    shape, classes = (224, 224, 3), 1000
  else:
    info = datasets.info_of(DataConfig(data.name or "cifar10"))
    if info.streamed and num_classes is None:
      raise ConfigurationError("data.name", data.name, "has pictures of any size and class; give --num-classes")
    shape, classes = info.image_shape, info.num_classes
  return (image_size, image_size, shape[2]) if image_size else shape, num_classes or classes
