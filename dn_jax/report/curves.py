"""A run's curves, from its records: loss and error by epoch (the paper's figure 4, right)."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import itertools

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from dn_jax.training.loop import EpochRecord

_COLOURS = {"train": "tab:blue", "valid": "tab:green", "test": "tab:orange"}


def draw(records: Sequence[EpochRecord], title: str, path: pathlib.Path) -> None:
  """Draws loss and error of every split against the epoch; vertical lines where the learning rate drops.

  Args:
    records: of one run, oldest first; at least one.
    title: over the picture.
    path: where the PNG goes.
  """
  epochs = [record.epoch for record in records]
  figure, (losses, errors) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
  figure.suptitle(title)
  marker = "o" if len(records) < 4 else None
  for split, colour in _COLOURS.items():
    if getattr(records[0], f"{split}_loss") is None:
      continue
    loss, error = ([getattr(record, f"{split}_{kind}") for record in records] for kind in ("loss", "error"))
    losses.plot(epochs, loss, color=colour, marker=marker, label=f"{split} ({loss[-1]:.3g})")
    errors.plot(epochs, error, color=colour, marker=marker, label=f"{split} ({error[-1]:.2%})")
  for axes, name in ((losses, "cross-entropy"), (errors, "error")):
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3, which="both")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for before, after in itertools.pairwise(records):
      if after.learning_rate < 0.6 * before.learning_rate:
        axes.axvline(before.epoch + 0.5, color="gray", linestyle=":", linewidth=1)
    axes.legend()
  losses.set_yscale("log")
  above_zero = [
    value for record in records for value in (record.train_error, record.valid_error, record.test_error) if value
  ]
  if above_zero:
    errors.set_yscale("log")
    errors.set_ylim(bottom=0.7 * min(above_zero))  # An error of 0 runs along the lower edge.
    errors.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    errors.yaxis.set_minor_formatter(NullFormatter())
  errors.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
  temporary = path.with_name(path.name + ".tmp")
  figure.savefig(temporary, dpi=120, format="png")
  pyplot.close(figure)
  temporary.replace(path)
