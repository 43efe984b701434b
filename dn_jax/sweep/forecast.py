"""What a sweep will take, before it begins: parameters, FLOPs, memory, time."""

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence

import jax
import numpy as np
import rich.console
import rich.markup
import rich.table

from dn_jax.config.network import name_of
from dn_jax.config.resolve import data_name
from dn_jax.config.schema import RunConfig
from dn_jax.data import catalog
from dn_jax.distributed import layout
from dn_jax.errors import ConfigurationError
from dn_jax.models import build, summary
from dn_jax.planner import plan as planning
from dn_jax.planner import targets
from dn_jax.runs import collection
from dn_jax.runs.collection import Collection
from dn_jax.sweep.cells import Cell
from dn_jax.sweep.child import Child, Refused
from dn_jax.training.resident import DeviceSplit
from dn_jax.training.setup import assemble
from dn_jax.training.step import Totals

# Steps that are timed, after one that is not.
_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Size:
  """What is known of a run without training it.

  parameters: of the network
  flops:      of its forward pass, for a picture
  pictures:   that it trains on, all epochs together
  tested:     that it is measured on, likewise
  """

  parameters: int
  flops: int
  pictures: int
  tested: int

  @property
  def total(self) -> float:
    """FLOPs of the whole run: a training picture counts three forward passes, a tested one one."""
    return self.flops * (3.0 * self.pictures + self.tested)


@dataclasses.dataclass(frozen=True)
class Row:
  """A cell of the sweep's table: runs that differ in their seeds alone.

  memory:  that a training step takes on a device, in bytes; None where not asked for
  refused: why the step cannot be taken here: the compiler, memory, or the devices; empty where it can
  seconds: that a run takes once it has started; None where nothing was measured
  source:  of `seconds`: "runs" (finished ones), "steps" (a few), "FLOPs" (others' steps, by FLOPs)
  start:   seconds that a run takes to start and to compile; 0 where that was not measured
  """

  cells: Sequence[Cell]
  done: int
  failed: int
  size: Size
  memory: int | None = None
  refused: str = ""
  seconds: float | None = None
  source: str = ""
  start: float = 0.0

  @property
  def missing(self) -> int:
    return len(self.cells) - self.done

  @property
  def seconds_a_run(self) -> float | None:
    """From its start to its end."""
    return None if self.seconds is None else self.start + self.seconds


def size_of(config: RunConfig) -> Size:
  """Of a resolved run; its data set is looked at, not read.

  Raises:
    ConfigurationError: its data set is not there, or has no such pictures.
  """
  info = catalog.known(config.data)
  network = build.build(dataclasses.replace(config.model, remat="none"), info.num_classes)
  rows = summary.layers(network, info.image_shape)
  train, valid, test = catalog.count(config.data)
  if config.batch_size > train:
    raise ConfigurationError("batch-size", config.batch_size, f"there are {train} training pictures; at most that")
  if config.last_batch == "drop":
    train -= train % config.batch_size
  return Size(
    sum(row.parameters for row in rows),
    sum(row.flops for row in rows),
    config.epochs * train,
    config.epochs * (valid + test),
  )


def look(
  cells: Sequence[Cell], there: Collection, memory: bool, measure: int, console: rich.console.Console
) -> list[Row]:
  """A row for each cell of the table, in the sweep's order.

  Args:
    cells: of the sweep.
    there: runs that are done already, or begun.
    memory: whether to ask the planner; it compiles each network's step, if it has not before.
    measure: of how many networks a few steps are timed, those of fewest FLOPs first; the others' times follow from
      their FLOPs. A cell with finished runs takes as long as those.
    console: told what is waited for.

  Raises:
    ConfigurationError: a data set is not there, or has no such pictures.
  """
  grouped: dict[str, list[Cell]] = {}
  for cell in cells:
    grouped.setdefault(collection.cell_key(cell.config), []).append(cell)
  rows = []
  for group in grouped.values():
    found = [there.of_key(cell.key) for cell in group]
    done = [run for run in found if run and run.summary]
    failed = sum(1 for run in found if run and run.failure)
    row = Row(group, len(done), failed, size_of(group[0].config))
    if done:
      took = statistics.median(run.summary["seconds"] + run.summary["evaluation_seconds"] for run in done)
      row = dataclasses.replace(row, seconds=took, source="runs")
    rows.append(row)
  starts = []
  with Child() as child:
    if memory:
      for number, row in enumerate(rows):
        with console.status(f"memory of {number + 1} of {len(rows)}: {rich.markup.escape(_title(row))}"):
          try:
            rows[number] = dataclasses.replace(row, memory=child.ask(step_memory, row.cells[0].config))
          except Refused as error:
            rows[number] = dataclasses.replace(row, refused=str(error))
    unknown = [n for n in sorted(range(len(rows)), key=lambda n: rows[n].size.flops) if rows[n].seconds is None]
    for number in unknown[:measure]:
      row = rows[number]
      with console.status(f"timing a few steps of {rich.markup.escape(_title(row))}"):
        try:
          first, per_step = child.ask(step_seconds, row.cells[0].config)
        except Refused as error:
          rows[number] = dataclasses.replace(row, refused=str(error))
          continue
        training = row.size.pictures / row.cells[0].config.batch_size * per_step
        whole = training * row.size.total / (3.0 * row.size.flops * row.size.pictures)
        rows[number] = dataclasses.replace(row, seconds=whole, source="steps")
        starts.append(child.start + first)
  start = statistics.median(starts) if starts else 0.0
  return [dataclasses.replace(row, start=start) for row in _with_scaled_times(rows)]


def step_memory(config: RunConfig) -> int:
  """Bytes that a training step takes on each device of this machine that the run takes.

  Raises:
    Refused: the compiler does not take it.
    ConfigurationError: there are no such devices, or they do not divide the batch.
  """
  info = catalog.known(config.data)
  layout.make_layout(config.statistics_groups, devices=config.devices)
  arguments = (info.num_classes, info.image_shape, config.batch_size, targets.here(config.devices))
  options = {"groups": config.statistics_groups, "accumulation": config.accumulation}
  if config.model.remat == "auto":
    of_a_picture = math.prod(info.image_shape) + 4  # Bytes, its label included.
    _, plan = planning.choose(
      config.model, *arguments, beside=sum(catalog.count(config.data)) * of_a_picture, **options
    )
  else:
    plan = planning.plan(config.model, *arguments, **options)
  if plan.refusal:
    raise Refused(plan.refusal)
  return plan.peak


def step_seconds(config: RunConfig) -> tuple[float, float]:
  """Seconds to the end of the first training step, compiling included, and of one of the next, the median of a few.

  The pictures are made up.
  """
  start = time.perf_counter()
  info = catalog.known(config.data)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (config.batch_size, *info.image_shape), np.uint8)
  split = catalog.Split(images, rng.integers(0, info.num_classes, config.batch_size).astype(np.int32))
  if config.model.remat == "auto":
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=None))
  config = dataclasses.replace(config, last_batch="drop", steps_per_dispatch=1)
  parts = assemble(config, catalog.Dataset(info, split, None, split))
  state, totals = parts.fresh_state(), Totals.zero_beside(parts.splits.train.labels)
  order, taken, first = parts.order_of(0), [], None
  for _ in range(1 + _STEPS):
    begin = time.perf_counter()
    state, totals, losses = parts.advance(
      state, totals, DeviceSplit(*parts.splits.train), order, np.int32(0), np.int32(1), batch_size=config.batch_size
    )
    jax.block_until_ready(losses)
    if first is None:
      first = time.perf_counter() - start
    else:
      taken.append(time.perf_counter() - begin)
  return first, statistics.median(taken)


def _with_scaled_times(rows: Sequence[Row]) -> list[Row]:
  """Fills in the times that were not measured, from those that were and the FLOPs."""
  rates = [row.seconds / row.size.total for row in rows if row.seconds is not None]
  if not rates:
    return list(rows)
  rate = statistics.median(rates)
  return [
    row if row.seconds is not None else dataclasses.replace(row, seconds=rate * row.size.total, source="FLOPs")
    for row in rows
  ]


def table(rows: Sequence[Row], axes: Sequence[str], title: str) -> rich.table.Table:
  """The plan of a sweep."""
  words = {"runs": "finished runs", "steps": "a few steps timed here", "FLOPs": "FLOPs, at the rate of the others"}
  sources = [words[source] for source in dict.fromkeys(row.source for row in rows) if source]
  caption = "FLOPs: forward pass of a picture; of all runs, with three forward passes a training picture"
  if sources:
    start = max(row.start for row in rows)
    starting = (
      f"with {duration(start)} a run to start and compile, as here" if start else "without starting and compiling"
    )
    caption += f"\ntime: of the runs still to do, one after another, {starting}: an estimate from {'; '.join(sources)}"
  for row in rows:
    if row.refused:
      caption += f"\n{_title(row)} does not fit here: {row.refused}"
  escape = rich.markup.escape
  result = rich.table.Table(title=escape(title), caption=escape(caption), title_justify="left", caption_justify="left")
  for name in (*axes, *(() if axes else ("network",))):
    result.add_column(escape(name.removeprefix("model.").removeprefix("data.")), overflow="fold")
  for name in ("parameters", "MFLOPs", "runs", "done", "failed", "all FLOPs", "memory", "time"):
    result.add_column(name, justify="right")
  for row in rows:
    given = row.cells[0].given
    names = [given.get(axis, "") for axis in axes] or [_title(row)]
    result.add_row(
      *map(escape, names),
      f"{row.size.parameters:,}",
      f"{row.size.flops / 1e6:,.1f}",
      str(len(row.cells)),
      str(row.done),
      str(row.failed) if row.failed else "",
      f"{len(row.cells) * row.size.total:.2g}",
      "does not fit" if row.refused else "" if row.memory is None else f"{row.memory / 2**20:,.0f} MiB",
      "" if row.seconds is None else duration(row.missing * row.seconds_a_run),
    )
  result.add_section()
  result.add_row(
    "all",
    *[""] * (max(len(axes), 1) + 1),
    str(sum(len(row.cells) for row in rows)),
    str(sum(row.done for row in rows)),
    str(sum(row.failed for row in rows) or ""),
    f"{sum(len(row.cells) * row.size.total for row in rows):.2g}",
    "",
    duration(left) if (left := seconds_left(rows)) is not None else "",
  )
  return result


def seconds_left(rows: Sequence[Row]) -> float | None:
  """Of all runs still to do, one after another; None where nothing was measured."""
  if any(row.seconds is None for row in rows if row.missing):
    return None
  return math.fsum(row.missing * row.seconds_a_run for row in rows if row.missing)


def duration(seconds: float) -> str:
  """As a person says it: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
  minutes = round(seconds / 60)
  if seconds < 90:
    return f"{seconds:.0f} s"
  if minutes < 90:
    return f"{minutes} min"
  if minutes < 48 * 60:
    return f"{minutes // 60} h {minutes % 60} min"
  return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _title(row: Row) -> str:
  config = row.cells[0].config
  return f"{name_of(config.model)} on {data_name(config)}"
