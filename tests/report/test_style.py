"""What all figures share."""

import itertools
import os
import re

import measures
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dn_jax.commands.command_line import FIGURES
from dn_jax.report import style


@pytest.mark.parametrize("count", [1, 9, 32])
def test_every_line_differs_from_every_other_without_its_colour(count):
  styles = style.styles([f"line {n}" for n in range(count)])
  assert len(styles) == count
  looks = [(look["marker"], str(look["linestyle"])) for look in styles.values()]
  assert len(set(looks)) == count
  assert all(a[0] != b[0] and a[1] != b[1] for a, b in itertools.pairwise(looks))


def test_colours_differ_in_brightness():
  brightness = sorted(
    sum(w * int(c[i : i + 2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5))) for c in style.COLOURS
  )
  assert len(set(style.COLOURS)) == len(style.COLOURS) == 10
  assert brightness[-1] - brightness[0] > 100


@pytest.mark.parametrize("suffix", FIGURES)
def test_a_figure_is_written_whole_in_each_format(suffix, tmp_path):
  figure, _ = style.panels(1, 1, (3, 2))
  style.save(figure, tmp_path / f"a{suffix}")
  (path,) = tmp_path.iterdir()
  head = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
  assert path.read_bytes().startswith(head)


def test_a_png_has_300_dots_an_inch(tmp_path):
  figure, _ = style.panels(1, 1, (3, 2))
  style.save(figure, tmp_path / "a.png")
  assert Image.open(tmp_path / "a.png").size == (900, 600)


def test_a_figure_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
  (tmp_path / "a.png").write_text("old")
  figure, _ = style.panels(1, 1, (3, 2))

  def cut_short(file):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", cut_short)
  with pytest.raises(OSError, match="No space"):
    style.save(figure, tmp_path / "a.png")
  assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
  assert (tmp_path / "a.png").read_text() == "old"


def test_the_same_figure_gives_the_same_svg_with_no_reference_outside():
  def drawn():
    figure, ((axes,),) = style.panels(1, 1, (3, 2))
    axes.plot([1, 2, 3])
    return style.svg(figure)

  first = drawn()
  assert first == drawn()
  assert not [href for href in re.findall(r'href="([^"]*)"', first) if not href.startswith("#")]
  assert "<metadata" not in first


@given(st.floats(-12, 12), st.floats(1e-3, 20))
def test_a_logarithmic_axis_has_at_least_three_different_numbers_within_its_limits(low, decades):
  _, ((axes,),) = style.panels(1, 1, (3, 2))
  style.logarithmic(axes.xaxis, "{:.6g}".format)
  axes.set_xlim(10**low, 10 ** (low + decades))
  shown = {axes.xaxis.get_major_formatter()(tick, n) for n, tick in enumerate(measures.ticks(axes.xaxis))}
  assert 3 <= len(shown) <= 8


@pytest.mark.parametrize(
  ("low", "high", "said"),
  [
    (1.75, 2.25, ["1.8", "1.9", "2.0", "2.1", "2.2"]),
    (0.3, 20, ["0.5", "1", "2", "5", "10", "20"]),
    (9, 120, ["10", "20", "50", "100"]),
    (1e-5, 1e-2, ["1e-05", "0.0001", "0.001", "0.01"]),
  ],
)
def test_numbers_of_a_logarithmic_axis_have_the_same_decimals_within_a_decade(low, high, said):
  figure, ((axes,),) = style.panels(1, 1, (3, 2))
  style.logarithmic(axes.yaxis)
  axes.set_ylim(low, high)
  figure.draw_without_rendering()
  assert [label.get_text() for label in axes.get_yticklabels()] == said


@given(st.lists(st.integers(1, 5000), min_size=1))
def test_an_axis_of_epochs_has_whole_numbers_that_are_all_different(epochs):
  _, ((axes,),) = style.panels(1, 1, (3, 2))
  style.whole_numbers(axes.xaxis, epochs)
  ticks = measures.ticks(axes.xaxis)
  assert [tick % 1 for tick in ticks] == [0] * len(ticks)
  assert min(3, max(epochs) - min(epochs) + 1) <= len(set(ticks)) <= 10
  low, high = axes.get_xlim()
  assert low < min(epochs) <= max(epochs) < high


def test_labels_of_neighbouring_panels_stand_apart():
  figure, ((left, right),) = style.panels(1, 2, (8, 3), sharey=True)
  for axes in (left, right):  # Numbers at both ends.
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["200M", "200M"])
  measures.laid_out(figure)
  last, first = left.get_xticklabels()[-1].get_window_extent(), right.get_xticklabels()[0].get_window_extent()
  assert (first.x0 - last.x1) / figure.dpi >= 0.15  # Inches.


@pytest.mark.parametrize(
  ("value", "said"), [(2.0, "2.00"), (0.35, "0.350"), (1.914, "1.91"), (99.96, "100"), (999.4, "999"), (1234.4, "1234")]
)
def test_three_digits_are_three_also_where_they_end_in_noughts(value, said):
  assert style.three_digits(value) == said
