"""The figures of whole collections, measured: sizes, legends, words."""

import measures
import pytest
import untrained

from dn_jax.config.network import complete_model
from dn_jax.config.resolve import data_name
from dn_jax.config.schema import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from dn_jax.report import ablation, figures, words
from dn_jax.runs import collection

one_cell = untrained.one_cell
small_table = untrained.small_table
whole_table = untrained.whole_table


@pytest.mark.slow
@pytest.mark.parametrize(
  ("which", "data", "expected"),
  [
    ("one_cell", "digits", ["Curves"]),
    ("small_table", "digits", ["Heat map", "Error and size", "Curves"]),
    # Of the data set with the most networks.
    ("whole_table", "cifar10+", ["Error and size", "Curves"]),
    pytest.param(
      *("whole_table", None),
      [
        f"{kind}, {data}"
        for data in ("cifar10", "cifar10+", "cifar100", "cifar100+", "svhn_cropped")
        for kind in ("Error and size", "Curves")
      ],
      marks=[pytest.mark.slow, pytest.mark.thorough],
    ),
  ],
)
def test_every_figure_of_a_collection_fits_a_page_and_covers_and_cuts_nothing(which, data, expected, request):
  found = collection.read(request.getfixturevalue(which)).runs
  drawn = figures.draw([run for run in found if data in (None, data_name(run.config))])
  assert sorted(name for name, _ in drawn) == sorted(expected)
  for name, figure in drawn:
    measures.laid_out(figure)
    assert max(measures.pixels(figure)) <= 4000, name
    assert measures.cut_off(figure) == [], name
    assert measures.without_axis_labels(figure) == [], name
    assert measures.covered_points(figure) == 0, name
    for box in measures.legends(figure):
      assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes), name
    # No two words on each other.
    assert measures.overlapping([(text.get_text(), text.get_window_extent()) for text in measures.texts(figure)]) == []


@pytest.mark.slow
def test_every_line_of_a_figure_is_told_from_the_others_without_colour(small_table, whole_table):
  for folder, lines in ((small_table, 9), (whole_table, 16)):
    curves = [figure for name, figure in figures.draw(collection.read(folder).runs) if "Curves" in name]
    most = 0
    for figure in curves:
      looks = [(line.get_marker(), str(line._unscaled_dash_pattern)) for axes in figure.axes for line in axes.lines]
      # Each line is drawn for the test and for the training error, in one style.
      assert len(looks) == 2 * len(set(looks))
      most = max(most, len(set(looks)))
    assert most == lines


def test_more_lines_than_a_page_holds_are_drawn_on_several(tmp_path):
  untrained.grid(tmp_path, range(10, 10 + 6 * 16, 6), [4, 8], 1, epochs=2)
  drawn = dict(figures.draw(collection.read(tmp_path).runs))
  names = [name for name in drawn if name.startswith("Curves")]
  assert names == ["Curves 1", "Curves 2"]
  assert sum(len(axes.lines) for name in names for axes in drawn[name].axes) == 2 * 32
  assert all(max(measures.pixels(drawn[name])) <= 4000 for name in names)


def test_runs_of_one_network_that_differ_in_something_else_are_named_by_it(tmp_path):
  for decay in (1e-4, 5e-4):
    config = RunConfig(
      DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), OptimizerConfig(weight_decay=decay), epochs=2
    )
    untrained.run(tmp_path, config, 5.0)
  cells = ablation.cells_of(collection.read(tmp_path).runs)
  assert figures.names(cells) == [f"DenseNet-BC (L=10, k=4), weight-decay {decay}" for decay in ("0.0001", "0.0005")]


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    # As in the paper's table 2, and of a depth that is not in it.
    ({"name": "densenet-bc-100-12"}, "DenseNet-BC (L=100, k=12)"),
    ({"name": "preactivation-164"}, "ResNet-164 (pre-activation)"),
    ({"depth": 40, "bottleneck": False, "compression": 1.0, "growth_rate": 8}, "DenseNet (L=40, k=8)"),
    ({"blocks": (2, 3), "growth_rate": 6}, "DenseNet-BC (blocks 2-3, k=6)"),
    ({"family": "resnet", "depth": 20}, "resnet-20"),
  ],
)
def test_a_network_is_named_as_in_the_paper(flags, said):
  assert words.network(complete_model(ModelConfig(**flags))) == said
