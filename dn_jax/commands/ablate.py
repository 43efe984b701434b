"""Many runs from flags with several values: a plan, the runs that are missing, a table and pictures.

  python experiments/ablate.py --out runs/ablation --model.growth-rate 12,24,40 --model.depth 40,100 --seeds 3 \\
    --data.name cifar10 --data.augment

Every flag of train.py is taken; commas separate its values, and the runs are the product of all. Started again, it does
what is missing. --file: more such lines, a product each; --model.name densenet-bc-100-12,wide-28-10: networks by name.
"""

import dataclasses
import pathlib

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config.schema import flag_types
from dn_jax.config.sweep import Sweep
from dn_jax.system import folders


@dataclasses.dataclass(frozen=True)
class Ablation(Sweep):
  seeds: int | None = None
  """Runs of each network: seeds 0, 1, ..."""
  file: pathlib.Path | None = None
  """Lines of flags, a product each, together with the flags given here."""


def ablate() -> None:
  """Reads flags, has the runs that are missing done, and writes the table."""
  flags, rest = parse(Ablation, __doc__, leave_unknown=True)
  flags = dataclasses.replace(flags, out=folders.of("out", flags.out))
  from dn_jax.sweep.cells import cells_of, lines_of, varied

  lines = lines_of(flags.file) if flags.file else ((),)
  cells = cells_of(rest, flags.seeds, lines, also=flag_types(Ablation))
  from dn_jax.report import ablation, write
  from dn_jax.sweep import command
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  console, title = command_line.console(), f"{len(cells)} runs, in {flags.out}"
  done = command.carry_out(cells, flags, command.TRAIN, console, varied(cells), title)
  if done is None:
    return
  write.conclude(ablation.table(ablation.cells_of(done), "This sweep"), done, flags.out, console)


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  command_line.main(ablate)
