"""The table of a collection against its folders, read with json and statistics alone."""

import json
import re
import statistics

import untrained

from dn_jax.config import zoo
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.report import ablation
from dn_jax.runs import collection

one_cell = untrained.one_cell
small_table = untrained.small_table


def test_numbers_of_the_table_are_those_of_the_folders(small_table):
  by_network = {}
  for folder in small_table.iterdir():
    config = json.loads((folder / "config.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    place = config["model"]["depth"], config["model"]["growth_rate"]
    by_network.setdefault(place, []).append((summary["test_error_percent"], summary["parameters"], summary["flops"]))
  grid = ablation.table(ablation.cells_of(collection.read(small_table).runs), "title")
  assert grid.columns == ["network", "depth", "growth-rate", "parameters", "MFLOPs", "test error, %", "runs"]
  assert len(grid.rows) == len(by_network) == 9
  for _, depth, growth_rate, parameters, flops, error, runs in grid.rows:
    found = by_network[int(depth), int(growth_rate)]
    errors = [each[0] for each in found]
    assert error == f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f} (2)"
    assert int(parameters.replace(",", "")) == found[0][1]
    assert float(flops) == found[0][2] / 1e6
    assert runs == "2/2"
  assert [row[1:3] for row in grid.rows] == [[d, k] for d in ("10", "16", "22") for k in ("4", "8", "12")]


def test_one_run_has_no_deviation(one_cell):
  (row,) = ablation.table(ablation.cells_of(collection.read(one_cell).runs), "title").rows
  assert re.fullmatch(r"\d+\.\d\d \(1\)", row[-2])


def test_flags_that_all_runs_share_are_told_from_those_that_differ(small_table):
  found = collection.read(small_table).runs
  common, different = ablation.common_flags(found), ablation.distinguishing(found)
  assert different == ["model.depth", "model.growth-rate"]
  assert common["data.name"] == "digits"
  assert not set(common) & {"seed", *different}
  assert ablation.common_flags([]) == {}


def test_a_cell_without_a_finished_run_has_its_size_by_formula(tmp_path):
  untrained.run(tmp_path, RunConfig(DataConfig("cifar10"), ModelConfig(name="densenet-bc-100-12")))
  # Classes of a folder are known of its run's record alone.
  untrained.run(tmp_path, RunConfig(DataConfig("folder"), ModelConfig(name="densenet-121")))
  grid = ablation.table(ablation.cells_of(collection.read(tmp_path).runs), "title")
  rows = {row[0]: (*row[-4:-2], row[-1]) for row in grid.rows}
  # PyTorch's has as many parameters.
  assert rows == {"densenet-bc-100-12": ("769,162", "575.9", "0/1"), "densenet-121": ("", "", "0/1")}
  records = {record["network"]: (record["parameters"], record["flops"]) for record in grid.records}
  counted = zoo.NETWORKS["densenet-bc-100-12"].counted
  assert records == {"densenet-bc-100-12": (769_162, counted.flops), "densenet-121": (None, None)}
