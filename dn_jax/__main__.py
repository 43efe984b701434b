"""python -m dn_jax summary|zoo: a network layer by layer; every published network beside what was published."""

import dataclasses
from typing import Annotated

import rich.console
import rich.table
import tyro

from dn_jax import command_line
from dn_jax.configuration import ConfigurationError, ModelConfig, near
from dn_jax.data import catalog
from dn_jax.models import build, summary, zoo

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
  for flag, value in (("image-size", image_size), ("num-classes", num_classes)):
    if value is not None and value < 1:
      raise ConfigurationError(flag, value, "must be at least 1")
  complete = build.complete(model)
  imagenet = complete.stem == "imagenet" and data.name is None
  height, width, channels, classes = (224, 224, 3, 1000) if imagenet else _shape(data.name or "cifar10")
  height, width = (image_size, image_size) if image_size else (height, width)
  network = build.build(complete, num_classes or classes)
  name = complete.name or (
    f"blocks {complete.blocks}, k={complete.growth_rate}" if complete.blocks else f"{complete.family}-{complete.depth}"
  )
  title = f"{name}: pictures of {height}x{width}x{channels}, {num_classes or classes} classes"
  _console.print(summary.table(summary.layers(network, (height, width, channels)), title))


def print_zoo(matching: str = "") -> None:
  """Lists every published network: parameters counted here and as published, FLOPs, published errors.

  Args:
    matching: list only the networks whose names contain this.
  """
  entries = [entry for entry in zoo.NETWORKS.values() if matching in entry.name]
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
    imagenet = entry.imagenet
    network = build.build(build.complete(ModelConfig(name=entry.name, remat="none")), 1000 if imagenet else 10)
    rows = summary.layers(network, (224, 224, 3) if imagenet else (32, 32, 3))
    table.add_row(
      entry.name,
      f"{sum(row.parameters for row in rows):,}",
      f"{entry.parameters}M" if entry.parameters else "",
      f"{sum(row.flops for row in rows) / 1e9:.2f}",
      "  ".join(
        f"{column.upper() if column in zoo.COLUMNS else column} {error:.2f}" for column, error in entry.errors.items()
      ),
    )
  _console.print(table)


def _shape(name: str) -> tuple[int, int, int, int]:
  info = catalog.info_of(name)
  return *info.image_shape, info.num_classes


Command = (
  Annotated[None, tyro.conf.subcommand("summary", constructor=print_summary)]
  | Annotated[None, tyro.conf.subcommand("zoo", constructor=print_zoo)]
)

if __name__ == "__main__":
  command_line.main(lambda: tyro.cli(Command, prog="python -m dn_jax", description=__doc__))
