"""A class activation map over its image."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from dn_jax.report import style


def draw(image: np.ndarray, activation: np.ndarray, title: str) -> Figure:
  """Draws the image, and beside it the image under the map, in units of the logit; white adds nothing.

  Args:
    image: uint8 [size, size, channels], as the network saw it.
    activation: [height, width], each place's share of a class's logit.
    title: the class.
  """
  figure = Figure(figsize=(7.2, 3.3), layout="constrained")
  plain, mapped = figure.subplots(1, 2)
  plain.imshow(np.broadcast_to(image, (*image.shape[:2], 3)))
  size = len(image)
  mapped.imshow(np.mean(image, axis=-1), cmap="gray", vmin=0, vmax=255, extent=(0, size, size, 0))
  largest = float(np.abs(activation).max()) or 1.0
  drawn = mapped.imshow(
    activation,
    cmap="RdBu_r",
    vmin=-largest,
    vmax=largest,
    alpha=0.6,
    extent=(0, size, size, 0),
    interpolation="bilinear",
  )
  figure.colorbar(drawn, ax=mapped, label="adds to the logit", shrink=0.9)
  for axes, name in ((plain, "what the network saw"), (mapped, title)):
    axes.set_title(name, fontsize=10, parse_math=False)  # A class may have dollars in its name.
    axes.set_axis_off()
  return figure


def write(path: pathlib.Path, image: np.ndarray, activation: np.ndarray, title: str) -> None:
  """Draws it into a file.

  Raises:
    OSError: it cannot be written.
  """
  style.save(draw(image, activation, title), path, dpi=150)
