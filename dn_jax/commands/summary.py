"""Prints a network layer by layer: output shapes, parameters, FLOPs."""

import dataclasses

from dn_jax.commands import command_line
from dn_jax.commands.network import DataName, input_of
from dn_jax.config.network import check_images, complete_model, name_of
from dn_jax.config.schema import Count, ModelConfig, Size


def summary(
  model: ModelConfig = ModelConfig(),
  data: DataName = DataName(),
  image_size: Size | None = None,
  num_classes: Count | None = None,
) -> None:
  """Prints a network layer by layer.

  Args:
    model: the network.
    data: the data set of the images.
    image_size: height and width, instead of the data set's.
    num_classes: instead of the data set's.
  """
  complete = complete_model(dataclasses.replace(model, remat="none"))
  shape, classes = input_of(complete, data, image_size, num_classes)
  check_images(complete, min(shape[:2]), 2)
  height, width, channels = shape
  title = f"{name_of(complete)}: pictures of {height}x{width}x{channels}, {classes} classes"
  from dn_jax.models import build
  from dn_jax.models import summary as layer_by_layer

  layers = layer_by_layer.layers(build.build(complete, classes), shape)
  command_line.console().print(layer_by_layer.table(layers, title))


main = command_line.program(summary, __doc__)
