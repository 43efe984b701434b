"""Forecasts a sweep before it begins: parameters, FLOPs, memory, and the time if there are similar runs."""

import dataclasses
import heapq
import math
import statistics
from collections.abc import Mapping, Sequence

import rich.console
import rich.markup
import rich.table

from dn_jax.config import size
from dn_jax.config.network import name_of
from dn_jax.config.resolve import data_name
from dn_jax.config.schema import RunConfig
from dn_jax.data import splits
from dn_jax.errors import ConfigurationError
from dn_jax.runs import collection, records
from dn_jax.runs.collection import Collection, Run
from dn_jax.sweep import elsewhere as absent
from dn_jax.sweep import images
from dn_jax.sweep.cells import Cell
from dn_jax.sweep.images import Images

# Of columns of the plan.
_LABELS = {"model.name": "network", "data.name": "data"}


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
  images:  of a run
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
  images: Images
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


def size_of(config: RunConfig, found: Images) -> Size:
  """The size of a resolved run with these images.

  Raises:
    ConfigurationError: they are too few for a batch.
  """
  train = found.train
  if config.batch_size > train:
    raise ConfigurationError("batch-size", config.batch_size, f"there are {train} training images; at most that")
  if config.last_batch == "drop":
    train -= train % config.batch_size
  network = size.of(config.model, found.info.num_classes, found.info.image_shape)
  return Size(*network, config.epochs * train, config.epochs * (found.valid + found.test))


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a plan has besides parameters, FLOPs and images.

  memory:    whether each network's step is compiled for its memory; answers are kept
  elsewhere: whether the runs will be on other machines
  devices:   of this machine that a run takes unless it asks for others; None: all
  chips:     for which a step's time is estimated
  published: whether published numbers of images stand in for a data set that is not there
  """

  memory: bool = False
  elsewhere: bool = False
  devices: int | None = None
  chips: absent.Chips = absent.Chips()
  published: bool = False


def look(cells: Sequence[Cell], there: Collection, asked: Asked, console: rich.console.Console) -> list[Row]:
  """A row for each cell of the table, in the sweep's order.

  Args:
    cells: of the sweep.
    there: runs that are done or begun.
    asked: what to find out.
    console: shows what is being compiled.

  Raises:
    ConfigurationError: a data set is missing, or too small for a batch; a chip's compiler is not installed.
    UserError: the process that compiles cannot start.
  """
  grouped: dict[str, list[Cell]] = {}
  for cell in cells:
    grouped.setdefault(collection.cell_key(cell.config), []).append(cell)
  rules = [_rule_of(group, there) for group in grouped.values()]
  configs = [group[0].config for group in grouped.values()]
  counted = [images.count(config.data, rule, asked.published) for config, rule in zip(configs, rules, strict=True)]
  sizes = [size_of(config, each) for config, each in zip(configs, counted, strict=True)]
  answers, described = [(None, "")] * len(grouped), None
  if asked.memory:
    from dn_jax.sweep import memory  # With JAX and the planner, which take seconds.

    own = [dataclasses.replace(config, devices=config.devices or asked.devices) for config in configs]
    answers, described = memory.ask(own, counted, console)
  rows = []
  for group, of_run, seen, answer in zip(grouped.values(), sizes, counted, answers, strict=True):
    found = [run for cell in group if (run := there.of_key(cell.key))]
    rows.append(
      Row(
        group,
        sum(1 for run in found if run.summary),
        sum(1 for run in found if run.failure),
        of_run,
        seen,
        *answer,
        *_time(group, found, None if asked.elsewhere else described),
        absent.seconds(group[0].config, seen.info, asked.chips, console),
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


def table(rows: Sequence[Row], axes: Sequence[str], title: str, at_once: int = 1) -> rich.table.Table:
  """The plan of a sweep that carries out so many runs at once."""
  left = [row.seconds_left for row in rows]
  chips = tuple(dict.fromkeys(name for row in rows for name in row.chips))
  caption = "FLOPs: forward pass of an image; of all runs, with three forward passes a training image"
  caption += "\nimages: for training + held out of the training set; for testing"
  for line in dict.fromkeys(row.images.lacking for row in rows if row.images.lacking):
    caption += f"\nthe published numbers of images stand in: {line}"
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
    label = _LABELS.get(name, name.removeprefix("model.").removeprefix("data."))
    result.add_column(escape(label), overflow="fold")
  # What nobody asked for has no column.
  asked = any(row.refused or row.memory is not None for row in rows)
  numbers = ("parameters", "MFLOPs", "images", "test", "epochs", "runs", "done", "failed", "all FLOPs")
  for name in (*numbers, *(["memory"] if asked else []), "time", *chips):
    result.add_column(name, justify="right")
  for row in rows:
    given = row.cells[0].given
    names = [given.get(axis, "") for axis in axes] or [_title(row.cells[0].config)]
    result.add_row(
      *map(escape, names),
      f"{row.size.parameters:,}",
      f"{row.size.flops / 1e6:,.1f}",
      f"{row.images.train:,}" + (f" + {row.images.valid:,}" if row.images.valid else ""),
      f"{row.images.test:,}",
      str(row.cells[0].config.epochs),
      str(len(row.cells)),
      str(row.done),
      str(row.failed) if row.failed else "",
      f"{len(row.cells) * row.size.total:.2g}",
      *([_memory(row)] if asked else []),
      "" if (seconds := row.seconds_left) is None else duration(seconds),
      *(
        f"{1000 * row.chips[chip]:,.1f} ms, {duration(row.seconds_on(chip))}" if chip in row.chips else ""
        for chip in chips
      ),
    )
  result.add_section()
  result.add_row(
    "all",
    *[""] * (max(len(axes), 1) + 4),
    str(sum(len(row.cells) for row in rows)),
    str(sum(row.done for row in rows)),
    str(sum(row.failed for row in rows) or ""),
    f"{sum(len(row.cells) * row.size.total for row in rows):.2g}",
    *([""] if asked else []),
    "unknown" if None in left else duration(side_by_side(_each_left(rows), at_once)),
    *(_whole([row.seconds_on(chip) for row in rows]) for chip in chips),
  )
  return result


def _memory(row: Row) -> str:
  if row.refused:
    return "does not fit"
  return "" if row.memory is None else f"{row.memory / 2**20:,.0f} MiB"


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
