"""A sweep from its cells to its report: the plan, the missing runs, the table."""

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence

import jax
import rich.console

from dn_jax.config import weights_file
from dn_jax.config.sweep import SLURM, Sweep
from dn_jax.errors import shown
from dn_jax.report.grid import Grid
from dn_jax.runs import collection
from dn_jax.runs.collection import Run
from dn_jax.sweep import accelerators, elsewhere, forecast, runner
from dn_jax.sweep.cells import Cell
from dn_jax.sweep.cluster import Cluster
from dn_jax.sweep.display import Display
from dn_jax.sweep.lanes import Lanes, divide
from dn_jax.sweep.slurm import Slurm
from dn_jax.system import compilation, folders
from dn_jax.system.signals import Interrupted

# Words after Python that train a run; -P: nothing is imported from the folder that it is started in.
TRAIN = ("-P", "-m", "dn_jax", "train")


def run(
  cells: Sequence[Cell],
  sweep: Sweep,
  axes: Sequence[str],
  table: Callable[[list[Run]], Grid],
  console: rich.console.Console,
) -> None:
  """Carries out a sweep, prints its table and writes the report of its folder.

  Args:
    cells: all runs of the sweep.
    sweep: its flags.
    axes: the flags that tell the plan's rows apart.
    table: makes the table of the sweep's runs.
    console: prints everything.

  Raises:
    ConfigurationError: the cluster cannot be reached, or a folder cannot be written.
    Interrupted: SIGINT or SIGTERM came; the runs under way have saved.
    SystemExit: code 1: some runs failed.
  """
  compilation.keep_compiled_programs()
  sweep = dataclasses.replace(sweep, out=folders.of("out", sweep.out))
  done = carry_out(cells, sweep, axes, console)
  if done is not None:
    from dn_jax.report import write  # With matplotlib, which a plan does without.

    write.conclude(table(done), done, sweep.out, console)


def carry_out(
  cells: Sequence[Cell], sweep: Sweep, axes: Sequence[str], console: rich.console.Console
) -> list[Run] | None:
  """Prints the plan and does the missing runs; arguments and errors as `run` has them.

  Returns:
    The sweep's runs as they then lie on disk; None for a dry run.
  """
  # The accelerator is for the runs, each in a process of its own.
  jax.config.update("jax_platforms", "cpu")
  chips = elsewhere.chips(sweep.target)
  there = collection.read(sweep.out)
  for line in there.skipped:
    print(f"skipped: {shown(line)}", file=sys.stderr)
  missing = runner.missing(cells, there)
  for cell in missing:
    run = there.of_key(cell.key)
    weights_file.refuse_missing(cell.config.weights, run and run.folder)
  if not sweep.dry_run and sweep.cluster != SLURM:  # There they may be jobs of an earlier start.
    runner.refuse_taken(missing, there)
  lanes = _lanes(missing, sweep)
  if lanes.said:
    console.print(lanes.said, highlight=False, markup=False, soft_wrap=True)
  at_once = len(lanes.environments)
  with contextlib.ExitStack() as stack:
    place: runner.Place = runner.Here(lanes.environments)
    if missing and sweep.cluster is not None and not sweep.dry_run:  # Before planning, which may take minutes.
      place = _cluster(sweep, stack, console)
    # What is finished needs no data.
    published = sweep.dry_run or not missing
    asked = forecast.Asked(sweep.memory, sweep.cluster is not None, lanes.devices, chips, published)
    rows = forecast.look(cells, there, asked, console)
    title = f"{_counted(len(rows), 'cell')}, {_counted(len(cells), 'run')}, in {sweep.out}"
    console.print(forecast.table(rows, axes, title, at_once))
    if sweep.dry_run:
      return None
    if missing:
      wanted = {cell.key for cell in missing}
      # In seconds if known for all runs, else in FLOPs.
      timed = all(row.epoch is not None for row in rows if row.epochs)
      work = {
        cell.key: row.epoch * cell.config.epochs if timed else row.size.total
        for row in rows
        for cell in row.cells
        if cell.key in wanted
      }
      jobs = runner.jobs_of(missing, there, TRAIN)
      try:
        runner.sweep(jobs, place, 3600 * (sweep.time_out or 0) or None, Display(console, work, at_once))
      except Interrupted:
        report = f"python experiments/report.py {shlex.quote(str(sweep.out))}"
        raise Interrupted(f"stopped, and saved; '{report}' shows what is done") from None
  wanted = {cell.key for cell in cells}
  return [run for run in collection.read(sweep.out).runs if run.key in wanted]


def _cluster(sweep: Sweep, stack: contextlib.ExitStack, console: rich.console.Console) -> runner.Place:
  """The cluster that runs go to.

  Raises:
    ConfigurationError: it cannot be reached, or is too small for a run.
  """
  if sweep.cluster == SLURM:
    return Slurm(sweep, lambda line: console.print(shown(line), highlight=False, markup=False, soft_wrap=True))
  return stack.enter_context(contextlib.closing(Cluster(sweep.cluster, sweep.cell)))


def _counted(number: int, what: str) -> str:
  return f"{number} {what}{'s' * (number != 1)}"


def _lanes(missing: Sequence[Cell], sweep: Sweep) -> Lanes:
  """How this machine is divided between a sweep's missing runs.

  Raises:
    ConfigurationError: it has too few accelerators.
    UserError: they cannot be counted.
  """
  told = sweep.at_once is not None or sweep.devices_per_run is not None
  if sweep.dry_run and not told and not sweep.memory:  # Counting them takes seconds.
    return Lanes()
  if not missing or sweep.cluster is not None or (not told and os.environ.get("JAX_PLATFORMS") == "cpu"):
    return Lanes()
  asked = max((cell.config.devices or 0 for cell in missing), default=0)
  return divide(accelerators.count(), sweep, asked or None, os.environ)
