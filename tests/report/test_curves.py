"""Curves from records."""

import dataclasses
import warnings

import measures
import numpy as np
import pytest
from matplotlib import pyplot

from dn_jax.report import curves
from dn_jax.runs.records import EpochRecord

RECORD = EpochRecord(1, 10, 0.1, 1.5, 0.4, None, None, 1.4, 0.3, 2.0, 0.5, 100.0)


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("valid", [None, 0.35])
def test_curves_show_the_records(epochs, valid, tmp_path):
  records = [
    dataclasses.replace(
      RECORD,
      epoch=n,
      train_error=0.4 / n,
      valid_loss=valid,
      valid_error=valid,
      test_error=0.0 if n == 5 else 0.3,
      learning_rate=0.1 if n < 3 else 0.01,
    )
    for n in range(1, epochs + 1)
  ]
  curves.draw(records, "title", tmp_path / "curves.png")
  figure = measures.laid_out(curves.draw_one(records, "title"))
  assert measures.without_axis_labels(figure) == []
  losses, errors = figure.axes
  plotted = {
    line.get_label().split(":")[0]: list(line.get_ydata()) for line in errors.lines if line.get_label()[0] != "_"
  }
  assert set(plotted) == ({"train", "test"} if valid is None else {"train", "valid", "test"})
  assert plotted["train"] == [100 * record.train_error for record in records]
  drops = [line.get_xdata()[0] for line in errors.lines if line.get_label()[0] == "_"]
  assert drops == ([2.5] if epochs == 5 else [])
  assert losses.get_xlabel() == ("epoch (dotted: the learning rate drops)" if epochs == 5 else "epoch")
  assert errors.get_ylabel() == ("error, % (lower edge: 0)" if epochs == 5 else "error, %")
  assert (tmp_path / "curves.png").stat().st_size > 5000
  assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_errors_that_are_all_zero_are_drawn(tmp_path):
  record = dataclasses.replace(RECORD, train_error=0.0, test_error=0.0)
  curves.draw([record, dataclasses.replace(record, epoch=2)], "zero", tmp_path / "curves.png")
  assert (tmp_path / "curves.png").exists()


def test_a_line_of_many_runs_is_their_mean_over_the_epochs_all_have_and_its_band_goes_from_least_to_most():
  first = [dataclasses.replace(RECORD, epoch=n, train_error=0.2 / n, test_error=0.4 / n) for n in (1, 2, 3)]
  second = [dataclasses.replace(record, test_error=record.test_error / 4) for record in first[:2]]
  (figure,) = curves.draw_many({"two": [first, second], "one": [first], "none": [[]]}, "title")
  test, train = figure.axes
  assert [line.get_label() for line in test.lines] == ["two: 12.50%", "one: 13.33%"]
  assert list(test.lines[0].get_ydata()) == pytest.approx([25, 12.5])
  assert list(test.lines[1].get_ydata()) == pytest.approx([40, 20, 40 / 3])
  assert list(train.lines[0].get_ydata()) == pytest.approx([20, 10])
  # As the lines end.
  assert [text.get_text() for text in train.get_legend().get_texts()] == ["one: 13.33%", "two: 12.50%"]
  said = train.get_legend().get_title().get_text()
  assert said == "mean test error at the end\nband: least to most of the seeds"
  (figure,) = curves.draw_many({"one": [first]}, "title")
  assert figure.axes[1].get_legend().get_title().get_text() == "test error at the end"
  assert (test.get_ylabel(), train.get_ylabel()) == ("test error, %", "train error, %")
  (band,) = test.collections
  edges = {tuple(round(float(x), 6) for x in point) for point in band.get_paths()[0].vertices}
  assert edges == {(1, 10), (1, 40), (2, 5), (2, 20)}


def test_no_runs_are_no_figure():
  assert curves.draw_many({"none": [[]]}, "title") == []


def test_the_splits_of_one_run_are_told_apart_without_colour():
  figure = curves.draw_one([dataclasses.replace(RECORD, valid_loss=1.0, valid_error=0.3)], "title")
  for axes in figure.axes:
    looks = {(line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(axes.lines) == 3


@pytest.mark.parametrize(("first", "last"), [(0.6, 0.6), (0.6, 0.59), (0.601, 0.6), (0.9, 0.04), (1.0, 1e-5)])
def test_an_axis_of_errors_has_three_numbers_however_near_or_far_they_are(first, last):
  records = [dataclasses.replace(RECORD, epoch=n, train_error=e, test_error=e) for n, e in ((1, first), (2, last))]
  (figure,) = curves.draw_many({"one": [records]}, "title")
  for axes in (*figure.axes, *curves.draw_one(records, "title").axes):
    assert axes.get_yscale() == "log"
    shown = [axes.yaxis.get_major_formatter()(tick, n) for n, tick in enumerate(measures.ticks(axes.yaxis))]
    assert 3 <= len(set(shown)) <= 8


def test_a_legend_has_the_order_of_the_lines_at_the_right_end():
  rng = np.random.default_rng(0)
  groups = {
    f"network {n}": [[dataclasses.replace(RECORD, epoch=e, test_error=rng.uniform(0.1, 0.9)) for e in (1, 2)]]
    for n in range(9)
  }
  (figure,) = curves.draw_many(groups, "title")
  test, train = figure.axes  # All nine in one panel.
  ends = {line.get_label(): line.get_ydata()[-1] for line in test.lines}
  legend = [text.get_text() for text in train.get_legend().get_texts()]
  assert legend == sorted(ends, key=lambda label: -ends[label])
  one = curves.draw_one([dataclasses.replace(RECORD, valid_loss=1.0, valid_error=0.35)], "title")
  said = [[text.get_text().split(":")[0] for text in axes.get_legend().get_texts()] for axes in one.axes]
  assert said == [["train", "test", "valid"], ["train", "valid", "test"]]


def test_many_figures_in_a_row_give_no_warning_and_none_stays_open():
  pyplot.close("all")  # Those of other tests.
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert len([curves.draw_one([RECORD], f"run {n}") for n in range(25)]) == 25
  assert pyplot.get_fignums() == []
