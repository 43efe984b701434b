"""The paper's figure 5: mean absolute weights between layers, a heat map for each dense block."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_ACROSS = 3


def draw(blocks: Sequence[np.ndarray], title: str) -> Figure:
  """Draws the arrays of `dn_jax.models.reuse.mean_absolute_weights`, a panel for each block.

  The last column, a transition or the classifier, has a colour scale of its own, since its weights differ in size. Each
  scale goes from 0 to its strongest connection, which stands over the panel.
  """
  across = min(len(blocks), _ACROSS)
  down = math.ceil(len(blocks) / across)
  figure, grid = pyplot.subplots(
    down, across, figsize=(1.3 + 3.6 * across, 1.1 + 3.9 * down), layout="constrained", squeeze=False
  )
  figure.suptitle(title)
  for number, (axes, weights) in enumerate(zip(grid.flat, blocks, strict=False), start=1):
    layers = len(weights) - 1
    ends = [np.nanmax(weights[:, :-1]), np.nanmax(weights[:, -1])]
    scales = np.array([ends[0] or 1.0] * layers + [ends[1] or 1.0])
    image = axes.imshow(
      weights / scales,
      cmap="YlOrRd",
      vmin=0,
      vmax=1,
      extent=(0.5, layers + 1.5, layers + 0.5, -0.5),
      aspect="auto",
      interpolation="nearest",
    )
    axes.axvline(layers + 0.5, color="black", linewidth=1.2)
    axes.axhline(0.5, color="black", linewidth=0.6)
    end = "classifier" if number == len(blocks) else "transition"
    axes.set_title(f"dense block {number}\nstrongest: {ends[0]:.3g}; of the {end}: {ends[1]:.3g}", fontsize=9)
    axes.set_xlabel(f"target layer (last: {end})")
    axes.set_ylabel("source layer (0: block's input)" if number % across == 1 or across == 1 else "")
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
  for axes in grid.flat[len(blocks) :]:
    axes.set_axis_off()
  figure.colorbar(image, ax=grid, label="mean absolute weight / the strongest", aspect=30)
  said = "The last column, a 1x1 convolution or the classifier, has a colour scale of its own."
  figure.supxlabel(textwrap.fill(said, 50 * across), fontsize=9)
  return figure
