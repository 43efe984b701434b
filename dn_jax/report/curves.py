"""Curves by epoch: loss and error of one run; test and train errors of many (the paper's figure 4, right)."""

import itertools
import math
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from dn_jax.report import style
from dn_jax.runs import rounding
from dn_jax.runs.records import EpochRecord

_SPLITS = {
  "train": {"color": "tab:blue", "linestyle": "--", "marker": "s"},
  "valid": {"color": "tab:green", "linestyle": ":", "marker": "^"},
  "test": {"color": "tab:orange", "linestyle": "-", "marker": "o"},
}
# Most lines of a panel, and most rows of panels of a figure.
_LINES, _ROWS = 6, 4


def draw(records: Sequence[EpochRecord], title: str, path: pathlib.Path) -> None:
  """Draws a run's curves into a file, see `draw_one`; a small one, since each epoch redraws it."""
  figure = draw_one(records, title)
  style.save(figure, path, dpi=150)
  pyplot.close(figure)


def draw_one(records: Sequence[EpochRecord], title: str) -> Figure:
  """Draws loss and error of every split by epoch; vertical lines show drops of the learning rate.

  Args:
    records: of one run, oldest first; at least one.
    title: over the figure.
  """
  epochs = [record.epoch for record in records]
  figure, (losses, errors) = pyplot.subplots(1, 2, figsize=(10, 4.3), layout="constrained")
  figure.suptitle(title)
  for split, look in _SPLITS.items():
    if getattr(records[0], f"{split}_loss") is None:
      continue
    loss, error = ([getattr(record, f"{split}_{kind}") for record in records] for kind in ("loss", "error"))
    look = look | {"markevery": _every(len(records), 0), "markersize": 4}
    losses.plot(epochs, loss, **look, label=f"{split} ({loss[-1]:.3g})")
    errors.plot(epochs, error, **look, label=f"{split} ({rounding.in_words(100 * error[-1])}%)")
  for axes, name in ((losses, "cross-entropy"), (errors, "error")):
    _by_epoch(axes, name)
    for before, after in itertools.pairwise(records):
      if after.learning_rate < 0.6 * before.learning_rate:
        axes.axvline(before.epoch + 0.5, color="gray", linestyle=":", linewidth=1)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
  losses.set_yscale("log")
  losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  losses.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
  losses.yaxis.set_minor_formatter(NullFormatter())
  _as_percent(
    errors,
    [value for record in records for value in (record.train_error, record.valid_error, record.test_error) if value],
  )
  return figure


def draw_many(groups: Mapping[str, Sequence[Sequence[EpochRecord]]], title: str) -> list[Figure]:
  """Draws test errors (left) and train errors (right) of many runs, a line for each group.

  Many groups take several rows of panels with the same axes, and several figures.

  Args:
    groups: by name, the records of runs that differ in their seeds alone. The line is their mean, the band goes from
      the least to the most, over the epochs that all of them have. Groups without an epoch are left out.
    title: over the figure.
  """
  groups = {name: runs for name, runs in groups.items() if min(map(len, runs), default=0)}
  pages = _even(list(groups), _LINES * _ROWS)
  return [
    _page({name: groups[name] for name in page}, title + (f" ({n} of {len(pages)})" if len(pages) > 1 else ""))
    for n, page in enumerate(pages, start=1)
  ]


def _page(groups: Mapping[str, Sequence[Sequence[EpochRecord]]], title: str) -> Figure:
  rows, styles = _even(list(groups), _LINES), style.styles(list(groups))
  figure, grid = pyplot.subplots(
    len(rows), 2, figsize=(10.5, 1 + 2.9 * len(rows)), layout="constrained", squeeze=False, sharex=True, sharey=True
  )
  figure.suptitle(title)
  above_zero: list[float] = []
  for pair, names in zip(grid, rows, strict=True):
    for order, name in enumerate(names):
      runs = groups[name]
      epochs = min(map(len, runs))
      x = [record.epoch for record in runs[0][:epochs]]
      for axes, split in zip(pair, ("test", "train"), strict=True):
        values = np.array([[getattr(record, f"{split}_error") for record in run[:epochs]] for run in runs])
        mean = values.mean(axis=0)
        label = textwrap.fill(f"{name} ({rounding.in_words(100 * mean[-1])}%)", 36, subsequent_indent="  ")
        axes.plot(x, mean, label=label, markersize=4.5, linewidth=1.2, markevery=_every(epochs, order), **styles[name])
        if len(runs) > 1:
          band = {"color": styles[name]["color"], "alpha": 0.15, "linewidth": 0}
          axes.fill_between(x, values.min(axis=0), values.max(axis=0), **band)
        above_zero += [value for value in values.flat if value]
    pair[1].legend(
      *pair[0].get_legend_handles_labels(),
      fontsize=9,
      loc="upper left",
      bbox_to_anchor=(1.0, 1.0),
      frameon=False,
      handlelength=3.2,
      title="test error at the end",
      title_fontsize=9,
      alignment="left",
    )
  for axes, split in zip(grid[0], ("test", "train"), strict=True):
    axes.set_title(f"{split} error", fontsize="medium")
  for axes in grid.flat:
    _by_epoch(axes, "")
    _as_percent(axes, above_zero)
    axes.label_outer()
  for axes in grid[-1]:
    axes.set_xlabel("epoch")
  return figure


def _by_epoch(axes: Axes, name: str) -> None:
  axes.set_xlabel("epoch")
  axes.set_ylabel(name)
  axes.grid(alpha=0.3, which="both")
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _every(epochs: int, order: int) -> tuple[int, int]:
  """The points of a line with a marker, about eight; those of the next line lie beside them."""
  step = max(1, epochs // 8)
  return (order * step // _LINES, step)


def _even(names: Sequence[str], most: int) -> list[list[str]]:
  """Cuts a list into the fewest parts of at most `most` names, about equally long."""
  parts = max(1, math.ceil(len(names) / most))
  return [list(part) for part in np.array_split(np.array(names, dtype=object), parts)] if names else []


def _as_percent(axes: Axes, above_zero: Sequence[float]) -> None:
  if above_zero:
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7 * min(above_zero))  # An error of 0 runs along the lower edge.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
