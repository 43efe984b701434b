"""The figures of a collection of runs, separate for each data set."""

from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from dn_jax.report import ablation, curves, heat, published_table, tradeoff, words
from dn_jax.report.ablation import Cell
from dn_jax.runs import records
from dn_jax.runs.collection import Run
from dn_jax.runs.records import EpochRecord

# Flags that the name of the network or of the data set already tells.
_TOLD = {"data.name", "data.augment"} | {
  f"model.{name}" for name in ("family", "depth", "growth-rate", "blocks", "bottleneck", "survival", "widen-factor")
}


def by_data(found: Iterable[Run]) -> dict[str, list[Cell]]:
  """Cells by data set, such as `cifar10+`; their values are the flags that differ on that data set."""
  grouped: dict[str, list[Run]] = {}
  for cell in ablation.cells_of(found):
    grouped.setdefault(cell.data, []).extend(cell.runs)
  return {data: ablation.cells_of(group) for data, group in grouped.items()}


def draw(found: Iterable[Run]) -> list[tuple[str, Figure]]:
  """Draws all figures: (name, figure) pairs; none of data without a finished run."""
  result: list[tuple[str, Figure]] = []
  groups = by_data(found)
  for data, cells in groups.items():
    if not any(cell.finished for cell in cells):
      continue
    several = f", {data}" if len(groups) > 1 else ""
    if figure := heat.draw(cells, f"Test error on {data}"):
      result.append((f"Heat map{several}", figure))
    if sum(1 for cell in cells if cell.finished) > 1:
      result.append((f"Error and size{several}", tradeoff.draw(cells, f"Test error by size, {data}")))
    figures = curves.draw_many(records_of(cells), f"Error by epoch, {data}")
    for number, figure in enumerate(figures, start=1):
      result.append((f"Curves{several}" + (f" {number}" if len(figures) > 1 else ""), figure))
  return result


def records_of(cells: Sequence[Cell], finished: bool = True) -> dict[str, list[list[EpochRecord]]]:
  """Records of the runs (of the finished ones) by a cell's name, without runs whose records are damaged."""
  result: dict[str, list[list[EpochRecord]]] = {}
  for name, cell in zip(names(cells), cells, strict=True):
    for run in cell.finished if finished else cell.runs:
      try:
        result.setdefault(name, []).append(records.read_records(run.folder))
      except records.RunError:
        continue
  return result


def names(cells: Sequence[Cell]) -> list[str]:
  """A figure's name of each cell: its network, its data if they differ, and further flags as needed."""
  several = len({cell.data for cell in cells}) > 1
  plain = [words.network(cell.runs[0].config.model) + (f", {cell.data}" if several else "") for cell in cells]
  result = []
  for cell, name in zip(cells, plain, strict=True):
    more = [flag for flag in cell.values if flag not in _TOLD] if plain.count(name) > 1 else []
    result.append(", ".join([name, *(f"{words.short_flag(f)} {words.in_words(cell.values[f])}" for f in more)]))
  # The keys tell apart cells whose names are still the same.
  return [f"{name} ({cell.key})" if result.count(name) > 1 else name for name, cell in zip(result, cells, strict=True)]


def published_column(cells: Sequence[Cell]) -> str | None:
  """The paper's column of all these cells, such as `c10+`; None if there are several, or none."""
  columns = {published_table.column_of(cell.runs[0].config) for cell in cells}
  return columns.pop() if len(columns) == 1 else None
