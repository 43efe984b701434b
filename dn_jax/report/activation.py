"""A class activation map over its image."""

import pathlib
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from dn_jax.report import style

# From blue over nothing to red: the more a place adds or takes, the less of the grey image is seen.
_AMOUNT = np.linspace(-1, 1, 257)[:, None]
_ADDED = ListedColormap(
  np.hstack([np.where(_AMOUNT < 0, (0.05, 0.30, 0.75), (0.80, 0.05, 0.10)), 0.85 * np.abs(_AMOUNT)])
)
# Characters of a line over one image, and over both.
_LINE, _TITLE = 36, 80


def draw(image: np.ndarray, activation: np.ndarray, name: str, said: str) -> Figure:
  """Draws the image, and beside it a grey copy under the map, in units of the logit; a place that is grey adds nothing.

  The colour bar shows each value over black to white, so that every colour of the map is found in it.

  Args:
    image: uint8 [size, size, channels], as the network saw it.
    activation: [height, width], each place's share of a class's logit.
    name: of the image's file.
    said: the class and its probability.
  """
  figure = Figure(figsize=(7.8, 3.9), layout="constrained")
  plain, mapped, bar = figure.subplots(1, 3, width_ratios=(1, 1, 0.1))
  figure.suptitle(_filled(name, _TITLE), fontsize=11, parse_math=False)
  size, largest = len(image), float(np.abs(activation).max()) or 1.0
  plain.imshow(np.broadcast_to(image, (*image.shape[:2], 3)))
  _over_grey(mapped, np.mean(image, axis=-1) / 255, activation, largest, (0, size, size, 0))
  # Dark to light from left to right, the largest value above.
  greys, values = np.linspace(0, 1, 256)[None], np.linspace(-largest, largest, 257)[:, None]
  _over_grey(bar, greys, values, largest, (0, 1, -largest, largest), origin="lower")
  bar.set_aspect("auto")
  bar.yaxis.tick_right()
  bar.yaxis.set_label_position("right")
  bar.set_ylabel("added to the logit")
  bar.set_xticks([])
  bar.set_xlabel("over dark\nto light", fontsize=8)
  for axes, words in ((plain, "what the network saw"), (mapped, said)):
    axes.set_title(_filled(words, _LINE), fontsize=10, parse_math=False)  # A class may have dollars in its name.
    axes.set_axis_off()
  return figure


def _over_grey(
  axes: Axes,
  greys: np.ndarray,
  values: np.ndarray,
  largest: float,
  extent: tuple[float, float, float, float],
  origin: str = "upper",
) -> AxesImage:
  """Draws values from -largest to largest over greys from 0 (black) to 1, both as arrays of any size."""
  axes.imshow(greys, cmap="gray", vmin=0, vmax=1, extent=extent, origin=origin)
  place = {"extent": extent, "origin": origin, "interpolation": "bilinear"}
  return axes.imshow(values, cmap=_ADDED, vmin=-largest, vmax=largest, **place)


def write(path: pathlib.Path, image: np.ndarray, activation: np.ndarray, name: str, said: str) -> None:
  """Draws it into a file.

  Raises:
    OSError: it cannot be written.
  """
  style.save(draw(image, activation, name, said), path, dpi=150)


def _filled(words: str, width: int) -> str:
  """At most two lines; of more words, the beginning and the end, which has the probability or the file's suffix."""
  lines = textwrap.wrap(words, width)
  return "\n".join(lines if len(lines) <= 2 else [lines[0], f"... {words[4 - width :].lstrip()}"])
