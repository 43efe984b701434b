"""Forecasts a sweep before it begins: parameters, FLOPs, memory, and the time if there are similar runs."""

import dataclasses
import heapq
import math
import multiprocessing
import os
import signal
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import jax
import rich.console
import rich.markup
import rich.table

from dn_jax.config.network import name_of
from dn_jax.config.resolve import data_name
from dn_jax.config.schema import RunConfig
from dn_jax.data import catalog, splits
from dn_jax.distributed import layout
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.models import build, summary
from dn_jax.planner import plan as planning
from dn_jax.planner import policy as remat_policy
from dn_jax.planner import targets
from dn_jax.runs import collection, records
from dn_jax.runs.collection import Collection, Run
from dn_jax.sweep import elsewhere as absent
from dn_jax.sweep.cells import Cell
from dn_jax.system import child_processes, compilation

# Bytes of a step, or None and the reason why the step is impossible.
Answer = tuple[int | None, str]


@dataclasses.dataclass(frozen=True)
class Size:
  """The size of a run.

  parameters: of the network
  flops:      of its forward pass, for one image
  pictures:   images that it trains on, all epochs together
  tested:     images that it is evaluated on, likewise
  """

  parameters: int
  flops: int
  pictures: int
  tested: int

  @property
  def total(self) -> float:
    """FLOPs of the whole run: three forward passes for a training image, one for a tested one."""
    return self.flops * (3.0 * self.pictures + self.tested)


@dataclasses.dataclass(frozen=True)
class Row:
  """A cell of the sweep's table: runs that differ in their seeds alone.

  done:    number of finished runs
  failed:  number of runs that failed when last tried
  size:    of a run
  memory:  bytes of a training step on each device; None if not asked for
  refused: why the step is impossible here; empty if it is possible
  epochs:  left to do, of all runs together
  epoch:   seconds of an epoch with its evaluation, from runs of this cell; None if there are none
  devices: of those runs, if known
  chips:   seconds of a training step on one chip by its name, estimated; see `dn_jax.sweep.elsewhere`
  """

  cells: Sequence[Cell]
  done: int
  failed: int
  size: Size
  memory: int | None = None
  refused: str = ""
  epochs: int = 0
  epoch: float | None = None
  devices: frozenset[str] = frozenset()
  chips: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def seconds_left(self) -> float | None:
    """Seconds of all runs to do, one after another; None if unknown."""
    if not self.epochs:
      return 0.0
    return None if self.epoch is None else self.epochs * self.epoch

  def seconds_on(self, chip: str) -> float | None:
    """Seconds of all runs of the cell on one chip, their training steps alone; None if unknown."""
    steps = math.ceil(self.size.pictures / self.cells[0].config.batch_size)
    return len(self.cells) * steps * self.chips[chip] if chip in self.chips else None


def size_of(config: RunConfig, rule: int = splits.RULE) -> Size:
  """The size of a resolved run, without reading its images.

  Args:
    config: of the run.
    rule: by which it splits its images, see `dn_jax.data.splits`.

  Raises:
    ConfigurationError: its data set is missing, or too small for a batch.
  """
  info = catalog.known(config.data, rule)
  network = build.build(dataclasses.replace(config.model, remat="none"), info.num_classes)
  rows = summary.layers(network, info.image_shape)
  train, valid, test = catalog.count(config.data, rule)
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
  cells: Sequence[Cell],
  there: Collection,
  memory: bool,
  elsewhere: bool,
  console: rich.console.Console,
  devices: int | None = None,
  chips: absent.Chips = absent.Chips(),
) -> list[Row]:
  """A row for each cell of the table, in the sweep's order.

  Args:
    cells: of the sweep.
    there: runs that are done or begun.
    memory: whether to compile each network's step for its memory; answers are kept.
    elsewhere: whether the runs will be on other machines.
    console: shows what is being compiled.
    devices: of this machine that a run takes unless it asks for others; None: all.
    chips: for which a step's time is estimated.

  Raises:
    ConfigurationError: a data set is missing, or too small for a batch; a chip's compiler is not installed.
    UserError: the process that compiles cannot start.
  """
  grouped: dict[str, list[Cell]] = {}
  for cell in cells:
    grouped.setdefault(collection.cell_key(cell.config), []).append(cell)
  rules = [_rule_of(group, there) for group in grouped.values()]
  sizes = [size_of(group[0].config, rule) for group, rule in zip(grouped.values(), rules, strict=True)]
  answers, described = [(None, "")] * len(grouped), None
  if memory:
    configs = [group[0].config for group in grouped.values()]
    own = [dataclasses.replace(config, devices=config.devices or devices) for config in configs]
    answers, described = _ask(own, rules, console)
  rows = []
  for group, size, rule, answer in zip(grouped.values(), sizes, rules, answers, strict=True):
    found = [run for cell in group if (run := there.of_key(cell.key))]
    rows.append(
      Row(
        group,
        sum(1 for run in found if run.summary),
        sum(1 for run in found if run.failure),
        size,
        *answer,
        *_time(group, found, None if elsewhere else described),
        absent.seconds(group[0].config, rule, chips, console),
      )
    )
  return rows


def _rule_of(cells: Sequence[Cell], there: Collection) -> int:
  """The rule by which a cell's first run that has begun splits its images; the newest where none has."""
  begun = (run for cell in cells if (run := there.of_key(cell.key)))
  return next((records.split_rule(run.folder) for run in begun), splits.RULE)


def _time(cells: Sequence[Cell], found: Sequence[Run], devices: str | None) -> tuple[int, float | None, frozenset[str]]:
  """The epochs left of a cell, the seconds of one in these runs, and the devices of these runs.

  Runs that finished on other devices do not count; the devices of an unfinished run are unknown.
  """
  to_do, seconds, seen = len(cells) * cells[0].config.epochs, [], set()
  for run in found:
    try:
      epochs = records.read_records(run.folder)
    except records.RunError:
      epochs = []
    to_do -= run.config.epochs if run.summary else len(epochs)
    own = run.summary and run.summary.devices
    if own is None or devices in (None, own):
      seconds += [epoch.seconds + epoch.evaluation_seconds for epoch in epochs]
      seen |= {own} - {None}
  return to_do, statistics.median(seconds) if seconds else None, frozenset(seen)


def _ask(configs: Sequence[RunConfig], rules: Sequence[int], console: rich.console.Console) -> tuple[list[Answer], str]:
  """Asks a process for each run's `step_memory`; returns its answers, and this machine's devices for a run.

  The process holds the accelerator, and ends before this returns, so that the runs can have the devices. If it dies,
  the step in question counts as refused, and a new process answers the rest.

  Raises:
    UserError: the process cannot start, for example since another process holds the accelerator.
  """
  answers: list[Answer] = []
  while len(answers) < len(configs):
    pool, worker = _pool(), None
    try:
      try:
        worker, devices = pool.submit(_devices, configs[0].devices).result()
      except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise UserError(f"the process that the sweep is planned in could not start ({why}); see --no-memory") from None
      for number in range(len(answers), len(configs)):
        config = configs[number]
        with console.status(f"memory of {number + 1} of {len(configs)}: {rich.markup.escape(_title(config))}"):
          answers.append(pool.submit(answer, config, rules[number]).result())
    except BrokenProcessPool:
      answers.append((None, "the process that was asked died (out of memory?)"))
    except KeyboardInterrupt:  # Do not wait for the compiler.
      if worker is not None:
        os.kill(worker, signal.SIGKILL)
      raise
    finally:
      pool.shutdown()
  return answers, devices


def _pool() -> ProcessPoolExecutor:
  return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))


def _begin(parent: int) -> None:
  """In the process: ends it with the sweep's."""
  child_processes.tie(parent)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the sweep, which ends this process.
  compilation.keep_compiled_programs()


def _devices(count: int | None) -> tuple[int, str]:
  """In the process: its id, and the devices of a run as its summary will name them; RuntimeError if there are none."""
  return os.getpid(), targets.here(count).described


def answer(config: RunConfig, rule: int = splits.RULE) -> Answer:
  """In the process: the result of `step_memory`, or its error."""
  try:
    return step_memory(config, rule), ""
  except (UserError, MemoryError, jax.errors.JaxRuntimeError) as error:
    return None, str(error)


def step_memory(config: RunConfig, rule: int = splits.RULE) -> int:
  """Bytes of a run's training step on each of its devices of this machine.

  Raises:
    UserError: the compiler refuses the step, or the devices do not fit the run.
  """
  info = catalog.known(config.data, rule)
  layout.make_layout(config.statistics_groups, devices=config.devices)
  question = planning.Question(
    config.model, info.num_classes, info.image_shape, config.batch_size, config.statistics_groups, config.accumulation
  )
  where = targets.here(config.devices)
  of_a_picture = math.prod(info.image_shape) + 4  # Bytes, its label included.
  beside = 0 if info.streamed else sum(catalog.count(config.data, rule)) * of_a_picture
  policy, _ = remat_policy.settle(question, where, beside)
  plan = planning.plan(question.under(policy), where)
  if plan.refusal:
    raise UserError(plan.refusal)
  return plan.peak


def table(rows: Sequence[Row], axes: Sequence[str], title: str, at_once: int = 1) -> rich.table.Table:
  """The plan of a sweep that carries out so many runs at once."""
  left = [row.seconds_left for row in rows]
  chips = tuple(dict.fromkeys(name for row in rows for name in row.chips))
  caption = "FLOPs: forward pass of a picture; of all runs, with three forward passes a training picture"
  if any(row.epoch is not None for row in rows):
    devices = sorted(frozenset().union(*(row.devices for row in rows)))
    on = f", on {' or '.join(devices)}" if devices else ""
    caption += f"\ntime: of the runs still to do, one after another, by the epochs of such runs that are there{on}"
    if at_once > 1:
      caption += f"\ntime of all: {at_once} runs at once, each as fast as those"
  if None in left:
    caption += "\ntime unknown: no run of that kind is there that has done an epoch"
  if chips:
    caption += f"\n{', '.join(chips)}: a step, and all runs of a cell one after another on one chip, training alone"
    caption += "; an estimate by the chip's compiler, real steps take longer (kept answers are of bfloat16)"
  for row in rows:
    if row.refused:
      caption += f"\n{_title(row.cells[0].config)} does not fit here: {row.refused}"
  escape = rich.markup.escape
  result = rich.table.Table(title=escape(title), caption=escape(caption), title_justify="left", caption_justify="left")
  for name in (*axes, *(() if axes else ("network",))):
    result.add_column(escape(name.removeprefix("model.").removeprefix("data.")), overflow="fold")
  for name in ("parameters", "MFLOPs", "runs", "done", "failed", "all FLOPs", "memory", "time", *chips):
    result.add_column(name, justify="right")
  for row in rows:
    given = row.cells[0].given
    names = [given.get(axis, "") for axis in axes] or [_title(row.cells[0].config)]
    result.add_row(
      *map(escape, names),
      f"{row.size.parameters:,}",
      f"{row.size.flops / 1e6:,.1f}",
      str(len(row.cells)),
      str(row.done),
      str(row.failed) if row.failed else "",
      f"{len(row.cells) * row.size.total:.2g}",
      "does not fit" if row.refused else "" if row.memory is None else f"{row.memory / 2**20:,.0f} MiB",
      "" if (seconds := row.seconds_left) is None else duration(seconds),
      *(
        f"{1000 * row.chips[chip]:,.1f} ms, {duration(row.seconds_on(chip))}" if chip in row.chips else ""
        for chip in chips
      ),
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
    "unknown" if None in left else duration(side_by_side(_each_left(rows), at_once)),
    *(_whole([row.seconds_on(chip) for row in rows]) for chip in chips),
  )
  return result


def _each_left(rows: Sequence[Row]) -> list[float]:
  """Seconds of each run to do of rows whose time is known."""
  to_do = [(row.seconds_left, len(row.cells) - row.done) for row in rows]
  return [seconds / runs for seconds, runs in to_do for _ in range(runs)]


def side_by_side(seconds: Sequence[float], at_once: int) -> float:
  """Seconds that runs of so many seconds each take together, begun in this order as soon as fewer are under way."""
  ends = [0.0] * at_once
  for each in seconds:
    heapq.heapreplace(ends, ends[0] + each)
  return max(ends)


def _whole(seconds: Sequence[float | None]) -> str:
  return "unknown" if None in seconds else duration(math.fsum(seconds))


def duration(seconds: float) -> str:
  """45 s, 12 min, 3 h 20 min, 2 d 4 h."""
  minutes = round(seconds / 60)
  if seconds < 90:
    return f"{seconds:.0f} s"
  if minutes < 90:
    return f"{minutes} min"
  if minutes < 48 * 60:
    return f"{minutes // 60} h {minutes % 60} min"
  return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _title(config: RunConfig) -> str:
  return f"{name_of(config.model)} on {data_name(config)}"
