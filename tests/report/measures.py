"""What of a figure can be measured."""

import warnings

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from dn_jax.report import style


def laid_out(figure: Figure) -> Figure:
  """Has the figure lay itself out; a warning, as of a layout that does not fit, is an error."""
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    figure.draw_without_rendering()
  return figure


def pixels(figure: Figure) -> tuple[float, float]:
  """Of the PNG."""
  return tuple(figure.get_size_inches() * style.DPI)


def texts(figure: Figure) -> list[Text]:
  """All that is written; of an axis the labels of those ticks that are drawn."""
  found = [*figure.texts, *([figure._suptitle] if figure._suptitle else [])]
  found += [text for legend in figure.legends for text in legend.get_texts()]
  for axes in figure.axes:
    found += axes.texts
    if legend := axes.get_legend():
      found += [legend.get_title(), *legend.get_texts()]
    if axes.axison:
      found += [axes.title, axes.xaxis.label, axes.yaxis.label]
      for axis in (axes.xaxis, axes.yaxis):
        found += [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)]
  return [text for text in dict.fromkeys(found) if text.get_visible() and text.get_text().strip()]


def cut_off(figure: Figure) -> list[str]:
  """Words that stand beyond the figure's edge."""
  width, height = figure.bbox.width, figure.bbox.height
  boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
  return [word for word, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]


def legends(figure: Figure) -> list[Bbox]:
  found = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
  return [legend.get_window_extent() for legend in found if legend is not None]


def covered_points(figure: Figure) -> int:
  """Points of lines that lie under a legend."""
  boxes, count = legends(figure), 0
  for axes in figure.axes:
    for line in axes.lines:
      points = axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
      count += sum(bool(box.contains(*point)) for box in boxes for point in points)
  return count


def overlapping(boxes: list[tuple[str, Bbox]]) -> list[tuple[str, str]]:
  return [
    (a, b) for n, (a, first) in enumerate(boxes) for b, second in boxes[n + 1 :] if first.padded(-1).overlaps(second)
  ]


def without_axis_labels(figure: Figure) -> list[str]:
  """The numbers of axes that have no label; panels that share an axis have them at the outer ones alone."""
  found = []
  for axis in (axis for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)):
    labels = [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2) if label.get_visible()]
    numbers = [label.get_text() for label in labels if label.get_text()]
    if numbers and not axis.get_label_text():
      found.append(", ".join(numbers))
  return found


def ticks(axis: Axis) -> list[float]:
  """Those within the axis's limits."""
  low, high = sorted(axis.get_view_interval())
  return [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
