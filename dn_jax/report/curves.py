"""Curves by epoch: loss and error of one run; test and train errors of many (the paper's figure 4, right)."""

import itertools
import math
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dn_jax.report import style
from dn_jax.runs import rounding
from dn_jax.runs.records import EpochRecord

_SPLITS = ("test", "valid", "train")
# Most lines of a panel, and most rows of panels of a figure.
_LINES, _ROWS = 10, 3
# Inches: of a row of panels, of a line of its legend, of a figure's title.
_ROW, _LEGEND_LINE, _TITLE = 3.6, 0.17, 0.5


def draw(records: Sequence[EpochRecord], title: str, path: pathlib.Path) -> None:
  """Draws a run's curves into a file, see `draw_one`; a small one, since each epoch redraws it."""
  style.save(draw_one(records, title), path, dpi=150)


def draw_one(records: Sequence[EpochRecord], title: str) -> Figure:
  """Draws loss and error of every split by epoch; vertical lines show drops of the learning rate.

  Args:
    records: of one run, oldest first; at least one.
    title: over the figure.
  """
  epochs = [record.epoch for record in records]
  drops = [a.epoch + 0.5 for a, b in itertools.pairwise(records) if b.learning_rate < 0.6 * a.learning_rate]
  splits = [split for split in _SPLITS if getattr(records[0], f"{split}_loss") is not None]
  styles = style.styles(_SPLITS)
  figure, ((losses, errors),) = style.panels(1, 2, (10, 4.3))
  figure.suptitle(title)
  for split in splits:
    loss = [getattr(record, f"{split}_loss") for record in records]
    error = [100 * getattr(record, f"{split}_error") for record in records]
    look = styles[split] | {"markevery": _every(len(records), splits.index(split)), "markersize": 4, "linewidth": 1.2}
    losses.plot(epochs, loss, **look, label=f"{split}: {style.three_digits(loss[-1])}")
    errors.plot(epochs, error, **look, label=f"{split}: {rounding.in_words(error[-1])}%")
  for axes, name in ((losses, "cross-entropy, nats"), (errors, "error, %")):
    lines = style.by_height(axes.lines)
    _by_epoch(axes, epochs)
    axes.set_ylabel(name)
    if drops:
      axes.set_xlabel("epoch (dotted: the learning rate drops)")
    axes.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    _logarithmic([axes])
    for drop in drops:
      axes.axvline(drop, color="gray", linestyle=":", linewidth=1)
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
  labels = {name: _label(name, runs) for name, runs in groups.items()}
  # A legend may be higher than its row.
  words = max(sum(labels[name].count("\n") + 1 for name in names) for names in rows)
  height = min(max(_ROW, 1 + _LEGEND_LINE * words), (style.LONGEST - _TITLE) / len(rows))
  figure, panels = style.panels(len(rows), 2, (11, _TITLE + height * len(rows)), sharex=True, sharey="col")
  figure.suptitle(title)
  several = any(len(runs) > 1 for runs in groups.values())
  for pair, names in zip(panels, rows, strict=True):
    for axes, split in zip(pair, ("test", "train"), strict=True):
      for order, name in enumerate(names):
        x, values = _percent(groups[name], split)
        look = styles[name] | {"markersize": 4.5, "linewidth": 1.2, "markevery": _every(len(x), order)}
        axes.plot(x, values.mean(axis=0), label=labels[name], **look)
        if len(values) > 1:
          # The band of one epoch has no width but its edge's.
          band = {"color": styles[name]["color"], "alpha": 0.15, "linewidth": 0 if len(x) > 1 else 6}
          axes.fill_between(x, values.min(axis=0), values.max(axis=0), **band)
      axes.set_ylabel(f"{split} error, %")
    pair[1].legend(
      handles=style.by_height(pair[0].lines),
      fontsize=9,
      loc="upper left",
      bbox_to_anchor=(1.0, 1.0),
      frameon=False,
      handlelength=3.2,
      title="mean test error at the end\nband: least to most of the seeds" if several else "test error at the end",
      title_fontsize=9,
      alignment="left",
    )
  epochs = [record.epoch for runs in groups.values() for record in runs[0][: min(map(len, runs))]]
  for axes in panels.flat:
    _by_epoch(axes, epochs)
  for column in panels.T:
    _logarithmic(column)
  for axes in panels[:-1].flat:
    axes.set_xlabel("")
  return figure


def _percent(runs: Sequence[Sequence[EpochRecord]], split: str) -> tuple[list[int], np.ndarray]:
  """The epochs that all runs have, and the errors of each run in percent [runs, epochs]."""
  epochs = min(map(len, runs))
  errors = [[100 * getattr(record, f"{split}_error") for record in run[:epochs]] for run in runs]
  return [record.epoch for record in runs[0][:epochs]], np.array(errors)


def _label(name: str, runs: Sequence[Sequence[EpochRecord]]) -> str:
  _, errors = _percent(runs, "test")
  return textwrap.fill(f"{name}: {rounding.in_words(errors.mean(axis=0)[-1])}%", 36, subsequent_indent="  ")


def _by_epoch(axes: Axes, epochs: Sequence[int]) -> None:
  axes.set_xlabel("epoch")
  style.whole_numbers(axes.xaxis, epochs)
  style.grid(axes)


def _every(epochs: int, order: int) -> tuple[int, int]:
  """The points of a line with a marker, about eight; those of the next line lie beside them."""
  step = max(1, epochs // 8)
  return (order * step // _LINES, step)


def _even(names: Sequence[str], most: int) -> list[list[str]]:
  """Cuts a list into the fewest parts of at most `most` names, about equally long."""
  parts = max(1, math.ceil(len(names) / most))
  return [list(part) for part in np.array_split(np.array(names, dtype=object), parts)] if names else []


def _logarithmic(column: Sequence[Axes]) -> None:
  """Logarithmic y axes from the least value above 0 of all of them; a value of 0 lies on their lower edge."""
  low, high = (min(axes.dataLim.minposy for axes in column), max(axes.dataLim.y1 for axes in column))
  if not low <= high < math.inf:
    return
  margin = 1.01 * (high / low) ** 0.06
  has_zero = any((np.asarray(line.get_ydata()) == 0).any() for axes in column for line in axes.lines)
  for axes in column:
    style.logarithmic(axes.yaxis)
    axes.set_ylim(low / margin, high * margin)
    if has_zero:
      axes.set_ylabel(f"{axes.get_ylabel()} (lower edge: 0)")
    for line in axes.lines:
      line.set_ydata(np.maximum(line.get_ydata(), low / margin))
