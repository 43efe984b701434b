"""Tables, figures and one HTML page of runs; or, with --trail, where a cell's number comes from.

  python experiments/report.py runs/ablation
  python experiments/report.py runs/ablation --trail \\
    --model.depth 40 --model.growth-rate 12
  python experiments/report.py runs/cifar_table --trail \\
    --rows densenet-bc-100-12 --columns c10+

The report has the paper's table too, if runs are of its rows and columns. --trail prints, for the cells that the flags
name (all, without flags), the runs, seeds, configuration, code version, versions and devices behind the number, and
whether each run's records agree; exit code 1 if they do not.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated

import tyro

from dn_jax.commands import command_line
from dn_jax.commands.cifar_table import columns_of
from dn_jax.commands.flags import parse
from dn_jax.config import zoo
from dn_jax.config.nested import flag_types
from dn_jax.config.schema import Unset
from dn_jax.errors import ConfigurationError, UserError, near, shown, shown_lines
from dn_jax.system import folders

if TYPE_CHECKING:
  from dn_jax.config.schema import RunConfig
  from dn_jax.report.ablation import Cell


@dataclasses.dataclass(frozen=True)
class Report:
  runs: Annotated[pathlib.Path, tyro.conf.Positional]
  """Read runs from this folder, or the one run whose folder it is."""
  to: Annotated[pathlib.Path | None, Unset("report/ in that of the runs")] = None
  """Write the report into this folder."""
  trail: bool = False
  """Print where numbers come from, and write nothing."""
  rows: tuple[str, ...] = ()
  """With --trail: tell of these networks of the paper's table, such as densenet-bc-100-12; none: of all."""
  columns: tuple[str, ...] = ()
  """With --trail: tell of these of its columns, c10, c10+, c100, c100+, svhn; none: of all."""


def report() -> None:
  """Reads flags, and writes the report or prints where numbers come from."""
  flags, rest = parse(Report, __doc__, leave_unknown=True)
  flags = dataclasses.replace(flags, runs=folders.of("runs", flags.runs), to=flags.to and folders.of("to", flags.to))
  columns = columns_of(flags.columns)
  for name in flags.rows:
    if name not in zoo.NETWORKS:
      raise ConfigurationError("rows", name, near(name, zoo.NETWORKS, zoo.LISTED))
  if not flags.trail and (flags.rows or flags.columns):
    raise ConfigurationError("rows" if flags.rows else "columns", " ".join(flags.rows or columns), "goes with --trail")
  if rest and not rest[0].startswith("-"):
    raise UserError(f"{rest[0]}: one folder at a time")
  if not flags.trail and rest:
    from dn_jax.sweep.cells import axes_of

    axes_of(rest, flag_types(Report))  # Refuses an unknown one.
    raise ConfigurationError(rest[0].lstrip("-"), " ".join(rest[1:]), "goes with --trail")
  found = command_line.runs_in(flags.runs)
  if not flags.trail:
    from dn_jax.report import write
    from dn_jax.runs import collection

    for path in write.write(found, flags.to or flags.runs / collection.REPORT):
      print(shown(path))
    return
  from dn_jax.report import ablation

  _print_trail(ablation.cells_of(found.runs), rest, flags.rows, columns)


def _print_trail(everything: "list[Cell]", flags: list[str], rows: tuple[str, ...], columns: tuple[str, ...]) -> None:
  from dn_jax.report import provenance, published_table
  from dn_jax.sweep.cells import axes_of, names

  def of_table(config: "RunConfig") -> bool:
    column = published_table.column_of(config)
    return (not rows or config.model.name in rows) and (not columns or column in columns)

  wanted = axes_of(flags)
  cells = [
    cell for cell in everything if any(names(wanted, run.config) for run in cell.runs) and of_table(cell.runs[0].config)
  ]
  if not cells:
    there = ", ".join(sorted({f"{cell.network} on {cell.data}" for cell in everything}))
    raise ConfigurationError("trail", " ".join((*flags, *rows, *columns)), f"names no cell; there are {there}")
  for cell in cells:
    print("\n".join(map(shown_lines, provenance.lines(cell))), end="\n\n")
  if differ := [run for cell in cells for run in cell.finished if provenance.disagreement(run)]:
    print(f"{len(differ)} runs whose records differ: {', '.join(str(run.folder) for run in differ)}", file=sys.stderr)
    sys.exit(1)


main = functools.partial(command_line.main, report)
