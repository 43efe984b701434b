"""Train one network on one data set; started again with the same --out, it goes on.

  python experiments/train.py --data.name cifar10 --data.augment --model.depth 100 --model.growth-rate 12

Unset flags are as published for the network and the data set.
"""

from dn_jax.config import datasets
from dn_jax.system import signals


def train() -> None:
  import rich.console
  import rich.table

  from dn_jax import experiment
  from dn_jax.commands import flags
  from dn_jax.config import resolve
  from dn_jax.config.schema import RunConfig
  from dn_jax.distributed import processes

  config = flags.parse(RunConfig, __doc__)
  config = resolve.resolve(config)  # Before anybody waits for others.
  processes.join(config.distributed)
  # A folder may have brackets in its name.
  console = rich.console.Console(quiet=not processes.is_first(), markup=False)
  summary = experiment.train(config, console)
  table = rich.table.Table(title=f"{summary['network']} on {summary['data']}, seed {summary['seed']}")
  # Of a few classes it says nothing.
  top5 = datasets.info_of(config.data).streamed
  for name in ("test error", *(["top-5"] if top5 else []), "parameters", "training", "run"):
    table.add_column(name, overflow="fold")
  table.add_row(
    f"{summary['test_error']:.2f} % ({summary['reported']}, epoch {summary['reported_epoch']})",
    *([f"{summary['test_top5_error']:.2f} %"] if top5 else []),
    f"{summary['parameters']:,}",
    f"{summary['seconds']:.0f} s, {summary['images_per_second']:,.0f} pictures/s",
    summary["folder"],
  )
  console.print(table)
  if processes.is_first():
    print(f"test error: {summary['test_error']:.2f} %")


if __name__ == "__main__":
  with signals.leaving_at_once():  # Importing the rest takes seconds.
    from dn_jax.commands import command_line

    command_line.main(train)
