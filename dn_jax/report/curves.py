"""Curves by epoch, from records: of one run, loss and error; of many, errors beside each other (figure 4, right)."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from dn_jax.report import picture
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
  _as_percent(
    errors,
    [value for record in records for value in (record.train_error, record.valid_error, record.test_error) if value],
  )
  picture.save(figure, path)
  pyplot.close(figure)


def draw_many(groups: Mapping[str, Sequence[Sequence[EpochRecord]]], title: str) -> Figure:
  """Draws test errors (full) and train errors (dashed) of many runs, a colour a group.

  Args:
    groups: by name, the records of runs that differ in their seeds alone: the line is their mean, the band goes from
      the least to the most, over the epochs that all of them have.
    title: over the picture.
  """
  figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
  figure.suptitle(title)
  above_zero: list[float] = []
  styles = picture.styles(list(groups))
  for name, runs in groups.items():
    epochs = min(map(len, runs), default=0)
    if not epochs:
      continue
    x = [record.epoch for record in runs[0][:epochs]]
    colour = styles[name]["color"]
    for split, line in (("test", "-"), ("train", "--")):
      values = np.array([[getattr(record, f"{split}_error") for record in run[:epochs]] for run in runs])
      mean = values.mean(axis=0)
      label = f"{name} ({mean[-1]:.2%})" if split == "test" else None
      axes.plot(x, mean, line, color=colour, label=label, marker="o" if epochs < 4 else None)
      if len(runs) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0)
      above_zero += [value for value in values.flat if value]
  axes.set_xlabel("epoch")
  axes.set_ylabel("error (full: test, dashed: train)")
  axes.grid(alpha=0.3, which="both")
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  _as_percent(axes, above_zero)
  if axes.lines:
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
  return figure


def _as_percent(axes: Axes, above_zero: Sequence[float]) -> None:
  if above_zero:
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7 * min(above_zero))  # An error of 0 runs along the lower edge.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
