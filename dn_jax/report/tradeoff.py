"""Test error against parameters and FLOPs (the paper's figures 3 and 4), a line for each kind of network."""

import statistics
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from dn_jax.config import zoo
from dn_jax.config.network import complete_model, kind_of
from dn_jax.config.schema import ModelConfig
from dn_jax.report import style
from dn_jax.report.ablation import Cell

# The error's axis is logarithmic where the largest is so many times the least: ours may be far from the published.
_FAR = 4.0
# Characters of a line over both panels.
_WIDTH = 100
_ENGINEERING = EngFormatter(sep="")
# Points.
_OURS, _THEIRS = {"markersize": 6, "linewidth": 1}, {"markersize": 7, "linewidth": 0.7, "markerfacecolor": "none"}


class Point(NamedTuple):
  """A cell in the figure: errors in percent; growth rate and depth if a network has them."""

  parameters: float
  flops: float | None
  mean: float
  deviation: float
  growth_rate: int | None = None
  depth: int | None = None


def points(cells: Sequence[Cell]) -> dict[str, list[Point]]:
  """The cells with a finished run by kind of network, and by data set if there are several."""
  found: dict[str, list[Point]] = {}
  several = len({cell.data for cell in cells}) > 1
  for cell in cells:
    if cell.mean is None:
      continue
    model = cell.runs[0].config.model
    name = kind_of(model) + (f", {cell.data}" if several else "")
    deviation = statistics.stdev(cell.errors) if len(cell.errors) > 1 else 0.0
    point = Point(*cell.size, cell.mean, deviation, model.growth_rate, model.depth)
    found.setdefault(name, []).append(point)
  return {name: sorted(group, key=lambda point: point.parameters) for name, group in sorted(found.items())}


def lines(group: Sequence[Point]) -> list[list[Point]]:
  """The points that a line joins: all of a kind, or those of a growth rate in a table of growth rates by depths."""
  rates, depths = {p.growth_rate for p in group}, {p.depth for p in group}
  table = len(rates) > 1 and len(depths) > 1 and len(group) == len(rates) * len(depths)
  if table and len({(p.growth_rate, p.depth) for p in group}) == len(group):
    return [[p for p in group if p.growth_rate == rate] for rate in sorted(rates)]
  return [list(group)]


def published_points(column: str) -> dict[str, list[Point]]:
  """Published points of a column such as `c10+` by kind of network.

  Parameters are as printed. FLOPs are counted here, since the paper prints none for these networks.
  """
  found: dict[str, list[Point]] = {}
  for entry in zoo.NETWORKS.values():
    if column in entry.errors and entry.parameters:
      name = kind_of(complete_model(ModelConfig(name=entry.name)))
      point = Point(entry.parameters * 1e6, entry.counted.flops, entry.errors[column], 0.0)
      found.setdefault(name, []).append(point)
  return {name: sorted(group, key=lambda point: point.parameters) for name, group in sorted(found.items())}


def draw(cells: Sequence[Cell], title: str, published: str | None = None) -> Figure:
  """Error against parameters and against FLOPs; bars are the standard deviation over seeds.

  Args:
    cells: those without a finished run are left out.
    title: over the figure.
    published: a column, such as `c10+`, whose published errors are drawn too, hollow.
  """
  ours, theirs = points(cells), published_points(published) if published else {}
  styles = style.styles(list(dict.fromkeys((*ours, *theirs))))
  figure, ((left, right),) = style.panels(1, 2, (11, 4.8), sharey=True)
  figure.suptitle(title + _departures(cells) * bool(published))
  everything = [point for group in (*ours.values(), *theirs.values()) for point in group]
  for axes, size, label in ((left, "parameters", "parameters"), (right, "flops", "FLOPs of an image's forward pass")):
    for name, group in theirs.items():
      _draw_line(axes, group, size, styles[name] | _THEIRS)
    for name, group in ours.items():
      parts = lines([point for point in group if getattr(point, size) is not None])
      for line in parts:
        _draw_line(axes, line, size, styles[name] | _OURS)
        if len(parts) > 1:
          start = (getattr(line[0], size), line[0].mean)
          axes.annotate(f"k={line[0].growth_rate}", start, (4, 4), textcoords="offset points", fontsize=8)
    axes.margins(0.06, 0.1)
    style.logarithmic(axes.xaxis, _ENGINEERING)
    axes.set_xlabel(label)
    style.grid(axes)
  errors = [point.mean for point in everything if point.mean > 0]
  if errors and max(errors) > _FAR * min(errors):
    style.logarithmic(left.yaxis)
  several = any(len(cell.errors) > 1 for cell in cells)
  left.set_ylabel("test error, %" + " (bars: deviation over seeds)" * several)
  if everything:
    # From the highest to the lowest, by the largest network of each kind; each once, solid where it is ours.
    ends = {name: group[-1].mean for name, group in (theirs | ours).items()}
    handles = [
      Line2D([], [], **styles[name] | (_OURS if name in ours else _THEIRS), label=name)
      for name in sorted(ends, key=lambda name: -ends[name])
    ]
    if theirs:
      handles.append(Line2D([], [], linestyle="", marker="o", color="black", **_THEIRS, label="hollow: published"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, handlelength=3, frameon=False)
  return figure


def _departures(cells: Sequence[Cell]) -> str:
  """A line that says of our points, beside published ones, how they were not trained as published; or nothing."""
  found = {cell.departures for cell in cells if cell.finished}
  if not any(found):
    return ""
  if len(found) == 1:
    words = f"solid: not the published training: {found.pop()}"
  else:
    words = f"solid: not {'all ' * ('' in found)}trained as published"
  return f"\n{textwrap.fill(words, _WIDTH)}"


def _draw_line(axes: Axes, line: Sequence[Point], size: str, look: dict[str, Any]) -> None:
  """Joins points, unless networks of one size would be joined."""
  x, y, deviations = zip(*((getattr(point, size), point.mean, point.deviation) for point in line), strict=True)
  if len(set(x)) < len(x):
    look = look | {"linestyle": ""}
  axes.errorbar(x, y, yerr=deviations if any(deviations) else None, capsize=3, **look)
