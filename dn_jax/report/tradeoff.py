"""Test error against parameters and FLOPs (the paper's figures 3 and 4), a line for each kind of network."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from dn_jax.config import zoo
from dn_jax.config.network import complete_model, kind_of
from dn_jax.config.schema import ModelConfig
from dn_jax.report import style
from dn_jax.report.ablation import Cell

_PUBLISHED = ", published"


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
    sizes = cell.of_summary("parameters"), cell.of_summary("flops")
    point = Point(*sizes, cell.mean, deviation, model.growth_rate, model.depth)
    found.setdefault(name, []).append(point)
  return {name: sorted(group, key=lambda point: point.parameters) for name, group in sorted(found.items())}


def lines(group: Sequence[Point]) -> list[list[Point]]:
  """The points that a line joins: all of a kind, or those of a growth rate in a table of growth rates by depths."""
  rates, depths = {p.growth_rate for p in group}, {p.depth for p in group}
  table = len(rates) > 1 and len(depths) > 1 and len(group) == len(rates) * len(depths)
  if table and len({(p.growth_rate, p.depth) for p in group}) == len(group):
    return [[p for p in group if p.growth_rate == rate] for rate in sorted(rates)]
  return [list(group)]


def published_points(column: str) -> dict[str, list[tuple[float, float]]]:
  """Published points of a column such as `c10+`: (parameters, error in percent) by kind of network."""
  found: dict[str, list[tuple[float, float]]] = {}
  for entry in zoo.NETWORKS.values():
    if column in entry.errors and entry.parameters:
      name = kind_of(complete_model(ModelConfig(name=entry.name)))
      found.setdefault(name, []).append((entry.parameters * 1e6, entry.errors[column]))
  return {name: sorted(group) for name, group in sorted(found.items())}


def draw(cells: Sequence[Cell], title: str, published: str | None = None) -> Figure:
  """Error against parameters and against FLOPs; bars are the standard deviation over seeds.

  Args:
    cells: those without a finished run are left out.
    title: over the figure.
    published: a column, such as `c10+`, whose published errors are drawn too, hollow.
  """
  ours, theirs = points(cells), published_points(published) if published else {}
  styles = style.styles(list(dict.fromkeys((*ours, *theirs))))
  figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
  figure.suptitle(title)
  for name, group in ours.items():
    for axes, size in ((left, "parameters"), (right, "flops")):
      for n, line in enumerate(parts := lines([p for p in group if getattr(p, size) is not None])):
        x, y = [getattr(p, size) for p in line], [p.mean for p in line]
        look = _joined(styles[name], x)
        label = name if n == 0 else None
        axes.errorbar(x, y, yerr=[p.deviation for p in line], label=label, capsize=3, markersize=6, linewidth=1, **look)
        if len(parts) > 1:
          axes.annotate(f"k={line[0].growth_rate}", (x[0], y[0]), (4, 4), textcoords="offset points", fontsize=8)
  for name, group in theirs.items():
    x, errors = zip(*group, strict=True)
    look = _joined(styles[name], x) | {"markerfacecolor": "none", "linewidth": 0.7, "markersize": 7}
    left.plot(x, errors, label=name + _PUBLISHED, **look)
  for axes, name in ((left, "parameters"), (right, "FLOPs of a picture's forward pass")):
    axes.set_xscale("log")
    axes.set_xlabel(name)
    axes.grid(alpha=0.3, which="both")
    # Ticks must not touch: 1, 2, 5 of a decade only if there are at most two decades.
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 150 * low else (1,)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  left.set_ylabel("test error, %")
  if ours or theirs:
    handles, names = left.get_legend_handles_labels()
    # Ours first.
    pairs = sorted(zip(handles, names, strict=True), key=lambda pair: pair[1].endswith(_PUBLISHED))
    figure.legend(*zip(*pairs, strict=True), loc="outside right upper", fontsize=9, handlelength=3)
  return figure


def _joined(look: dict[str, Any], sizes: Sequence[float]) -> dict[str, Any]:
  """A line's look; without the line if networks of one size would be joined."""
  return look if len(set(sizes)) == len(sizes) else look | {"linestyle": ""}
