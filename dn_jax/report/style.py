"""Shared by all figures: no window, sizes for print, lines that differ without colour too, files written whole."""

import io
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import Formatter, FuncFormatter, Locator, MaxNLocator, NullLocator

from dn_jax.errors import shown
from dn_jax.system import folders

# Colours of different brightness.
COLOURS = (
  *("#0b3c8c", "#d1495b", "#2e8b57", "#e69f00", "#7b4fa3", "#4aa8d8", "#8c564b", "#555555", "#e377c2", "#8f9a00"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "p")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
# Of a square of a heat map, from little to much. The lowest colour is visible on white paper.
HEAT = "YlGnBu"
# Dots per inch of a PNG, and the longest side of a figure in inches: at most 4,000 pixels.
DPI = 300
LONGEST = 13.0
# Inches beside a panel with its labels, so that those of neighbours stand apart.
_BETWEEN = 0.1
# Mantissas of a logarithmic axis's ticks, from few to many.
_MANTISSAS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))
_FEWEST, _MOST = 3, 8
# Most steps between numbers that lie ever closer: a logarithmic axis of less than a decade has round steps.
_STEPS = 6


def panels(down: int, across: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, np.ndarray]:
  """A figure that no window and no list of open figures knows, so that nobody has to close it, and its panels.

  Args:
    down: panels in a column.
    across: panels in a row.
    size: of the figure, in inches.
    shared: for `Figure.subplots`.

  Returns:
    The figure, and its axes [down, across].
  """
  figure = Figure(figsize=size, layout="constrained")
  figure.get_layout_engine().set(w_pad=_BETWEEN)
  return figure, figure.subplots(down, across, squeeze=False, **shared)


def grid(axes: Axes, axis: str = "both") -> None:
  """Thin lines at the ticks, behind all that is drawn."""
  axes.grid(axis=axis, alpha=0.3)
  axes.set_axisbelow(True)


def logarithmic(axis: Axis, words: Callable[[float], str] | None = None) -> None:
  """Makes an axis logarithmic, with at least three numbers at its ticks; `words` writes one."""
  axis.axes.set(**{f"{axis.axis_name}scale": "log"})
  axis.set_major_locator(_RoundNumbers())
  axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)) if words else _Decimals())
  axis.set_minor_locator(NullLocator())


def whole_numbers(axis: Axis, values: Sequence[int]) -> None:
  """Ticks of an axis that counts, such as epochs: round whole numbers, within the limits of the values."""
  low, high = min(values), max(values)
  margin = max(0.02 * (high - low), 0.0 if high > low else 0.5)
  axis.axes.set(**{f"{axis.axis_name}lim": (low - margin, high + margin)})
  if high - low < _MOST:
    axis.set_ticks(range(low, high + 1))
  else:
    axis.set_major_locator(MaxNLocator(_MOST, integer=True, steps=[1, 2, 5, 10]))


class _RoundNumbers(Locator):
  """Ticks of a logarithmic axis: round numbers within its limits, a few even where it spans no decade."""

  def __call__(self) -> list[float]:
    return self.tick_values(*self.axis.get_view_interval())

  def tick_values(self, vmin: float, vmax: float) -> list[float]:
    low, high = sorted((vmin, vmax))
    if not 0 < low < high:
      return [each for each in (high,) if each > 0]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in _MANTISSAS:
      ticks = [m * 10.0**decade for decade in decades for m in mantissas if low <= m * 10.0**decade <= high]
      if len(ticks) >= _FEWEST:
        return ticks[:: -(-len(ticks) // _MOST)]
    steps = MaxNLocator(_STEPS, steps=[1, 2, 5, 10], min_n_ticks=_FEWEST)
    return [float(tick) for tick in steps.tick_values(low, high) if low <= tick <= high]


class _Decimals(Formatter):
  """Within a decade all numbers have as many decimals: 1.9, 2.0, 2.1; over more each has its own: 0.5, 1, 10."""

  def __call__(self, value: float, pos: int | None = None) -> str:
    return f"{value:g}"

  def format_ticks(self, values: Sequence[float]) -> list[str]:
    shown = list(map(self, values))
    if not shown or max(values) >= 10 * min(values) or any("e" in each for each in shown):
      return shown
    places = max(len(each.partition(".")[2]) for each in shown)
    return [f"{value:.{places}f}" for value in values]


def by_height(lines: Sequence[Line2D]) -> list[Line2D]:
  """Lines as they end, from the highest to the lowest: the order of a legend. Those without a value come last."""
  return sorted(lines, key=lambda line: -np.nan_to_num(float(line.get_ydata()[-1]), nan=-np.inf))


def three_digits(value: float) -> str:
  """`2.00`, `0.350`, `1234`."""
  return f"{value:#.3g}".removesuffix(".") if value < 999.5 else f"{value:.0f}"


def ink(colour: Any) -> str:
  """White or black: what is readable on a colour."""
  # Relative luminance, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance, with a square for its curve.
  brightness = np.dot(np.square(to_rgb(colour)), (0.2126, 0.7152, 0.0722))
  return "white" if brightness < 0.25 else "black"


def save(figure: Figure, path: pathlib.Path, dpi: int = DPI) -> None:
  """Writes a figure, whole or not at all: PNG, SVG or PDF, as the path ends.

  Raises:
    OSError: it cannot be written.
  """
  _without_markup(figure)
  if path.suffix == ".svg":
    folders.write_whole(path, svg(figure))
    return
  content = io.BytesIO()
  figure.savefig(content, dpi=dpi, format=path.suffix.removeprefix("."))
  folders.write_whole(path, content.getvalue())


def svg(figure: Figure) -> str:
  """A figure as an SVG file, reproducible, without references to other files."""
  _without_markup(figure)
  text = io.StringIO()
  with matplotlib.rc_context({"svg.hashsalt": "dn_jax", "svg.fonttype": "path"}):
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
  return text.getvalue()


def plain(text: str) -> str:
  """Lines with escapes for control characters, and for those that the font lacks."""
  known = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
  lines = (shown(line) for line in text.split("\n"))
  return "\n".join("".join(each if ord(each) in known else ascii(each)[1:-1] for each in line) for line in lines)


def _without_markup(figure: Figure) -> None:
  """Has every text of a figure drawn as it stands: dollars in a name are no formula. Ticks make their own labels."""
  ticks = {
    id(label)
    for axes in figure.axes
    for axis in (axes.xaxis, axes.yaxis)
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
    for label in (tick.label1, tick.label2)
  }
  for text in figure.findobj(Text):
    if id(text) not in ticks:
      text.set_parse_math(False)
      text.set_text(plain(text.get_text()))


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Colour, marker and dash of each name's line; neighbours differ in all three.

  Up to 40 lines differ in marker or dash, so that colour is not needed.
  """
  # Each round of markers begins at another colour and dash.
  turns = {name: n + n // len(MARKERS) for n, name in enumerate(names)}
  return {
    name: {
      "color": COLOURS[turns[name] % len(COLOURS)],
      "marker": MARKERS[n % len(MARKERS)],
      "linestyle": DASHES[turns[name] % len(DASHES)],
    }
    for n, name in enumerate(names)
  }
