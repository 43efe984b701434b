"""Trains one network on one data set; started again with the same --out, it goes on.

  python experiments/train.py --data.name cifar10 --data.augment \\
    --model.depth 100 --model.growth-rate 12
  python experiments/train.py --config runs/one --seed 1

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
  from dn_jax.commands.training import Training, saved_run
  from dn_jax.config import datasets, weights_file
  from dn_jax.config.origin import as_yaml, settings
  from dn_jax.config.resolve import resolve
  from dn_jax.errors import ConfigurationError, shown
  from dn_jax.runs import rounding, start
  from dn_jax.runs.contents import ClassError

  file, typed = saved_run(), given(Training)
  asked = parse(
    Training,
    __doc__,
    default=Training(file.under(typed)),
    settings=lambda asked, given: settings(asked.run, resolve(asked.run), file.origins | given),
  )
  command_line.check_confusion(asked.confusion)
  if asked.memory and not asked.dry_run:
    raise ConfigurationError("memory", True, "goes with --dry-run")
  # Before JAX is imported, and before this process joins others.
  say = lambda line: print(line, file=sys.stderr if asked.print_config else sys.stdout, flush=True)
  config = start.resolved(asked.run, say)
  weights_file.refuse_missing(config.weights, config.out)
  if line := file.changes(config, typed):
    say(shown(line))
  if asked.print_config:
    print("\n".join(map(shown, as_yaml(settings(asked.run, config, file.origins | typed)))))
    return
  if asked.dry_run:
    _plan(config, asked.memory)
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
  top5 = datasets.info_of(config.data).streamed and summary.get("test_top5_error_percent") is not None
  test_error = f"{rounding.in_words(summary['test_error_percent'])} %"
  cells = {
    "test error": f"{test_error} ({summary['reported']}, epoch {summary['reported_epoch']})",
    **({"top-5": f"{rounding.in_words(summary['test_top5_error_percent'])} %"} if top5 else {}),
    "parameters": f"{summary['parameters']:,}",
    "training": f"{summary['seconds']:.0f} s, {summary['images_per_second']:,.0f} images/s",
    "run": shown(summary["folder"]),
  }
  table = rich.table.Table(title=f"{summary['network']} on {summary['data']}, seed {summary['seed']}")
  for name in cells:
    table.add_column(name, overflow="fold")
  table.add_row(*cells.values())
  console.print(table)
  errors = [ClassError(**each) for each in summary.get("test_class_errors_percent") or ()]
  for line in command_line.class_lines(errors):
    console.print(line, highlight=False, soft_wrap=True, emoji=False)
  if asked.confusion:
    _confusion(asked.confusion, config, console)
  if processes.is_first():
    print(f"test error: {test_error}")


def _plan(config: "RunConfig", memory: bool) -> None:
  """Prints what a run will take, and starts nothing."""
  from dn_jax.commands import command_line
  from dn_jax.runs import collection, records
  from dn_jax.sweep import forecast
  from dn_jax.sweep.cells import Cell

  begun = (config.out / "config.json").exists()
  if begun:
    records.check_config(config.out, config)
  there = collection.Collection(config.out.parent, [collection.read_run(config.out)] if begun else [], [])
  console = command_line.console()
  rows = forecast.look([Cell((), config, {})], there, forecast.Asked(memory, published=True), console)
  console.print(forecast.table(rows, (), f"1 run, in {config.out}"))


def _confusion(path: "pathlib.Path", config: "RunConfig", console: "rich.console.Console") -> None:
  """Tests the reported network of a finished run once more, for its confusion matrix."""
  from dn_jax.commands import command_line
  from dn_jax.distributed import processes
  from dn_jax.inference.evaluate import How, of_run
  from dn_jax.report import words

  own = {name: getattr(config.data, name) for name in ("dir", "workers", "bad_share", "max_pixels")}
  how = How(config.evaluation_batch_size, confusion=True)
  with processes.ending_together():
    found = of_run(config.out, "test", "reported", own, how, console.print)
    if processes.is_first():
      command_line.write_confusion(path, found, f"{words.run(config)}, test")
