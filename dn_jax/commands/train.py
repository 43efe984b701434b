"""Trains one network on one data set; started again with the same --out, it goes on.

  python experiments/train.py --data.name cifar10 --data.augment --model.depth 100 --model.growth-rate 12

Unset flags have the values published for the network and the data set.
"""

import sys
from typing import TYPE_CHECKING

from dn_jax.system import signals

if TYPE_CHECKING:
  import pathlib

  import rich.console

  from dn_jax.config.schema import RunConfig


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  with signals.leaving_at_once():  # Importing the rest takes seconds.
    from dn_jax.commands import command_line

    command_line.main(train)


def train() -> None:
  """Reads flags, trains, and prints the result."""
  from dn_jax.commands import command_line
  from dn_jax.commands.flags import given, parse
  from dn_jax.commands.training import Training
  from dn_jax.config import datasets, weights_file
  from dn_jax.config.origin import as_yaml, settings
  from dn_jax.config.resolve import resolve
  from dn_jax.errors import shown
  from dn_jax.runs import start
  from dn_jax.runs.contents import ClassError

  asked = parse(Training, __doc__, settings=lambda asked, given: settings(asked.run, resolve(asked.run), given))
  command_line.check_confusion(asked.confusion)
  # Before JAX is imported, and before this process joins others.
  say = lambda line: print(line, file=sys.stderr if asked.print_config else sys.stdout, flush=True)
  config = start.resolved(asked.run, say)
  weights_file.refuse_missing(config.weights, config.out)
  if asked.print_config:
    print("\n".join(map(shown, as_yaml(settings(asked.run, config, given(Training))))))
    return
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
  # Of the small data sets nobody reports it.
  top5 = datasets.info_of(config.data).streamed and summary.get("test_top5_error") is not None
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
  errors = [ClassError(**each) for each in summary.get("test_class_errors") or ()]
  for line in command_line.class_lines(errors):
    console.print(line, highlight=False, soft_wrap=True, emoji=False)
  if asked.confusion:
    _confusion(asked.confusion, config, console)
  if processes.is_first():
    print(f"test error: {summary['test_error']:.2f} %")


def _confusion(path: "pathlib.Path", config: "RunConfig", console: "rich.console.Console") -> None:
  """Tests the reported network of a finished run once more, for its confusion matrix."""
  from dn_jax.commands import command_line
  from dn_jax.config.resolve import slug
  from dn_jax.distributed import processes
  from dn_jax.inference.evaluate import How, of_run

  own = {name: getattr(config.data, name) for name in ("dir", "workers", "bad_share", "max_pixels")}
  how = How(config.evaluation_batch_size, confusion=True)
  with processes.ending_together():
    found = of_run(config.out, "test", "reported", own, how, console.print)
    if processes.is_first():
      command_line.write_confusion(path, found, f"{slug(config)}, test")
