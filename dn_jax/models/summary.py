"""A network layer by layer: shapes, parameters, FLOPs; read off the modules as they are traced."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import rich.table

from dn_jax.models.batch_stats import BatchNorm
from dn_jax.models.densenet import Transition


class Row(NamedTuple):
  """A module that has parameters.

  path:       its place in the parameter tree, with "/"
  kind:       what it is, kernel size included
  output:     shape of its output, without the batch
  parameters: how many
  flops:      of convolutions and products, for a picture, a multiply-add counted as two; as published, with
              a transition's 1x1 convolution before its pool (run here after it, for a quarter of that)
  """

  path: str
  kind: str
  output: tuple[int, ...]
  parameters: int
  flops: int


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Row]:
  """Traces one picture of [height, width, channels] through the network in evaluation; computes nothing."""
  rows: list[Row] = []
  pixels_of_transition: dict[tuple[str, ...], int] = {}

  def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    if context.method_name == "__call__" and isinstance(module, Transition):
      pixels_of_transition[module.path] = math.prod(args[0][0].values.shape[1:3])
    output = call(*args, **kwargs)
    if context.method_name == "__call__" and isinstance(module, nn.Conv | nn.Dense | BatchNorm):
      shapes = {name: value.shape for name, value in module.variables["params"].items()}
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


def parameter_count(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """Number of trained parameters, from shapes alone."""
  shapes = jax.eval_shape(
    lambda key, x: network.init(key, x, False), jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), "float32")
  )
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


def table(rows: list[Row], title: str) -> rich.table.Table:
  """The layers as a table with a line of totals."""
  result = rich.table.Table(title=title, caption="FLOPs a picture, a multiply-add counted as two")
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
