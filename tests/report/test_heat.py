"""Heat maps: of what, how large, and what is written in."""

import statistics

import measures
import numpy as np
import pytest
import untrained

from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.report import ablation, heat
from dn_jax.runs import collection, records

one_cell = untrained.one_cell
small_table = untrained.small_table
whole_table = untrained.whole_table


def cells_in(folder):
  return ablation.cells_of(collection.read(folder).runs)


def test_a_square_has_its_cells_mean_deviation_and_count(small_table):
  cells = cells_in(small_table)
  figure = measures.laid_out(heat.draw(cells, "title"))
  assert figure.get_suptitle() == "title\nmean ± deviation over seeds (seeds)"
  axes = figure.axes[0]
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("depth L", "growth rate k")
  columns, rows = (
    [label.get_text() for label in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())
  )
  assert (columns, rows) == (["10", "16", "22"], ["4", "8", "12"])
  written = {text.get_position(): text.get_text() for text in axes.texts}
  colours = axes.images[0].get_array()
  for cell in cells:
    place = columns.index(str(cell.values["model.depth"])), rows.index(str(cell.values["model.growth-rate"]))
    errors = cell.errors
    expected = f"{statistics.mean(errors):.2f}\n± {statistics.stdev(errors):.2f} (2)"
    assert written[place] == expected
    assert colours[place[1], place[0]] == pytest.approx(statistics.mean(errors))
  # Larger rates stand above smaller ones.
  assert not axes.yaxis_inverted()


def test_what_failed_and_what_is_not_finished_is_written_in(tmp_path):
  untrained.grid(tmp_path, [10, 16], [4], 1, epochs=2)
  for depth, failed in ((10, True), (16, False)):
    config = RunConfig(DataConfig("digits"), ModelConfig(depth=depth, growth_rate=8), epochs=2)
    folder = untrained.run(tmp_path, config)
    if failed:
      records.write_failure(folder, records.Failure("out of memory", 1, "now"))
  figure = heat.draw(cells_in(tmp_path), "title")
  assert figure.get_suptitle() == "title"
  words = [text.get_text() for text in figure.axes[0].texts]
  assert words.count("failed") == 1
  assert words.count("not\nfinished") == 1
  assert np.isnan(figure.axes[0].images[0].get_array().filled(np.nan)).sum() == 2


def test_further_flags_are_panels_in_rows_of_three(tmp_path):
  for compression in (0.4, 0.5, 0.6, 0.7, 0.8):
    untrained.grid(tmp_path, [10, 16], [4, 8], 2, epochs=2, compression=compression)
  figure = measures.laid_out(heat.draw(cells_in(tmp_path), "title"))
  panels = [axes for axes in figure.axes if axes.images]
  assert [axes.get_title() for axes in panels] == [f"compression {c}" for c in ("0.4", "0.5", "0.6", "0.7", "0.8")]
  tops = [round(axes.get_position().y0, 2) for axes in panels]
  assert len(set(tops[:3])) == len(set(tops[3:])) == 1
  assert tops[0] > tops[3]
  assert measures.cut_off(figure) == []
  for axes in panels:
    boxes = [(text.get_text(), text.get_window_extent()) for text in axes.texts]
    assert measures.overlapping(boxes) == []
    assert all(axes.get_window_extent().padded(1).contains(box.x0, box.y0) for _, box in boxes)


@pytest.mark.slow
def test_what_no_heat_map_shows_has_none(one_cell, whole_table, tmp_path):
  assert heat.draw(cells_in(one_cell), "one cell") is None
  assert heat.draw(cells_in(whole_table), "networks that share no two numbers") is None
  for growth_rate, seven in (
    (4, 0.3),
    (8, 0.3),
    *((4, 0.31 + n / 10) for n in range(6)),
    *((8, 0.3 + n / 9) for n in range(6)),
  ):
    untrained.grid(tmp_path, [10, 16], [growth_rate], 1, epochs=1, compression=seven)
  assert heat.draw(cells_in(tmp_path), "more panels than one compares") is None


def test_names_are_no_axes(tmp_path):
  for augment in (False, True):
    for depth in (10, 16):
      config = RunConfig(DataConfig("digits", augment=augment), ModelConfig(depth=depth, growth_rate=4), epochs=1)
      untrained.run(tmp_path, config, 3.0)
  assert heat.draw(cells_in(tmp_path), "") is None
