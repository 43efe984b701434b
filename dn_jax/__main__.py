"""python -m dn_jax summary|zoo|plan: a network layer by layer; every published one; what a training step takes."""

import dataclasses
from typing import Annotated

import rich.console
import rich.table
import tyro

from dn_jax.commands import command_line
from dn_jax.config import datasets, zoo
from dn_jax.config.network import check_images, complete_model, name_of, remat_policies
from dn_jax.config.schema import DataConfig, ModelConfig
from dn_jax.errors import ConfigurationError, near

# Wide enough for the longest name where the output is no terminal.
_console = rich.console.Console(width=None if rich.console.Console().is_terminal else 140)


@dataclasses.dataclass(frozen=True)
class DataName:
  name: str | None = None
  """Whose pictures and classes: digits, cifar10, cifar100, svhn_cropped (default: CIFAR-10's, or ImageNet's)."""


def print_summary(
  model: ModelConfig = ModelConfig(),
  data: DataName = DataName(),
  image_size: int | None = None,
  num_classes: int | None = None,
) -> None:
  """Prints a network layer by layer: output shapes, parameters, FLOPs.

  Args:
    model: which network.
    data: whose pictures.
    image_size: height and width, instead of the data set's.
    num_classes: instead of the data set's.
  """
  from dn_jax.models import build, summary  # JAX, which takes seconds.

  complete = complete_model(dataclasses.replace(model, remat="none"))
  shape, classes = _pictures(complete, data, image_size, num_classes)
  check_images(complete, min(shape[:2]), 2)
  height, width, channels = shape
  title = f"{name_of(complete)}: pictures of {height}x{width}x{channels}, {classes} classes"
  _console.print(summary.table(summary.layers(build.build(complete, classes), shape), title))


def print_plan(
  model: ModelConfig = ModelConfig(),
  data: DataName = DataName(),
  image_size: int | None = None,
  num_classes: int | None = None,
  batch_size: int = 64,
  statistics_groups: int = 1,
  accumulation: int = 1,
  target: tuple[str, ...] = ("here",),
) -> None:
  """Compiles the training step under every remat policy, or the given one, and prints what it takes; trains nothing.

  Args:
    model: which network; with --model.remat, under that policy alone.
    data: whose pictures.
    image_size: height and width, instead of the data set's.
    num_classes: instead of the data set's.
    batch_size: pictures a step, over all devices of a target.
    statistics_groups: of the batch, each normalised by itself.
    accumulation: pieces that a device goes through one after another, each of whole groups.
    target: here, v4, v5e, v5p, v6e (one chip), a slice such as v5e:2x2, or h100; chips need not be there.
  """
  from dn_jax.planner import plan, targets
  from dn_jax.report.plans import plan_table

  if batch_size < 1:
    raise ConfigurationError("batch-size", batch_size, "must be at least 1")
  for flag, value in (("statistics-groups", statistics_groups), ("accumulation", accumulation)):
    if value < 1:
      raise ConfigurationError(flag, value, "must be at least 1")
  asked_for = model.remat not in (None, "auto")
  complete = complete_model(model if asked_for else dataclasses.replace(model, remat="none"))
  policies = (complete.remat,) if asked_for else remat_policies(complete)
  shape, classes = _pictures(complete, data, image_size, num_classes)
  check_images(complete, min(shape[:2]), batch_size, statistics_groups)
  question = plan.Question(complete, classes, shape, batch_size, statistics_groups, accumulation)
  for where in targets.targets(target):
    plans = {}
    for policy in policies:
      with _console.status(f"compiling for {where.name}: {policy}"):
        plans[policy] = plan.plan(question.under(policy), where)
    title = f"{name_of(complete)}, batch {batch_size}, {complete.dtype}, on {where.described}"
    _console.print(plan_table(plans, where, complete, batch_size, title))


def print_zoo(matching: str = "") -> None:
  """Lists every published network: parameters counted here and as published, FLOPs, published errors.

  Args:
    matching: list only the networks whose names contain this, in capitals or not.
  """
  entries = [entry for entry in zoo.NETWORKS.values() if matching.lower() in entry.name]
  if not entries:
    raise ConfigurationError("matching", matching, near(matching, zoo.NETWORKS))
  table = rich.table.Table(
    title="The zoo",
    caption="parameters with 10 classes (ImageNet's: 1000); FLOPs a picture, a multiply-add counted "
    "as two; errors in percent as published",
  )
  for column, justify in (
    ("--model.name", "left"),
    ("parameters", "right"),
    ("published", "right"),
    ("GFLOPs", "right"),
    ("published error", "left"),
  ):
    table.add_column(column, justify=justify, no_wrap=column != "published error")
  for entry in entries:
    table.add_row(
      entry.name,
      f"{entry.counted.parameters:,}",
      f"{entry.parameters}M" if entry.parameters else "",
      f"{entry.counted.flops / 1e9:.2f}",
      "  ".join(
        f"{column.upper() if column in zoo.COLUMNS else column} {error:.2f}" for column, error in entry.errors.items()
      ),
    )
  _console.print(table)


def _pictures(
  model: ModelConfig, data: DataName, image_size: int | None, num_classes: int | None
) -> tuple[tuple[int, int, int], int]:
  """(height, width, channels) and classes: those of the data set, where flags do not say otherwise."""
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


Command = (
  Annotated[None, tyro.conf.subcommand("summary", constructor=print_summary)]
  | Annotated[None, tyro.conf.subcommand("zoo", constructor=print_zoo)]
  | Annotated[None, tyro.conf.subcommand("plan", constructor=print_plan)]
)

if __name__ == "__main__":
  command_line.main(lambda: tyro.cli(Command, prog="python -m dn_jax", description=__doc__))
