"""What was not done as published is marked in every form of a table, and a note says how it was done."""

import csv
import dataclasses
import io
import json

import pytest
import rich.console
import untrained

from dn_jax.config.schema import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from dn_jax.report import ablation, departures, published_table
from dn_jax.runs import collection

CELL = RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="densenet-40-12"))
SHORT = dataclasses.replace(CELL, epochs=6)
NOTE = "200 of 50,000 images; 100 of 10,000 test images; 6 of 300 epochs"


def tables(folder):
  found = collection.read(folder).runs
  return [
    published_table.table(published_table.entries_of(found)),
    ablation.table(ablation.cells_of(found), "a sweep"),
  ]


def terminal(grid):
  console = rich.console.Console(file=io.StringIO(), width=400)
  console.print(grid.rich())
  return console.file.getvalue()


def records(grid):
  return list(csv.DictReader(io.StringIO(grid.csv())))


def departures_in(folder):
  """The departures of the one cell of a folder."""
  (cell,) = ablation.cells_of(collection.read(folder).runs)
  return cell.departures


def test_a_cell_of_a_subset_is_marked_and_explained_in_every_form(tmp_path):
  untrained.run(tmp_path, SHORT, 84.0, images=(200, 100))
  for grid in tables(tmp_path):
    assert f"84.00 (1) [a]{' | +78.76' if '|' in grid.rows[0][-1] else ''}" in terminal(grid)
    assert f"[a] Not the published training: {NOTE}." in " ".join(terminal(grid).split())
    assert r"84.00 (1) \[a\]" in grid.markdown()
    assert rf"- \[a\] Not the published training: {NOTE}." in grid.markdown()
    assert "84.00 (1) {[}a]" in grid.latex()
    assert f"{{[}}a] Not the published training: {NOTE}." in grid.latex()
    assert "84.00 (1) [a]" in grid.html()
    assert f"<li>[a] Not the published training: {NOTE}.</li>" in grid.html()
    assert [row["not_as_published"] for row in records(grid) if row["n"] == "1"] == [NOTE]
  assert tables(tmp_path)[0].title.startswith(
    "REHEARSAL, schedules of 0.02 of their published epochs, 0.004 of the published images. "
  )


def test_what_was_done_as_published_has_no_mark(tmp_path):
  untrained.run(tmp_path, CELL, 5.3)
  svhn = RunConfig(DataConfig("svhn_cropped"), ModelConfig(name="densenet-40-12"))
  untrained.run(tmp_path, svhn, 1.9)
  untrained.run(tmp_path, RunConfig(DataConfig("cifar10"), ModelConfig(depth=40, growth_rate=8, bottleneck=False)), 9.9)
  for grid in tables(tmp_path):
    assert "[a]" not in terminal(grid)
    assert {row["not_as_published"] for row in records(grid)} == {""}
    assert "REHEARSAL" not in grid.title


@pytest.mark.parametrize(
  ("config", "said"),
  [
    (dataclasses.replace(CELL, batch_size=128), "batch-size 128, not 64"),
    (dataclasses.replace(CELL, epochs=310), "310 epochs, not 300"),
    (dataclasses.replace(CELL, protocol="wide"), "200 of 300 epochs; protocol wide, not densenet"),
    (dataclasses.replace(CELL, optimizer=OptimizerConfig(weight_decay=5e-4)), "weight-decay 0.0005, not 0.0001"),
    (RunConfig(CELL.data, ModelConfig(name="densenet-40-12", dtype="bfloat16")), "dtype bfloat16, not float32"),
    (RunConfig(CELL.data, ModelConfig(depth=40, dropout=0.1)), "dropout 0.1, not 0"),
    (
      RunConfig(CELL.data, ModelConfig(name="preactivation-164"), OptimizerConfig(warmup_steps=8), epochs=3),
      "3 of 164 epochs",
    ),
    (RunConfig(DataConfig("digits"), ModelConfig(depth=10), epochs=1), ""),
  ],
)
def test_every_way_of_departing_is_said(config, said, tmp_path):
  untrained.run(tmp_path, config, 9.0)
  assert departures_in(tmp_path) == said


def test_seeds_of_other_images_and_images_that_nobody_counted_are_said(tmp_path):
  for seed, images in enumerate(((50_000, 10_000), (200, 10_000))):
    untrained.run(tmp_path, dataclasses.replace(CELL, seed=seed), 9.0, images=images)
  assert departures_in(tmp_path) == "200 or 50,000 of 50,000 images"
  last = untrained.run(tmp_path, dataclasses.replace(CELL, seed=2), 9.0)
  (last / "data.json").unlink()
  assert departures_in(tmp_path) == "an unknown number of images; 200 or 50,000 of 50,000 images"
  # What is not finished is in no number.
  (last / "summary.json").unlink()
  assert departures_in(tmp_path) == "200 or 50,000 of 50,000 images"


def test_cells_that_depart_alike_share_a_mark_and_others_have_the_next():
  texts = ["x", "", "y", "x", *map(str, range(25))]
  marks = departures.marks(texts)
  assert (marks["x"], marks["y"], marks["23"], marks["24"]) == ("[a]", "[b]", "[z]", "[aa]")
  assert "" not in marks
  assert departures.notes(marks)[1] == "[b] Not the published training: y."


def test_lines_of_csv_are_numbers_that_add_up_to_the_table(tmp_path):
  for seed, error in enumerate((5.0, 5.4, 5.9)):
    folder = untrained.run(tmp_path, dataclasses.replace(CELL, seed=seed), error)
  whole, sweep = map(records, tables(tmp_path))
  lines = {row["column"]: row for row in whole}
  assert list(lines) == ["c10+"]
  line = lines["c10+"]
  mean, deviation = (5.0 + 5.4 + 5.9) / 3, (((0.1 / 3 + 0.4) ** 2 + (0.1 / 3) ** 2 + (0.4 + 0.2 / 3) ** 2) / 2) ** 0.5
  assert float(line["mean"]) == pytest.approx(mean)
  assert float(line["std"]) == pytest.approx(deviation, abs=0.01)
  assert float(line["difference"]) == pytest.approx(mean - 5.24)
  assert float(line["published"]) == 5.24
  counts = ("n", "parameters", "published_parameters", "epochs", "published_epochs", "batch_size", "images")
  assert [int(line[name]) for name in counts] == [3, 1_019_722, 1_000_000, 300, 300, 64, 50_000]
  assert sweep[0]["mean"] == line["mean"]
  summary = json.loads((folder / "summary.json").read_text())
  assert (int(sweep[0]["parameters"]), int(sweep[0]["flops"])) == (summary["parameters"], summary["flops"])


def test_runs_whose_data_have_a_near_name_are_read_after_their_folder_is_gone(tmp_path):
  folder = tmp_path / "data" / "cifar10_subset"
  folder.mkdir(parents=True)
  config = RunConfig(DataConfig("cifar10_subset", tmp_path / "data", augment=True), CELL.model, epochs=3)
  untrained.run(tmp_path / "runs", config, 30.0)
  folder.rmdir()
  found = collection.read(tmp_path / "runs")
  (cell,) = ablation.cells_of(found.runs)
  assert (found.skipped, cell.data, cell.errors, cell.departures) == ([], "cifar10_subset+", [30.0], "")
  assert published_table.entries_of(found.runs) == []
