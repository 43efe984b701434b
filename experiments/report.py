"""Tables, pictures and one HTML page of the runs in a folder; or, with --trail, where a cell's number comes from.

  python experiments/report.py runs/ablation
  python experiments/report.py runs/ablation --trail --model.depth 40 --model.growth-rate 12
  python experiments/report.py runs/cifar_table --trail --rows densenet-bc-100-12 --columns c10+

Where runs are of the paper's rows and columns, its table stands in the report too. --trail prints, for the cells that
the flags name (all, without flags), the runs, seeds, configuration, code version, versions and devices behind the
number, and whether each run's records agree; exit code 1 where they do not.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from dn_jax.commands import command_line
from dn_jax.config import zoo
from dn_jax.errors import ConfigurationError, UserError, near
from dn_jax.report import ablation, published_table, write
from dn_jax.report import provenance as trail_report
from dn_jax.report.ablation import Cell
from dn_jax.runs import collection
from dn_jax.sweep.cells import axes_of, names
from dn_jax.system import folders


@dataclasses.dataclass(frozen=True)
class Report:
  runs: Annotated[pathlib.Path, tyro.conf.Positional]
  """Folder of the runs."""
  to: pathlib.Path | None = None
  """Folder for the report; by default report/ in that of the runs."""
  trail: bool = False
  """Print where numbers come from, and write nothing."""
  rows: tuple[str, ...] = ()
  """With --trail: networks of the paper's table, e.g. densenet-bc-100-12."""
  columns: tuple[str, ...] = ()
  """With --trail: its columns, c10, c10+, c100, c100+, svhn."""


def report() -> None:
  flags, rest = tyro.cli(Report, description=__doc__, return_unknown_args=True)
  flags = dataclasses.replace(flags, runs=folders.of("runs", flags.runs), to=flags.to and folders.of("to", flags.to))
  columns = tuple(map(str.lower, flags.columns))
  _check(flags.rows, columns)
  if not flags.trail and (flags.rows or flags.columns):
    raise ConfigurationError("rows" if flags.rows else "columns", " ".join(flags.rows or columns), "goes with --trail")
  if not flags.trail and rest:
    raise ConfigurationError(rest[0].lstrip("-"), " ".join(rest[1:]), "goes with --trail")
  if not flags.runs.is_dir():
    raise UserError(f"{flags.runs}: is not a folder")
  found = collection.read(flags.runs)
  for line in found.skipped:
    print(f"skipped: {line}", file=sys.stderr)
  if not found.runs:
    raise UserError(f"{flags.runs}: holds no run")
  if not flags.trail:
    for path in write.write(found, flags.to or flags.runs / collection.REPORT):
      print(path)
    return
  everything, wanted = ablation.cells_of(found.runs), axes_of(rest)
  cells = [
    cell
    for cell in everything
    if any(names(wanted, run.config) for run in cell.runs) and _is_of(cell, flags.rows, columns)
  ]
  if not cells:
    there = ", ".join(sorted({f"{cell.network} on {cell.data}" for cell in everything}))
    raise ConfigurationError("trail", " ".join((*rest, *flags.rows, *columns)), f"names no cell; there are {there}")
  for cell in cells:
    print("\n".join(trail_report.lines(cell)), end="\n\n")
  if differ := [run for cell in cells for run in cell.finished if trail_report.disagreement(run)]:
    print(f"{len(differ)} runs whose records differ: {', '.join(str(run.folder) for run in differ)}", file=sys.stderr)
    sys.exit(1)


def _check(rows: tuple[str, ...], columns: tuple[str, ...]) -> None:
  for name in rows:
    if name not in zoo.NETWORKS:
      raise ConfigurationError("rows", name, near(name, zoo.NETWORKS))
  for column in columns:
    if column not in zoo.COLUMNS:
      raise ConfigurationError("columns", column, f"one of {', '.join(zoo.COLUMNS)}")


def _is_of(cell: Cell, rows: tuple[str, ...], columns: tuple[str, ...]) -> bool:
  config = cell.runs[0].config
  column = published_table.column_of(config)
  return (not rows or config.model.name in rows) and (not columns or column in columns)


if __name__ == "__main__":
  command_line.main(report)
