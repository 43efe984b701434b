"""The paper's CIFAR and SVHN error tables, cell by cell: published, measured here, the difference.

  python experiments/cifar_table.py --data.dir ~/data --seeds 3
  python experiments/cifar_table.py --out runs/try --scale 0.02 \\
    --rows densenet-bc-100-12 resnet-110 --columns c10+

Rows are networks of the zoo (python -m dn_jax zoo), columns c10, c10+, c100, c100+ and svhn. Each cell is trained with
the protocol published for it. Started again, it does the missing runs. `experiments/report.py OUT` rewrites the table
from the runs, and with --trail shows where a number comes from.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config import datasets, protocol, zoo
from dn_jax.config.schema import Count, ProtocolName, RunConfig, Share, Unset
from dn_jax.config.sweep import Sweep, check_cluster
from dn_jax.errors import ConfigurationError, near
from dn_jax.planner import targets

if TYPE_CHECKING:
  from dn_jax.sweep.cells import Cell

CAFFE = "densenet-caffe-40-12"
ROWS = tuple(
  name
  for name, entry in zoo.NETWORKS.items()
  if entry.errors and not entry.imagenet and name != CAFFE and "1202" not in name
)


@dataclasses.dataclass(frozen=True)
class Where:
  dir: Annotated[pathlib.Path | None, Unset("TFDS's own, ~/tensorflow_datasets")] = None
  """Read the prepared data sets from this folder."""


@dataclasses.dataclass(frozen=True)
class Activations:
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Compute activations in this type; published is float32."""


@dataclasses.dataclass(frozen=True)
class Table(Sweep):
  out: pathlib.Path = pathlib.Path("runs/cifar_table")
  """Put the runs into this folder, where finished ones are not repeated; tables and figures go to its report/."""
  rows: tuple[str, ...] = ROWS
  """Train these networks of the zoo."""
  columns: tuple[str, ...] = zoo.COLUMNS
  """Train on the data sets of these columns: c10, c10+, c100, c100+, svhn."""
  seeds: Count = 1
  """Train each cell with so many seeds, from 0 on."""
  scale: Share = 1.0
  """Shorten every schedule to this share, 0 to 1, in whole epochs; below 1 it is a rehearsal, and the table says so."""
  unpublished: bool = False
  """Train the cells without a published error, too."""
  protocol: Annotated[ProtocolName | None, Unset("each network's own")] = None
  """Train all cells by this published training; without --rows, caffe takes the network of the Caffe code, and mixup
  the one that its authors trained."""
  data: Where = Where()
  model: Activations = Activations()


def cells_of(flags: Table) -> "dict[tuple[str, str], list[Cell]]":
  """The runs of each cell of the table, by (row, column).

  Raises:
    ConfigurationError: an unknown row or column, or a value that does not fit.
  """
  rows = flags.rows
  if rows == ROWS:
    of_recipe = tuple(name for whose, name in zoo.RECIPES if whose == flags.protocol)
    rows = (CAFFE,) if flags.protocol == "caffe" else of_recipe or rows
  for name in rows:
    if name not in zoo.NETWORKS or zoo.NETWORKS[name].imagenet:
      raise ConfigurationError("rows", name, near(name, (*ROWS, CAFFE), zoo.LISTED))
  columns, found = columns_of(flags.columns), {}
  for name in rows:
    for column in columns:
      if column in zoo.NETWORKS[name].errors or flags.unpublished:
        found[name, column] = [_cell(flags, name, column, seed) for seed in range(flags.seeds)]
  if not found:
    raise ConfigurationError("columns", " ".join(columns), "nothing is published for these rows; --unpublished?")
  return found


def columns_of(words: Sequence[str]) -> tuple[str, ...]:
  """The paper's columns that words name, in capitals or not.

  Raises:
    ConfigurationError: an unknown column.
  """
  columns = tuple(map(str.lower, words))
  named = {info.name + plus: info.column + plus for info in datasets.CATALOG.values() for plus in ("", "+")}
  for column in columns:
    if column not in zoo.COLUMNS:
      own = named.get(column)
      fits = f"did you mean {own}?" if own in zoo.COLUMNS else f"one of {', '.join(zoo.COLUMNS)}"
      raise ConfigurationError("columns", column, fits)
  return columns


def _cell(flags: Table, name: str, column: str, seed: int) -> "Cell":
  from dn_jax.report import published_table
  from dn_jax.sweep.cells import cell_of

  data, augment = published_table.data_of_column(column)
  given = {"data.name": data, "model.name": name, "seed": str(seed), "model.dtype": flags.model.dtype}
  given |= {"data.augment": "True"} if augment else {}
  given |= {"data.dir": str(flags.data.dir)} if flags.data.dir else {}
  given |= {"protocol": flags.protocol} if flags.protocol else {}
  of = lambda given: cell_of({flag: (value,) for flag, value in given.items()})
  if flags.scale == 1:
    return of(given)
  whole = of(given).config
  epochs, warmup = max(1, round(flags.scale * whole.epochs)), round(flags.scale * whole.optimizer.warmup_steps)
  return of(given | {"epochs": str(epochs), "optimizer.warmup-steps": str(warmup)})


def came_to(scale: float, configs: Iterable[RunConfig]) -> str:
  """What became of the share of every schedule that was asked for, in whole epochs and steps."""
  parts: dict[str, None] = {}
  for config in configs:
    whole = protocol.of(config.protocol, config.data.name)
    parts[f"{config.epochs} of {whole.epochs} epochs ({config.epochs / whole.epochs:.3g})"] = None
    if whole.warmup_steps:
      parts[f"a warm-up of {config.optimizer.warmup_steps} of {whole.warmup_steps} steps"] = None
  return f"--scale {scale:g} of every schedule comes to {', '.join(parts)}"


def cifar_table() -> None:
  """Reads flags, does the missing runs, and writes the table."""
  flags = parse(Table, __doc__)
  check_cluster(flags)
  targets.check_chips(flags.target)
  cells = cells_of(flags)
  from dn_jax.report import published_table
  from dn_jax.sweep import command

  table = lambda done: published_table.table(published_table.entries_of(done), flags.scale)
  everything = [cell for column in zip(*cells.values(), strict=True) for cell in column]  # First seeds first.
  axes = ["model.name", "data.name", "data.augment"]
  console = command_line.console(200)
  if flags.scale < 1:
    console.print(came_to(flags.scale, (cell.config for cell in everything)), highlight=False, soft_wrap=True)
  command.run(everything, flags, axes, table, console)


main = functools.partial(command_line.main, cifar_table)
