"""The cells of a collection: mean and standard deviation over seeds, by the flags in which they differ."""

import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dn_jax.config import datasets, size
from dn_jax.config.nested import identity
from dn_jax.config.network import name_of
from dn_jax.config.resolve import data_name
from dn_jax.config.size import Size
from dn_jax.report import departures
from dn_jax.report.grid import Grid, Value
from dn_jax.report.words import in_words, short_flag
from dn_jax.runs import collection, records, rounding
from dn_jax.runs.collection import Run


@dataclasses.dataclass(frozen=True)
class Cell:
  """Runs that differ in their seeds alone.

  key:    of the cell, see `dn_jax.runs.collection`
  values: flag -> value, of the flags that tell the cells apart
  runs:   by seed, finished or not
  """

  key: str
  values: Mapping[str, Any]
  runs: Sequence[Run]

  @property
  def finished(self) -> list[Run]:
    return [run for run in self.runs if run.summary]

  @property
  def failed(self) -> list[Run]:
    return [run for run in self.runs if run.failure]

  @property
  def errors(self) -> list[float]:
    """Test errors of the finished runs, in percent."""
    return [run.test_error for run in self.finished]

  @property
  def mean(self) -> float | None:
    return statistics.fmean(self.errors) if self.errors else None

  @property
  def deviation(self) -> float | None:
    """The sample standard deviation of several errors."""
    return statistics.stdev(self.errors) if len(self.errors) > 1 else None

  @property
  def network(self) -> str:
    return name_of(self.runs[0].config.model)

  @property
  def data(self) -> str:
    return data_name(self.runs[0].config)

  @property
  def departures(self) -> str:
    """In what its training is not the published one, in words."""
    return departures.text(self.runs)

  @functools.cached_property
  def size(self) -> Size | None:
    """As its finished runs say, else by formula; None where no record says the number of classes."""
    if self.finished:
      summary = self.finished[0].summary
      return Size(summary.parameters, summary.flops)
    config, folder = self.runs[0].config, self.runs[0].folder
    info = datasets.recorded(config.data)
    classes = info.num_classes
    with contextlib.suppress(records.RunError):
      classes = classes or len(records.read_classes(folder) or ())
    return size.of(config.model, classes, info.image_shape) if classes else None


def cells_of(found: Iterable[Run]) -> list[Cell]:
  """Groups runs into cells; their values are `distinguishing` flags."""
  grouped = collection.cells(found)
  flags = distinguishing([group[0] for group in grouped.values()])
  result = []
  for key, group in grouped.items():
    values = identity(group[0].config)
    result.append(Cell(key, {flag: values.get(flag) for flag in flags}, group))
  return sorted(result, key=lambda cell: [_sortable(value) for value in cell.values.values()])


def distinguishing(found: Sequence[Run]) -> list[str]:
  """The flags in which runs differ, without the seed and those that follow from others, as blocks from a depth."""
  everything = [identity(run.config) for run in found]
  flags = [flag for flag in dict.fromkeys(flag for one in everything for flag in one) if flag != "seed"]
  different = [flag for flag in flags if len({repr(one.get(flag)) for one in everything}) > 1]
  # The flags that people use come first; those that follow from the flags already taken are left out.
  preferred = ("data.name", "data.augment", "model.family", "model.depth", "model.growth-rate", "model.bottleneck")
  different.sort(key=lambda flag: preferred.index(flag) if flag in preferred else len(preferred))
  taken: list[str] = []
  for flag in different:
    by_taken: dict[str, set[str]] = {}
    for one in everything:
      by_taken.setdefault(repr([one.get(each) for each in taken]), set()).add(repr(one.get(flag)))
    if any(len(values) > 1 for values in by_taken.values()):
      taken.append(flag)
  return taken


def common_flags(found: Sequence[Run]) -> dict[str, object]:
  """The flags that say what a run is, with a value that all runs share."""
  everything = [identity(run.config) for run in found]
  first = everything[0] if everything else {}
  return {flag: value for flag, value in first.items() if all(one.get(flag) == value for one in everything)}


def spread(errors: Sequence[float]) -> str:
  """Mean ± sample standard deviation (count): `4.51 ± 0.10 (3)`."""
  if not errors:
    return "-"
  deviation = f" ± {rounding.in_words(statistics.stdev(errors))}" if len(errors) > 1 else ""
  return f"{rounding.in_words(statistics.fmean(errors))}{deviation} ({len(errors)})"


def numbers(errors: Sequence[float]) -> dict[str, Value]:
  """The same as columns of CSV, in percent: mean, std (of two errors or more) and n."""
  return {
    "mean": rounding.exact(statistics.fmean(errors)) if errors else None,
    "std": rounding.exact(statistics.stdev(errors)) if len(errors) > 1 else None,
    "n": len(errors),
  }


def table(cells: Sequence[Cell], title: str) -> Grid:
  """A row for each cell: its values, its size, its error."""
  flags = list(cells[0].values) if cells else []
  marks = departures.marks(cell.departures for cell in cells)
  data = len({cell.data for cell in cells}) > 1 and not {"data.name", "data.augment"} & set(flags)
  rows = []
  for cell in cells:
    parameters, flops = cell.size or (None, None)
    rows.append(
      [
        cell.network,
        *([cell.data] if data else []),
        *(in_words(cell.values[flag]) for flag in flags),
        "" if parameters is None else f"{parameters:,}",
        "" if flops is None else f"{flops / 1e6:,.1f}",
        " ".join(filter(None, [spread(cell.errors), marks.get(cell.departures)])),
        f"{len(cell.finished)}/{len(cell.runs)}" + (f", {len(cell.failed)} failed" if cell.failed else ""),
      ]
    )
  columns = ["network", *(["data"] if data else []), *map(short_flag, flags)]
  return Grid(
    title,
    [*columns, "parameters", "MFLOPs", "test error, %", "runs"],
    rows,
    [
      "Test error: mean ± sample standard deviation over seeds (finished runs). FLOPs: forward pass of an image, a "
      "multiply-add counted as two.",
      *departures.notes(marks),
    ],
    left=len(columns),
    records=[_record(cell) for cell in cells],
  )


def _record(cell: Cell) -> dict[str, Value]:
  """A cell's line of CSV."""
  parameters, flops = cell.size or (None, None)
  values = {
    short_flag(flag): in_words(value) if isinstance(value, list) else value for flag, value in cell.values.items()
  }
  return {
    "network": cell.network,
    "data": cell.data,
    **values,
    "parameters": parameters,
    "flops": flops,
    **numbers(cell.errors),
    "runs": len(cell.runs),
    "failed": len(cell.failed),
    "not_as_published": cell.departures,
  }


def _sortable(value: Any) -> tuple[int, tuple[float, ...], str]:
  """Sorts values of a flag: none first, numbers and lists of them by number, all else as text."""
  each = value if isinstance(value, list) else [value]
  numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in each)
  return (0 if value is None else 1, tuple(map(float, each)) if numbers else (), "" if numbers else str(value))
