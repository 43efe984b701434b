"""Prints a network layer by layer: output shapes, parameters, FLOPs.

  python -m dn_jax summary --model.name densenet-121
  python -m dn_jax summary --model.depth 40 --model.growth-rate 24

Nothing is computed, and no data set is needed.
"""

import dataclasses
from typing import Annotated

from dn_jax.commands import command_line
from dn_jax.commands.network import DataName, input_of
from dn_jax.config.network import check_images, complete_model, name_of
from dn_jax.config.schema import Count, ModelConfig, Size, Unset


def summary(
  model: ModelConfig = ModelConfig(),
  data: DataName = DataName(),
  image_size: Annotated[Size | None, Unset("the data set's")] = None,
  num_classes: Annotated[Count | None, Unset("the data set's")] = None,
) -> None:
  """Prints a network layer by layer.

  Args:
    model: the network.
    data: the data set of the images.
    image_size: take images of this height and width, in pixels.
    num_classes: take so many classes.
  """
  complete = complete_model(dataclasses.replace(model, remat="none"))
  shape, classes = input_of(complete, data, image_size, num_classes)
  check_images(complete, min(shape[:2]), 2)
  height, width, channels = shape
  title = f"{name_of(complete)}: images of {height}x{width}x{channels}, {classes} classes"
  from dn_jax.models import build
  from dn_jax.models import summary as layer_by_layer

  layers = layer_by_layer.layers(build.build(complete, classes), shape)
  command_line.console().print(layer_by_layer.table(layers, title))


main = command_line.program(summary, __doc__)
