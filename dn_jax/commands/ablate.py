"""Many runs from flags with several values: a plan, the missing runs, a table and figures.

  python experiments/ablate.py --out runs/ablation --seeds 3 \\
    --model.growth-rate 12,24,40 --model.depth 40,100 \\
    --data.name cifar10 --data.augment
  python experiments/ablate.py --model.name densenet-bc-100-12,wide-28-10

Takes every flag of train.py, beside those below; commas separate values, and the runs are the product of all. Started
again, it does the missing runs.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config import saved
from dn_jax.config.nested import flag_types
from dn_jax.config.schema import Count, Unset
from dn_jax.config.sweep import Sweep, check_cluster
from dn_jax.errors import shown
from dn_jax.planner import targets


@dataclasses.dataclass(frozen=True)
class Ablation(Sweep):
  seeds: Annotated[Count | None, Unset("as --seed says")] = None
  """Train each network with so many seeds, from 0 on."""
  file: Annotated[pathlib.Path | None, Unset("the flags given here alone")] = None
  """Read lines of flags from this file, a product each, together with the flags given here."""
  config: Annotated[pathlib.Path | None, Unset("published values")] = None
  """Start every run from a run's config.json, from its folder, or from YAML, as train.py does; flags win."""


def ablate() -> None:
  """Reads flags, does the missing runs, and writes the table."""
  flags, rest = parse(Ablation, __doc__, leave_unknown=True)
  check_cluster(flags)
  targets.check_chips(flags.target)
  from dn_jax.sweep.cells import cells_of, lines_of, varied

  lines = lines_of(flags.file) if flags.file else ((),)
  file = saved.read(flags.config) if flags.config else saved.Saved()
  cells = cells_of(rest, flags.seeds, lines, flag_types(Ablation), file)
  from dn_jax.report import ablation
  from dn_jax.sweep import command

  table = lambda done: ablation.table(ablation.cells_of(done), "This sweep")
  console = command_line.console()
  for line in dict.fromkeys(file.changes(cell.config, cell.given) for cell in cells):
    if line:
      console.print(shown(line), markup=False, highlight=False, soft_wrap=True, emoji=False)
  command.run(cells, flags, varied(cells), table, console)


main = functools.partial(command_line.main, ablate)
