"""The paper's figure 5: mean absolute weights between layers, a heat map for each dense block."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dn_jax.report import style

_ACROSS = 3


def draw(blocks: Sequence[np.ndarray], title: str) -> Figure:
  """Draws the arrays of `dn_jax.models.reuse.mean_absolute_weights`, a panel for each block.

  Each weight is drawn as its share of the strongest connection of its block, which stands over the panel. The last
  column, a transition or the classifier, has a strongest of its own, since its weights differ in size. All panels share
  one scale of colours, from the least share to 1.
  """
  across = 2 if len(blocks) == 4 else min(len(blocks), _ACROSS)
  down = math.ceil(len(blocks) / across)
  figure, grid = style.panels(down, across, (1.3 + 3.6 * across, 1.1 + 3.9 * down))
  figure.suptitle(title)
  strongest = [(np.nanmax(weights[:, :-1]), np.nanmax(weights[:, -1])) for weights in blocks]
  shares = [
    weights / np.array([layers or 1.0] * (len(weights) - 1) + [end or 1.0])
    for weights, (layers, end) in zip(blocks, strongest, strict=True)
  ]
  least = min(float(np.nanmin(share)) for share in shares)
  for number, (axes, share) in enumerate(zip(grid.flat, shares, strict=False), start=1):
    layers = len(share) - 1
    image = axes.imshow(
      share,
      cmap=style.HEAT,
      vmin=least if least < 1 else 0,
      vmax=1,
      extent=(0.5, layers + 1.5, layers + 0.5, -0.5),
      aspect="auto",
      interpolation="nearest",
    )
    axes.axvline(layers + 0.5, color="black", linewidth=1.2)
    axes.axhline(0.5, color="black", linewidth=0.6)
    end = "classifier" if number == len(blocks) else "transition"
    of_layers, of_end = map(style.three_digits, strongest[number - 1])
    axes.set_title(f"dense block {number}\nstrongest: {of_layers}; of the {end}: {of_end}", fontsize=9)
    axes.set_xlabel(f"target layer (last: {end})")
    axes.set_ylabel("source layer (0: block's input)")
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
  for axes in grid.flat[len(blocks) :]:
    axes.set_axis_off()
  figure.colorbar(image, ax=grid, label="mean absolute weight / the strongest of its block", aspect=30)
  said = "The last column, a 1x1 convolution or the classifier, is drawn against a strongest of its own."
  figure.supxlabel(textwrap.fill(said, 50 * across), fontsize=9)
  return figure
