"""Many runs from flags with several values: a plan, the missing runs, a table and figures.

  python experiments/ablate.py --out runs/ablation --model.growth-rate 12,24,40 --model.depth 40,100 --seeds 3 \\
    --data.name cifar10 --data.augment

Takes every flag of train.py; commas separate values, and the runs are the product of all. Started again, it does the
missing runs. --file: more such lines, a product each; --model.name densenet-bc-100-12,wide-28-10: networks by name.
"""

import dataclasses
import functools
import pathlib

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config import saved
from dn_jax.config.schema import Count, flag_types
from dn_jax.config.sweep import Sweep, check_cluster
from dn_jax.errors import shown


@dataclasses.dataclass(frozen=True)
class Ablation(Sweep):
  seeds: Count | None = None
  """Runs of each network: seeds 0, 1, ..."""
  file: pathlib.Path | None = None
  """Lines of flags, a product each, together with the flags given here."""
  config: pathlib.Path | None = None
  """Start every run from a run's config.json, from its folder, or from YAML, as train.py does; flags win."""


def ablate() -> None:
  """Reads flags, does the missing runs, and writes the table."""
  flags, rest = parse(Ablation, __doc__, leave_unknown=True)
  check_cluster(flags)
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
