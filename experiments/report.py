"""Tables, pictures and one HTML page of the runs in a folder; or, with --trail, where a cell's number comes from.

  python experiments/report.py runs/ablation
  python experiments/report.py runs/ablation --trail --model.depth 40 --model.growth-rate 12

--trail prints, for the cells that the flags name (all, without flags), the runs, seeds, configuration, code version,
versions and devices behind the number.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from dn_jax import collection, command_line
from dn_jax.configuration import ConfigurationError
from dn_jax.report import ablation, collected
from dn_jax.report import trail as trail_report
from dn_jax.sweep import axes


@dataclasses.dataclass(frozen=True)
class Report:
  runs: Annotated[pathlib.Path, tyro.conf.Positional]
  """Folder of the runs."""
  to: pathlib.Path | None = None
  """Folder for the report; by default report/ in that of the runs."""
  trail: bool = False
  """Print where numbers come from, and write nothing."""


def report() -> None:
  flags, rest = tyro.cli(Report, description=__doc__, return_unknown_args=True)
  if not flags.runs.is_dir():
    raise ConfigurationError("runs", flags.runs, "is not a folder")
  found = collection.read(flags.runs)
  for line in found.skipped:
    print(f"skipped: {line}", file=sys.stderr)
  if not found.runs:
    raise ConfigurationError("runs", flags.runs, "holds no run")
  if flags.trail:
    common = trail_report.common_flags(found.runs)
    wanted = axes.axes_of(rest)
    cells = [cell for cell in ablation.cells_of(found.runs) if axes.names(wanted, cell.runs[0].config)]
    if not cells:
      raise ConfigurationError("trail", " ".join(rest), f"names no cell; there are {_names(found)}")
    for cell in cells:
      print("\n".join(trail_report.lines(cell, common)), end="\n\n")
    return
  if rest:
    raise ConfigurationError(rest[0].lstrip("-"), " ".join(rest[1:]), "goes with --trail")
  for path in collected.write(found, flags.to or flags.runs / collection.REPORT):
    print(path)


def _names(found: collection.Collection) -> str:
  return ", ".join(sorted({f"{cell.network} on {cell.data}" for cell in ablation.cells_of(found.runs)}))


if __name__ == "__main__":
  command_line.main(report)
