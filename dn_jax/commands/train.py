"""Trains one network on one data set; started again with the same --out, it goes on.

  python experiments/train.py --data.name cifar10 --data.augment --model.depth 100 --model.growth-rate 12

Unset flags have the values published for the network and the data set.
"""

from dn_jax.system import signals


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  with signals.leaving_at_once():  # Importing the rest takes seconds.
    from dn_jax.commands import command_line

    command_line.main(train)


def train() -> None:
  """Reads flags, trains, and prints the result."""
  from dn_jax.commands.flags import parse
  from dn_jax.config import datasets, weights_file
  from dn_jax.config.schema import RunConfig
  from dn_jax.runs import start

  # Before JAX is imported, and before this process joins others.
  config = start.resolved(parse(RunConfig, __doc__), lambda line: print(line, flush=True))
  weights_file.refuse_missing(config.weights, config.out)
  import rich.console
  import rich.table

  from dn_jax import experiment
  from dn_jax.distributed import processes
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  processes.join(config.distributed)
  # A folder may have brackets in its name.
  console = rich.console.Console(quiet=not processes.is_first(), markup=False)
  summary = experiment.train(config, console)
  # With few classes it means nothing.
  top5 = datasets.info_of(config.data).streamed
  cells = {
    "test error": f"{summary['test_error']:.2f} % ({summary['reported']}, epoch {summary['reported_epoch']})",
    **({"top-5": f"{summary['test_top5_error']:.2f} %"} if top5 else {}),
    "parameters": f"{summary['parameters']:,}",
    "training": f"{summary['seconds']:.0f} s, {summary['images_per_second']:,.0f} pictures/s",
    "run": summary["folder"],
  }
  table = rich.table.Table(title=f"{summary['network']} on {summary['data']}, seed {summary['seed']}")
  for name in cells:
    table.add_column(name, overflow="fold")
  table.add_row(*cells.values())
  console.print(table)
  if processes.is_first():
    print(f"test error: {summary['test_error']:.2f} %")
