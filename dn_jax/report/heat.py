"""Heat maps of the test error: growth rate by depth, or two other flags that are numbers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dn_jax.report import style
from dn_jax.report.ablation import Cell
from dn_jax.report.words import in_words, short_flag
from dn_jax.runs import rounding

_PREFERRED = ("model.depth", "model.growth-rate")
_PANELS, _ACROSS = 6, 3
# Inches: of a square, of the labels around a panel, of the colour bar and the title.
_SQUARE, _AROUND, _BESIDE = (0.92, 0.62), (0.75, 0.9), (1.1, 0.7)


class _Layout(NamedTuple):
  """across, down: the flags; columns, rows: their values; panels: by name, of cells that differ in nothing else."""

  across: str
  down: str
  columns: list[object]
  rows: list[object]
  panels: Mapping[str, list[Cell]]

  @property
  def grid(self) -> tuple[int, int]:
    """Panels down and across."""
    across = min(len(self.panels), _ACROSS, max(1, int((style.LONGEST - _BESIDE[0]) / self.panel[0])))
    return -(-len(self.panels) // across), across

  @property
  def panel(self) -> tuple[float, float]:
    """Inches of a panel, with its labels."""
    return _AROUND[0] + _SQUARE[0] * len(self.columns), _AROUND[1] + _SQUARE[1] * len(self.rows)

  @property
  def size(self) -> tuple[float, float]:
    down, across = self.grid
    return across * self.panel[0] + _BESIDE[0], down * self.panel[1] + _BESIDE[1]


def draw(cells: Sequence[Cell], title: str) -> Figure | None:
  """Mean test error as a colour, with mean, standard deviation and number of runs written in.

  Each combination of further flags has a panel. Cells without a finished run say so.

  Returns:
    None if fewer than two numeric flags differ, most of the map would be empty, there would be too many panels, or no
    run is finished.
  """
  means = [cell.mean for cell in cells if cell.mean is not None]
  if (layout := _layout(cells)) is None or not means:
    return None
  down, across = layout.grid
  figure, grid = style.panels(down, across, layout.size)
  if any(len(cell.errors) > 1 for cell in cells):
    title += "\nmean ± deviation over seeds (seeds)"
  figure.suptitle(title)
  low, high = min(means), max(means)
  for axes, (name, group) in zip(grid.flat, layout.panels.items(), strict=False):
    image = _draw_panel(axes, group, layout, low, high)
    axes.set_title(name, fontsize=9)
  for axes in grid.flat[len(layout.panels) :]:
    axes.set_axis_off()
  figure.colorbar(image, ax=grid, label="test error, %", aspect=30)
  return figure


def _draw_panel(axes: Axes, cells: Sequence[Cell], layout: _Layout, low: float, high: float) -> object:
  found = {(repr(cell.values[layout.across]), repr(cell.values[layout.down])): cell for cell in cells}
  values = np.full((len(layout.rows), len(layout.columns)), np.nan)
  image = axes.imshow(values, cmap=style.HEAT, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
  for r, row in enumerate(layout.rows):
    for c, column in enumerate(layout.columns):
      cell = found.get((repr(column), repr(row)))
      if cell is None:
        continue
      colour = "black"
      if cell.mean is None:
        text = "failed" if cell.failed else "not\nfinished"
        axes.add_patch(Rectangle((c - 0.5, r - 0.5), 1, 1, facecolor="white", edgecolor="silver", hatch="//"))
      else:
        values[r, c] = cell.mean
        text = rounding.in_words(cell.mean)
        if len(cell.errors) > 1:
          text += f"\n± {rounding.in_words(cell.deviation)} ({len(cell.errors)})"
        colour = style.ink(image.cmap(image.norm(cell.mean)))
      back = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if cell.mean is None else None
      axes.text(c, r, text, ha="center", va="center", color=colour, fontsize=9, bbox=back)
  image.set_data(values)
  axes.set_xticks(range(len(layout.columns)), [in_words(value) for value in layout.columns])
  axes.set_yticks(range(len(layout.rows)), [in_words(value) for value in layout.rows])
  axes.set_xlabel(_words(layout.across))
  axes.set_ylabel(_words(layout.down))
  axes.invert_yaxis()
  return image


def _layout(cells: Sequence[Cell]) -> _Layout | None:
  flags = [flag for flag in (cells[0].values if cells else ()) if _numbers(cells, flag)]
  flags.sort(key=lambda flag: _PREFERRED.index(flag) if flag in _PREFERRED else len(_PREFERRED))
  if len(flags) < 2:
    return None
  across, down = flags[:2]
  panels: dict[str, list[Cell]] = {}
  for cell in cells:
    rest = ((flag, value) for flag, value in cell.values.items() if flag not in (across, down))
    panels.setdefault(", ".join(f"{_words(flag)} {in_words(value)}" for flag, value in rest), []).append(cell)
  columns, rows = (sorted({cell.values[flag] for cell in cells}) for flag in (across, down))
  layout = _Layout(across, down, columns, rows, panels)
  full = 2 * len(cells) >= len(panels) * len(columns) * len(rows)
  return layout if full and len(panels) <= _PANELS and max(layout.size) <= style.LONGEST else None


def _numbers(cells: Sequence[Cell], flag: str) -> bool:
  """Whether a flag is a number in all cells, and differs."""
  values = [cell.values[flag] for cell in cells]
  return len(set(map(repr, values))) > 1 and all(
    isinstance(value, int | float) and not isinstance(value, bool) for value in values
  )


def _words(flag: str) -> str:
  return {"model.depth": "depth L", "model.growth-rate": "growth rate k"}.get(flag, short_flag(flag))
