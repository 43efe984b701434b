"""Error against size: which points, which lines, and the published ones beside."""

import csv
import io
import statistics

import measures
import pytest
import untrained

from dn_jax.config.network import complete_model, kind_of
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.report import ablation, figures, tradeoff
from dn_jax.runs import collection

small_table = untrained.small_table
whole_table = untrained.whole_table

# Table 2 of the paper and the table of wide DenseNets, C10+: kind, millions of parameters, error.
C10_PLUS = """DenseNet,1.0,5.24
DenseNet,7.0,4.10
DenseNet,27.2,3.74
DenseNet-BC,0.8,4.51
DenseNet-BC,15.3,3.62
DenseNet-BC,25.6,3.46
DenseNet-BC,1.5,4.58
DenseNet-BC,2.7,3.99
DenseNet-BC,4.3,4.01
ResNet,1.7,6.61
ResNet,1.7,6.41
ResNet with stochastic depth,1.7,5.23
ResNet with stochastic depth,10.2,4.91
ResNet (pre-activation),1.7,5.46
ResNet (pre-activation),10.2,4.62
Wide ResNet,11.0,4.81
Wide ResNet,36.5,4.17
"""


def test_published_points_are_those_of_the_papers_column():
  expected = {}
  for kind, parameters, error in csv.reader(io.StringIO(C10_PLUS)):
    expected.setdefault(kind, []).append((pytest.approx(1e6 * float(parameters)), float(error)))
  found = tradeoff.published_points("c10+")
  assert {kind: len(group) for kind, group in found.items()} == {kind: len(group) for kind, group in expected.items()}
  for kind, group in expected.items():
    assert all(point in [(one.parameters, one.mean) for one in found[kind]] for point in group)
    assert all(one.flops > one.parameters for one in found[kind])


@pytest.mark.parametrize(
  ("flags", "kind"),
  [
    ({"depth": 40, "bottleneck": False, "compression": 1.0}, "DenseNet"),
    ({"depth": 40, "bottleneck": True, "compression": 1.0}, "DenseNet-B"),
    ({"depth": 40, "bottleneck": False, "compression": 0.5}, "DenseNet-C"),
    ({"depth": 40, "bottleneck": True, "compression": 0.5}, "DenseNet-BC"),
    ({"name": "resnet-110-stochastic-depth"}, "ResNet with stochastic depth"),
  ],
)
def test_a_network_is_of_the_papers_kind(flags, kind):
  assert kind_of(complete_model(ModelConfig(**flags))) == kind


@pytest.mark.slow
def test_the_legend_of_ours_and_the_published_points_covers_none(whole_table):
  cells = figures.by_data(collection.read(whole_table).runs)["cifar10+"]
  assert figures.published_column(cells) == "c10+"
  figure = measures.laid_out(tradeoff.draw(cells, "title", "c10+"))
  assert measures.covered_points(figure) == 0
  assert measures.cut_off(figure) == []
  (legend,) = figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  # Each kind once, from the highest error of its largest network to the lowest.
  kinds = ["ResNet with stochastic depth", "ResNet (pre-activation)", "Wide ResNet", "DenseNet", "DenseNet-BC"]
  assert labels == ["ResNet", *kinds, "hollow: published"]
  assert measures.without_axis_labels(figure) == []
  for axes in figure.axes:  # By FLOPs too.
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert sum(len(line.get_xdata()) for line in hollow) == 17
    assert 3 <= len(measures.ticks(axes.xaxis)) <= 8
  assert figure.axes[0].get_yscale() == "linear"


def test_the_errors_axis_is_logarithmic_where_ours_are_far_from_the_published(tmp_path):
  config = RunConfig(DataConfig("cifar10", augment=True), ModelConfig(depth=10, growth_rate=4), epochs=1)
  untrained.run(tmp_path, config, 60.0)
  cells = ablation.cells_of(collection.read(tmp_path).runs)
  (axes, _) = measures.laid_out(tradeoff.draw(cells, "title", "c10+")).axes
  assert axes.get_yscale() == "log"
  low, high = axes.get_ylim()
  assert 1 < low < 3.46
  assert 60 < high < 120
  assert len(measures.ticks(axes.yaxis)) >= 3
  alone = tradeoff.draw(cells, "title")
  assert (alone.axes[0].get_yscale(), alone.get_suptitle()) == ("linear", "title")


def test_beside_published_points_ours_are_said_to_be_of_another_training(tmp_path):
  for rate, images in ((4, 50_000), (8, 200), (12, 400)):
    config = RunConfig(DataConfig("cifar10", augment=True), ModelConfig(depth=10, growth_rate=rate))
    untrained.run(tmp_path, config, 60.0, images=(images, 10_000))
  whole, subset, another = ablation.cells_of(collection.read(tmp_path).runs)
  said = lambda cells: tradeoff.draw(cells, "title", "c10+").get_suptitle()
  assert said([whole]) == "title"
  assert said([subset]) == "title\nsolid: not the published training: 200 of 50,000 images"
  assert said([whole, subset]) == "title\nsolid: not all trained as published"
  assert said([subset, another]) == "title\nsolid: not trained as published"


def test_points_are_the_cells_of_the_collection(small_table):
  cells = ablation.cells_of(collection.read(small_table).runs)
  figure = tradeoff.draw(cells, "title")
  drawn = [point for container in figure.axes[0].containers for point in container.lines[0].get_xydata().tolist()]
  expected = [[cell.finished[0].summary.parameters, statistics.mean(cell.errors)] for cell in cells]
  assert sorted(drawn) == [pytest.approx(point) for point in sorted(expected)]


def test_of_a_table_a_line_joins_networks_of_one_growth_rate(small_table):
  (group,) = tradeoff.points(ablation.cells_of(collection.read(small_table).runs)).values()
  assert [[(point.growth_rate, point.depth) for point in line] for line in tradeoff.lines(group)] == [
    [(rate, depth) for depth in (10, 16, 22)] for rate in (4, 8, 12)
  ]


def test_a_line_joins_no_networks_of_one_size(tmp_path):
  untrained.grid(tmp_path, [10], [4, 8], 1, epochs=1)
  cells = ablation.cells_of(collection.read(tmp_path).runs)
  figure = tradeoff.draw(cells, "title")
  by_parameters, by_flops = ([c.lines[0].get_linestyle() for c in axes.containers] for axes in figure.axes)
  assert (by_parameters, by_flops) == (["-"], ["None"])
