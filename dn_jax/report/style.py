"""Shared by all figures: no window, sizes for print, lines that differ without colour too, files written whole."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

from dn_jax.errors import shown
from dn_jax.system import folders

matplotlib.use("Agg")
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

# Colours of different brightness.
COLOURS = ("#0b3c8c", "#d1495b", "#2e8b57", "#e69f00", "#7b4fa3", "#4aa8d8", "#8c564b", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
# Dots per inch of a PNG, and the longest side of a figure in inches: at most 4,000 pixels.
DPI = 300
LONGEST = 13.0


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

  Up to 32 lines differ in marker or dash, so that colour is not needed.
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
