"""Train one network on one data set; started again with the same --out, it goes on.

  python experiments/train.py --data.name cifar10 --data.augment --model.depth 100 --model.growth-rate 12

Unset flags are as published for the network and the data set.
"""

from dn_jax.training import interruption


def train() -> None:
  import rich.console
  import rich.table
  import tyro

  from dn_jax import experiment, processes, resolve
  from dn_jax.configuration import RunConfig

  config = tyro.cli(RunConfig, description=__doc__)
  config = resolve.resolve(config)  # Before anybody waits for others.
  processes.join(config.distributed)
  # A folder may have brackets in its name.
  console = rich.console.Console(quiet=not processes.is_first(), markup=False)
  summary = experiment.train(config, console)
  table = rich.table.Table(title=f"{summary['network']} on {summary['data']}, seed {summary['seed']}")
  columns = {
    "test error": f"{summary['test_error']:.2f} % ({summary['reported']}, epoch {summary['reported_epoch']})",
    "parameters": f"{summary['parameters']:,}",
    "training": f"{summary['seconds']:.0f} s, {summary['images_per_second']:,.0f} pictures/s",
    "run": summary["folder"],
  }
  for name in columns:
    table.add_column(name, overflow="fold")
  table.add_row(*columns.values())
  console.print(table)
  if processes.is_first():
    print(f"test error: {summary['test_error']:.2f} %")


if __name__ == "__main__":
  with interruption.leaving_at_once():  # Importing the rest takes seconds.
    from dn_jax import command_line

    command_line.main(train)
