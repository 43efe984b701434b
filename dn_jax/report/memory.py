"""Memory of training against depth, a line a remat policy."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(depths: Sequence[int], sizes: Mapping[str, Sequence[int]], title: str, path: pathlib.Path) -> None:
  """Draws bytes of temporaries by depth.

  Args:
    depths: L, ascending.
    sizes: for each policy, bytes at each depth.
    title: over the picture.
    path: where the PNG goes.
  """
  figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
  for policy, values in sizes.items():
    label = f"{policy} ({values[-1] / 2**20:,.0f} at L={depths[-1]})"
    axes.plot(depths, [value / 2**20 for value in values], marker="o", label=label)
  axes.set_title(title)
  axes.set_xlabel("depth L")
  axes.set_ylabel("temporaries of a training step, MiB")
  axes.set_ylim(bottom=0)
  axes.set_xticks(depths)
  axes.grid(alpha=0.3)
  axes.legend(title="remat policy")
  figure.savefig(path, dpi=120)
  pyplot.close(figure)
