"""A table of two flags as colours: growth rate by depth, or any two others."""

import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure

from dn_jax.report.ablation import Cell, in_words

_PREFERRED = ("model.depth", "model.growth-rate")


def axes_of(cells: Sequence[Cell]) -> tuple[str, str] | None:
  """The two flags to draw by: depth and growth rate where cells differ in both, else the first two; None: fewer."""
  flags = [flag for flag in (cells[0].values if cells else ()) if len({repr(c.values[flag]) for c in cells}) > 1]
  flags.sort(key=lambda flag: _PREFERRED.index(flag) if flag in _PREFERRED else len(_PREFERRED))
  return (flags[0], flags[1]) if len(flags) > 1 else None


def draw(cells: Sequence[Cell], title: str) -> Figure | None:
  """Mean test error as a colour, with mean, deviation and number of runs written in; None without two flags.

  Cells that differ in further flags are panels beside each other.
  """
  if (axes_names := axes_of(cells)) is None:
    return None
  across, down = axes_names
  rest = [flag for flag in cells[0].values if flag not in axes_names]
  panels: dict[str, list[Cell]] = {}
  for cell in cells:
    name = ", ".join(f"{_short(flag)} {in_words(cell.values[flag])}" for flag in rest)
    panels.setdefault(name, []).append(cell)
  means = [cell.mean for cell in cells if cell.mean is not None]
  if not means:
    return None
  columns, rows = (_ordered(cells, flag) for flag in (across, down))
  width, height = 1.6 + 1.35 * len(columns), 1.3 + 0.75 * len(rows)
  figure, grid = pyplot.subplots(
    1, len(panels), figsize=(width * len(panels) + 1.2, height), layout="constrained", squeeze=False
  )
  figure.suptitle(title)
  low, high = min(means), max(means)
  for axes, (name, group) in zip(grid[0], panels.items(), strict=True):
    found = {(repr(cell.values[across]), repr(cell.values[down])): cell for cell in group}
    values = np.full((len(rows), len(columns)), np.nan)
    for r, row in enumerate(rows):
      for c, column in enumerate(columns):
        cell = found.get((repr(column), repr(row)))
        if cell is None or cell.mean is None:
          axes.text(c, r, "failed" if cell and cell.failed else "", ha="center", va="center", fontsize="small")
          continue
        values[r, c] = cell.mean
        dark = high > low and (cell.mean - low) / (high - low) > 0.6
        deviation = f"\n± {statistics.stdev(cell.errors):.2f} ({len(cell.errors)})" if len(cell.errors) > 1 else ""
        axes.text(
          c, r, f"{cell.mean:.2f}{deviation}", ha="center", va="center", color="white" if dark else "black", fontsize=9
        )
    image = axes.imshow(values, cmap="YlGnBu", vmin=low, vmax=high if high > low else low + 1, aspect="auto")
    axes.set_xticks(range(len(columns)), [in_words(value) for value in columns])
    axes.set_yticks(range(len(rows)), [in_words(value) for value in rows])
    axes.set_xlabel(_short(across))
    axes.set_ylabel(_short(down))
    axes.set_title(name, fontsize="medium")
    axes.invert_yaxis()
  figure.colorbar(image, ax=grid[0, -1], label="test error, %")
  return figure


def _short(flag: str) -> str:
  name = flag.rpartition(".")[2]
  return {"depth": "depth L", "growth-rate": "growth rate k"}.get(name, name)


def _ordered(cells: Sequence[Cell], flag: str) -> list[object]:
  values = {repr(cell.values[flag]): cell.values[flag] for cell in cells}
  numbers = all(isinstance(value, int | float) for value in values.values())
  return sorted(values.values(), key=(lambda value: value) if numbers else repr)
