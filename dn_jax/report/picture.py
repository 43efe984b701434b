"""What all pictures share: no window, print sizes, files written whole."""

import io
import os
import pathlib
from collections.abc import Callable, Sequence

import matplotlib

from dn_jax.configuration import ConfigurationError

matplotlib.use("Agg")
from matplotlib.figure import Figure

# Colours that differ in brightness too, so that a black and white print can tell them apart.
COLOURS = ("#0b3c8c", "#d1495b", "#2e8b57", "#e69f00", "#7b4fa3", "#4aa8d8", "#8c564b", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
FORMATS = (".png", ".svg", ".pdf")


def save(figure: Figure, path: pathlib.Path) -> None:
  """Writes a figure, whole or not at all: PNG, SVG or PDF, as the path ends; see `check_path`."""
  temporary = path.with_name(path.name + ".tmp")
  figure.savefig(temporary, dpi=150, format=path.suffix.removeprefix("."))
  temporary.replace(path)


def check_path(flag: str, path: pathlib.Path) -> None:
  """Before anything is drawn.

  Raises:
    ConfigurationError: no folder, or no ending that can be drawn.
  """
  if path.suffix not in FORMATS:
    raise ConfigurationError(flag, path, f"must end in {', '.join(FORMATS)}")
  folder = path.absolute().parent
  if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
    raise ConfigurationError(flag, path, "is no file in a folder that can be written")


def svg(draw: Callable[[], Figure]) -> str:
  """A figure as an <svg> element, for a page."""
  text = io.StringIO()
  with matplotlib.rc_context({"svg.hashsalt": "dn_jax", "svg.fonttype": "path"}):
    figure = draw()
    figure.savefig(text, format="svg", metadata={"Date": None})
  whole = text.getvalue()
  return whole[whole.index("<svg") :]


def styles(names: Sequence[str]) -> dict[str, dict[str, str]]:
  """A colour and a marker for each name."""
  return {
    name: {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]} for n, name in enumerate(names)
  }
