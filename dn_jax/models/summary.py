"""A network layer by layer: shapes, parameters and FLOPs, recorded while JAX traces the modules."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import rich.table

from dn_jax.models.densenet import Transition


class Row(NamedTuple):
  """A module that has parameters of its own.

  path:       in the parameter tree: "block1/layer1/conv1"
  kind:       "Conv 3x3", "Dense", "BatchNorm"; of a layer's own scale the layer
  output:     shape without the batch
  parameters: number of trained parameters
  flops:      per image, of convolutions and matrix products, a multiply-add counted as two. A transition's 1x1
              convolution is counted before the pool, as published; here it runs after the pool, with a quarter of them.
  """

  path: str
  kind: str
  output: tuple[int, ...]
  parameters: int
  flops: int


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Row]:
  """The rows of a network for images of [height, width, channels]; traces an evaluation and computes nothing."""
  rows: list[Row] = []
  pixels_of_transition: dict[tuple[str, ...], int] = {}

  def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    if context.method_name == "__call__" and isinstance(module, Transition):
      pixels_of_transition[module.path] = math.prod(args[0][0].values.shape[1:3])
    output = call(*args, **kwargs)
    own = {name: value for name, value in module.variables.get("params", {}).items() if not isinstance(value, Mapping)}
    if context.method_name == "__call__" and own:
      shapes = {name: value.shape for name, value in own.items()}
      kernel = shapes.get("kernel", ())
      kind = type(module).__name__ + (f" {kernel[0]}x{kernel[1]}" if len(kernel) == 4 else "")
      pixels = pixels_of_transition.get(module.path[:-1], math.prod(output.shape[1:-1]))
      rows.append(
        Row(
          "/".join(module.path),
          kind,
          output.shape[1:],
          sum(map(math.prod, shapes.values())),
          2 * pixels * math.prod(kernel) if kernel else 0,
        )
      )
    return output

  with nn.intercept_methods(watch):
    jax.eval_shape(
      lambda key, x: network.init(key, x, False), jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), "float32")
    )
  return rows


def table(rows: list[Row], title: str) -> rich.table.Table:
  """A table of the layers, with a line of totals."""
  result = rich.table.Table(title=title, caption="FLOPs an image, a multiply-add counted as two")
  for name, justify in (
    ("layer", "left"),
    ("kind", "left"),
    ("output", "right"),
    ("parameters", "right"),
    ("MFLOPs", "right"),
  ):
    result.add_column(name, justify=justify)
  for row in rows:
    result.add_row(
      row.path,
      row.kind,
      "x".join(map(str, row.output)),
      f"{row.parameters:,}",
      f"{row.flops / 1e6:,.2f}" if row.flops else "",
    )
  result.add_section()
  result.add_row(
    "total", "", "", f"{sum(row.parameters for row in rows):,}", f"{sum(row.flops for row in rows) / 1e6:,.2f}"
  )
  return result
