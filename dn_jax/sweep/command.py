"""What scripts that have many runs made share: their flags, the plan that is printed, the runs that are missing."""

import contextlib
import shlex
import sys
from collections.abc import Sequence

import jax
import rich.console

from dn_jax.config.sweep import Sweep
from dn_jax.runs import collection
from dn_jax.runs.collection import Run
from dn_jax.sweep import forecast, runner
from dn_jax.sweep.cells import Cell
from dn_jax.sweep.cluster import Cluster
from dn_jax.sweep.display import Display
from dn_jax.system.signals import Interrupted

# Words after Python that train a run; -P: nothing is imported from the folder that it is started in.
TRAIN = ("-P", "-m", "dn_jax", "train")


def carry_out(
  cells: Sequence[Cell],
  sweep: Sweep,
  train: Sequence[str],
  console: rich.console.Console,
  names: Sequence[str],
  title: str,
) -> list[Run] | None:
  """Prints the plan of runs and has the missing ones done.

  Args:
    cells: all runs of the sweep.
    sweep: how.
    train: the words after Python, as `TRAIN`.
    console: where to.
    names: flags that the plan's rows are told apart by.
    title: of the plan.

  Returns:
    The sweep's runs as they lie on disk then; None for a dry run.

  Raises:
    ConfigurationError: a cluster that there is not, or a folder that cannot be written.
    Interrupted: SIGINT or SIGTERM came; what was under way has saved.
  """
  # The accelerator is for the runs, each in a process of its own.
  jax.config.update("jax_platforms", "cpu")
  there = collection.read(sweep.out)
  for line in there.skipped:
    print(f"skipped: {line}", file=sys.stderr)
  missing = runner.missing(cells, there)
  with contextlib.ExitStack() as stack:
    place: runner.Place = runner.here
    if missing and sweep.cluster is not None and not sweep.dry_run:  # Before planning, which may take minutes.
      place = stack.enter_context(contextlib.closing(Cluster(sweep.cluster, sweep.cell)))
    rows = forecast.look(cells, there, sweep.memory, sweep.cluster is not None, console)
    console.print(forecast.table(rows, names, title))
    if sweep.dry_run:
      return None
    if missing:
      wanted = {cell.key for cell in missing}
      # In seconds where they are known of all runs, else in FLOPs.
      timed = all(row.epoch is not None for row in rows if row.epochs)
      work = {
        cell.key: row.epoch * cell.config.epochs if timed else row.size.total
        for row in rows
        for cell in row.cells
        if cell.key in wanted
      }
      jobs = runner.jobs_of(missing, there, train)
      try:
        runner.sweep(jobs, place, 3600 * (sweep.time_out or 0) or None, Display(console, work))
      except Interrupted:
        report = f"python experiments/report.py {shlex.quote(str(sweep.out))}"
        raise Interrupted(f"stopped, and saved; '{report}' shows what is done") from None
  wanted = {cell.key for cell in cells}
  return [run for run in collection.read(sweep.out).runs if run.key in wanted]
