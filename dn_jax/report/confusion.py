"""A confusion matrix: whom a network takes for whom, as a figure and as a table."""

import csv
import io
import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from dn_jax.errors import shown
from dn_jax.report import style
from dn_jax.system import folders

# Of at most so many classes the numbers are written in; of at most so many each has a row; of more, the worst have.
_WRITTEN, _NAMED, _WORST = 20, 100, 50
# Inches of a square, with numbers and without; of the longest name and the colour bar.
_SQUARES, _BESIDE = (0.62, 0.12), 2.6
# Characters of the title for each inch.
_LETTERS = 9
# Of the colour bar, percent. The colours are those of the square root, since errors are few beside what is right.
_TICKS = (0, 1, 5, 10, 25, 50, 75, 100)
# Characters of a name.
_LONGEST = 24


def draw(matrix: np.ndarray, names: Sequence[str], title: str) -> Figure:
  """Draws the share of each class's images (rows) that is taken for each class (columns).

  Up to 20 classes have percentages and counts written in. Of more than 100, the 50 with the most errors are drawn, and
  a last column has all other classes.

  Args:
    matrix: int [classes, classes], images by their class and by the predicted one.
    names: of the classes.
    title: over the figure.
  """
  title = style.plain(title)
  rows, columns, counts = np.arange(len(names)), [_label(name) for name in names], np.asarray(matrix, np.int64)
  if len(names) > _NAMED:
    wrong = counts.sum(axis=1) - counts.diagonal()
    rows = np.sort(np.argsort(-wrong, kind="stable")[:_WORST])
    columns = [*(columns[row] for row in rows), "other classes"]
    counts = np.column_stack([matrix[np.ix_(rows, rows)], np.delete(matrix[rows], rows, axis=1).sum(axis=1)])
    title = f"{title}\nthe {_WORST} classes with the most errors, of {len(names):,}"
  images = counts.sum(axis=1, keepdims=True)
  shares = np.where(images > 0, 100 * counts / np.maximum(images, 1), np.nan)
  written = len(names) <= _WRITTEN
  size = min(style.LONGEST, _SQUARES[0 if written else 1] * len(columns) + _BESIDE)
  width = max(6.0, size)
  figure, ((axes,),) = style.panels(1, 1, (width, max(4.5, size)))
  figure.suptitle("\n".join(textwrap.fill(line, int(_LETTERS * width)) for line in title.split("\n")), parse_math=False)
  drawn = axes.imshow(shares, cmap=style.HEAT, norm=PowerNorm(0.5, 0, 100), interpolation="nearest", aspect="auto")
  if written:
    for row, column in zip(*np.nonzero(counts), strict=True):
      share = shares[row, column]
      said = "<1%" if share < 1 else ">99%" if 99 < share < 100 else f"{share:.0f}%"
      colour = style.ink(drawn.cmap(drawn.norm(share)))
      axes.text(column, row, f"{said}\n{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=7)
  small = {"fontsize": 9 if written else 6 if len(columns) > 60 else 7, "parse_math": False}
  axes.set_xticks(range(len(columns)), columns, rotation=90, **small)
  without = [" (no image)" * (not each) for each in images[:, 0]]
  axes.set_yticks(range(len(rows)), [_label(names[row]) + without[n] for n, row in enumerate(rows)], **small)
  axes.set_xlabel("predicted class")
  axes.set_ylabel("true class")
  axes.tick_params(length=0 if len(columns) > _WRITTEN else 3)
  figure.colorbar(
    drawn, ax=axes, label="share of a true class's images (a row), %", aspect=30, shrink=0.8, ticks=_TICKS
  )
  return figure


def table(matrix: np.ndarray, names: Sequence[str]) -> str:
  """CSV: numbers of images, a row for each true class and a column for each predicted one, with their names."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  names = [shown(name) for name in names]
  writer.writerow(["true class \\ predicted class", *names])
  for name, row in zip(names, np.asarray(matrix).tolist(), strict=True):
    writer.writerow([name, *row])
  return text.getvalue()


def files(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """The figure and the table that are written under a name, whose suffix may be given or not."""
  stem = path.with_suffix("") if path.suffix in (".svg", ".csv") else path
  return tuple(stem.with_name(f"{stem.name}{suffix}") for suffix in (".svg", ".csv"))


def write(path: pathlib.Path, matrix: np.ndarray, names: Sequence[str], title: str) -> None:
  """Writes `files`.

  Raises:
    OSError: one cannot be written.
  """
  drawn, written = files(path)
  style.save(draw(matrix, names, title), drawn)
  folders.write_whole(written, table(matrix, names))


def _label(name: str) -> str:
  name = style.plain(shown(name))
  return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
