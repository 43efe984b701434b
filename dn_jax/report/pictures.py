"""The pictures of a collection."""

from collections.abc import Callable

from matplotlib.figure import Figure

from dn_jax import runs
from dn_jax.collection import Collection
from dn_jax.data import catalog
from dn_jax.report import ablation, curves, heat, tradeoff
from dn_jax.report.ablation import Cell


def drawings(found: Collection) -> list[tuple[str, Callable[[], Figure]]]:
  """What there is to draw of a collection: (name, what draws it); nothing where nothing is finished."""
  cells = [cell for cell in ablation.cells_of(found.runs) if cell.finished]
  if not cells:
    return []
  result: list[tuple[str, Callable[[], Figure]]] = []
  if heat.axes_of(cells):
    result.append(("Heat map", lambda: heat.draw(cells, "Test error, mean over seeds")))
  if len(cells) > 1:
    result.append(("Error and size", lambda: tradeoff.draw(cells, "Test error by size")))
  result.append(("Curves", lambda: curves.draw_many(records_of(cells), "Error by epoch")))
  return result


def records_of(cells: list[Cell]) -> dict[str, list[list[runs.EpochRecord]]]:
  """Records of the finished runs, by cell; a run whose records are damaged is left out."""
  result: dict[str, list[list[runs.EpochRecord]]] = {}
  several = len({cell.data for cell in cells}) > 1
  names = [cell.network + (f", {cell.data}" if several else "") for cell in cells]
  for cell, name in zip(cells, names, strict=True):
    if names.count(name) > 1:  # Networks of one name differ in something else.
      name += " " + ", ".join(f"{flag} {ablation.in_words(value)}" for flag, value in cell.values.items())
    for run in cell.finished:
      try:
        result.setdefault(name, []).append(runs.read_records(run.folder))
      except runs.RunError:
        continue
  return result


def published_column(found: Collection) -> str | None:
  """The paper's column that all finished runs belong to, such as `c10+`; None where there are several or none."""
  columns = {
    catalog.info_of(run.config.data.name).column + ("+" if run.config.data.augment else "")
    for run in found.runs
    if run.summary
  }
  column = columns.pop() if len(columns) == 1 else ""
  return column if column.strip("+") else None
