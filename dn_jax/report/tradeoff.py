"""Test error against parameters and FLOPs (the paper's figures 3 and 4), a line a kind of network."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dn_jax.configuration import ModelConfig
from dn_jax.models import zoo
from dn_jax.report import picture
from dn_jax.report.ablation import Cell

_FAMILIES = {
  "resnet": "ResNet",
  "preactivation": "ResNet (pre-activation)",
  "wide": "Wide ResNet",
}


class Point(NamedTuple):
  """A cell in the picture: errors in percent."""

  parameters: float
  flops: float | None
  mean: float
  deviation: float


def kind_of(model: ModelConfig) -> str:
  """What a completed network is called in the paper's figures."""
  if model.family != "densenet":
    return _FAMILIES[model.family] + (" with stochastic depth" if model.survival < 1 else "")
  letters = ("B" if model.bottleneck else "") + ("C" if model.compression < 1 else "")
  return "DenseNet" + (f"-{letters}" if letters else "")


def points(cells: Sequence[Cell]) -> dict[str, list[Point]]:
  """The cells with a result, by kind, smallest network first."""
  found: dict[str, list[Point]] = {}
  several = len({cell.data for cell in cells}) > 1
  for cell in cells:
    if cell.mean is None:
      continue
    name = kind_of(cell.runs[0].config.model) + (f", {cell.data}" if several else "")
    deviation = statistics.stdev(cell.errors) if len(cell.errors) > 1 else 0.0
    point = Point(cell.of_summary("parameters"), cell.of_summary("flops"), cell.mean, deviation)
    found.setdefault(name, []).append(point)
  return {name: sorted(group) for name, group in sorted(found.items())}


def published_points(column: str) -> dict[str, list[tuple[float, float]]]:
  """What was published in a column of the paper's table: (parameters, error) by kind."""
  found: dict[str, list[tuple[float, float]]] = {}
  for entry in zoo.NETWORKS.values():
    if column in entry.errors and entry.parameters:
      name = entry.title.split(" (L=")[0].removeprefix("Wide-")
      name = next((label for prefix, label in _BASELINES if entry.title.startswith(prefix)), name)
      if "with stochastic depth" in entry.title and "reported" not in entry.title:
        name = "ResNet with stochastic depth"
      found.setdefault(name, []).append((entry.parameters * 1e6, entry.errors[column]))
  return {name: sorted(group) for name, group in found.items()}


_BASELINES = (
  ("Wide ResNet", "Wide ResNet"),
  ("ResNet-164", "ResNet (pre-activation)"),
  ("ResNet-1001", "ResNet (pre-activation)"),
  ("ResNet", "ResNet"),
)


def draw(cells: Sequence[Cell], title: str, published: str | None = None) -> Figure:
  """Error against parameters, and against FLOPs; bars are the deviation over seeds.

  Args:
    cells: of a table; those without a finished run are left out.
    title: over the picture.
    published: a column whose published errors are drawn beside, hollow, such as `c10+`.
  """
  ours, theirs = points(cells), published_points(published) if published else {}
  styles = picture.styles(list(dict.fromkeys((*ours, *theirs))))
  figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
  figure.suptitle(title)
  for name, group in ours.items():
    for axes, sizes in ((left, [p.parameters for p in group]), (right, [p.flops for p in group])):
      known = [(size, p.mean, p.deviation) for size, p in zip(sizes, group, strict=True) if size is not None]
      if known:
        x, mean, deviation = zip(*known, strict=True)
        line = "-" if _one_curve(known) else ""
        axes.errorbar(x, mean, yerr=deviation, label=name, capsize=3, linestyle=line, **styles[name])
  for name, group in theirs.items():
    x, errors = zip(*group, strict=True)
    style = styles[name] | {"markerfacecolor": "none", "linestyle": ":"}
    left.plot(x, errors, label=f"{name}, published", **style)
  for axes, name in ((left, "parameters"), (right, "FLOPs of a picture's forward pass")):
    axes.set_xscale("log")
    axes.set_xlabel(name)
    axes.grid(alpha=0.3, which="both")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.tick_params(axis="x", labelrotation=30)
  left.set_ylabel("test error, %")
  if ours or theirs:
    left.legend(fontsize="small")
  return figure


def _one_curve(known: Sequence[tuple[float, float, float]]) -> bool:
  """Whether a line through the points says something: there are few, of different sizes."""
  return 1 < len({size for size, *_ in known}) == len(known)


def short(value: float) -> str:
  """1500 -> 1.5k."""
  for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if value >= size:
      return f"{value / size:g}{letter}"
  return f"{value:g}"
