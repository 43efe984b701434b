"""The paper's figure 5: mean absolute weights between layers, a heat map a dense block."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def draw(blocks: Sequence[np.ndarray], title: str) -> Figure:
  """Draws the arrays of `dn_jax.models.reuse.mean_absolute_weights`, a panel a block.

  Each panel has its own colours, from 0 to its strongest connection.
  """
  figure, grid = pyplot.subplots(
    1, len(blocks), figsize=(1.0 + 3.9 * len(blocks), 4.3), layout="constrained", squeeze=False
  )
  figure.suptitle(title)
  for number, (axes, weights) in enumerate(zip(grid[0], blocks, strict=True), start=1):
    layers = len(weights) - 1
    image = axes.imshow(
      weights,
      cmap="YlOrRd",
      vmin=0,
      extent=(0.5, layers + 1.5, layers + 0.5, -0.5),
      aspect="auto",
      interpolation="nearest",
    )
    axes.axvline(layers + 0.5, color="black", linewidth=0.8)
    axes.axhline(0.5, color="black", linewidth=0.8)
    axes.set_title(f"dense block {number}", fontsize="medium")
    end = "classifier" if number == len(blocks) else "transition"
    axes.set_xlabel(f"target layer (last: {end})")
    axes.set_ylabel("source layer (0: input)" if number == 1 else "")
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    figure.colorbar(image, ax=axes, label="mean absolute weight" if number == len(blocks) else None)
  return figure
