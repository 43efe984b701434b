"""Many runs from flags with several values: a plan, the runs that are missing, a table and pictures.

  python experiments/ablate.py --out runs/ablation --model.growth-rate 12,24,40 --model.depth 40,100 --seeds 3 \\
    --data.name cifar10 --data.augment

Every flag of train.py is taken; commas separate its values, and the runs are the product of all. Started again, it does
what is missing. --file: more such lines, a product each; --model.name densenet-bc-100-12,wide-28-10: networks by name.
"""

import dataclasses
import pathlib
import sys

import rich.console
import tyro

from dn_jax.commands import command_line
from dn_jax.config.schema import flag_types
from dn_jax.report import ablation, write
from dn_jax.sweep import command
from dn_jax.sweep.cells import cells_of, lines_of, varied
from dn_jax.system import folders

TRAIN = pathlib.Path(__file__).with_name("train.py").absolute()


@dataclasses.dataclass(frozen=True)
class Ablation(command.Sweep):
  seeds: int | None = None
  """Runs of each network: seeds 0, 1, ..."""
  file: pathlib.Path | None = None
  """Lines of flags, a product each, together with the flags given here."""


def ablate() -> None:
  flags, rest = tyro.cli(Ablation, description=__doc__, return_unknown_args=True)
  flags = dataclasses.replace(flags, out=folders.of("out", flags.out))
  lines = lines_of(flags.file) if flags.file else ((),)
  cells = cells_of(rest, flags.seeds, lines, also=flag_types(Ablation))
  console = rich.console.Console(width=None if sys.stdout.isatty() else 140)
  done = command.carry_out(cells, flags, TRAIN, console, varied(cells), f"{len(cells)} runs, in {flags.out}")
  if done is None:
    return
  write.conclude(ablation.table(ablation.cells_of(done), "This sweep"), done, flags.out, console)


if __name__ == "__main__":
  command_line.main(ablate)
