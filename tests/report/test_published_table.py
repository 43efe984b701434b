"""The paper's table: its cells against the folders, its notes against what ran."""

import dataclasses
import json
import re
import statistics

import pytest
import untrained

from dn_jax.config import zoo
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, OptimizerConfig, RunConfig, added
from dn_jax.report import protocol_words, published_table
from dn_jax.runs import collection, records

small_table = untrained.small_table
whole_table = untrained.whole_table

COLUMN = {"cifar10": "C10", "cifar100": "C100", "svhn_cropped": "SVHN"}


def table_of(folder):
  return published_table.table(published_table.entries_of(collection.read(folder).runs))


def protocol_notes(grid):
  return [note for note in grid.notes if note.startswith("Protocol ")]


@pytest.mark.slow
def test_the_whole_table_is_the_papers_with_our_numbers_from_the_folders(whole_table):
  grid = table_of(whole_table)
  assert grid.columns == ["network", "parameters", "C10", "C10+", "C100", "C100+", "SVHN"]
  assert "REHEARSAL" not in grid.title
  ours = {}
  for folder in whole_table.iterdir():
    config = json.loads((folder / "config.json").read_text())
    column = COLUMN[config["data"]["name"]] + "+" * config["data"]["augment"]
    error = json.loads((folder / "summary.json").read_text())["test_error_percent"]
    ours.setdefault((config["model"]["name"], column), []).append(error)
  titles = {entry.title: name for name, entry in zoo.NETWORKS.items()}
  seen = 0
  for row in grid.rows:
    name = titles[row[0].rstrip("*")]
    for column, cell in zip(grid.columns[2:], row[2:], strict=True):
      published = zoo.NETWORKS[name].errors.get(column.lower())
      if published is None:
        assert cell == "-"
        continue
      errors = ours[name, column]
      difference = statistics.mean(errors) - published
      assert cell == f"{published:.2f} | {statistics.mean(errors):.2f} (1) | {difference:+.2f}"
      seen += 1
  assert seen == sum(map(len, ours.values())) == 58


def test_an_error_of_several_seeds_has_its_deviation_and_what_failed_is_counted(tmp_path):
  for seed, error in enumerate((5.0, 5.4, 5.9, None)):
    config = RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="densenet-40-12"), seed=seed)
    folder = untrained.run(tmp_path, config, error)
  records.write_failure(folder, records.Failure("x", 1, "now"))
  (row,) = table_of(tmp_path).rows
  errors = [5.0, 5.4, 5.9]
  mean, deviation = statistics.mean(errors), statistics.stdev(errors)
  assert row[2] == f"5.24 | {mean:.2f} ± {deviation:.2f} (3), 1 failed | {mean - 5.24:+.2f}"


# Parts of a note and what they say of a configuration, read back.
FIGURES = {
  r"(\d+) epochs?\b": lambda config: config.epochs,
  r"batch (\d+)": lambda config: config.batch_size,
  r"rate ([\d.]+) times": lambda config: config.optimizer.learning_rate,
  r"times ([\d.]+) at": lambda config: config.optimizer.drop_factor,
  r"momentum ([\d.]+)": lambda config: config.optimizer.momentum,
  r"weight decay ([\d.e-]+)": lambda config: config.optimizer.weight_decay,
  r"dropout ([\d.]+)": lambda config: config.model.dropout,
  r"([\d,]+) images held out": lambda config: config.data.validation,
  r"(\d+) steps at a tenth": lambda config: config.optimizer.warmup_steps,
}


def check(note, config):
  """Every figure of a note is the configuration's, and what it says nothing of is nothing."""
  for pattern, value in FIGURES.items():
    found = re.search(pattern, note)
    assert float(found[1].replace(",", "") if found else 0) == value(config), (pattern, note)
  assert ("Nesterov" in note) == config.optimizer.nesterov
  drops = re.search(r"at ((?:\d+%(?:, | and )?)+)", note)[1]
  assert [int(share) / 100 for share in re.findall(r"(\d+)%", drops)] == list(config.optimizer.drops)
  assert ("the network best on them reported" in note) == (config.report == "best")
  assert ("mirror image" in note) == (config.data.augment and config.data.padding == "reflect")
  assert ("padded with zeros" in note) == (config.data.augment and config.data.padding == "zero")
  assert ("not divided" in note) == (config.data.normalise == "mean")
  assert ("by one deviation" in note) == (config.data.normalise == "pixel")
  assert ("bfloat16" in note) == (config.model.dtype == "bfloat16")
  assert ("last batch dropped" in note) == (config.last_batch == "drop")


def test_every_cell_of_the_whole_table_is_under_a_note_with_its_own_figures(whole_table):
  entries = published_table.entries_of(collection.read(whole_table).runs)
  notes = protocol_notes(published_table.table(entries))
  for entry in entries:
    title = re.escape(zoo.NETWORKS[entry.name].title)
    column = re.escape(entry.column.upper())
    group = rf"(?:^|[ ,;]){column}(?:, [A-Z0-9+]+)* of [^;]*?(?<!Wide-){title}(?:[.,;]|$)"
    matching = [note for note in notes if re.search(group, note.split("So were trained:")[1])]
    assert len(matching) == 1, (entry.name, entry.column, matching)
    check(matching[0], entry.config)


@pytest.mark.parametrize(
  "config",
  [
    RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="resnet-110"), protocol="densenet"),
    RunConfig(DataConfig("cifar10"), ModelConfig(name="resnet-110"), protocol="densenet"),
    RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="densenet-caffe-40-12")),
    RunConfig(DataConfig("cifar10"), ModelConfig(name="densenet-40-12", dtype="bfloat16"), protocol="caffe"),
    RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="wide-28-10"), epochs=4, last_batch="keep"),
    RunConfig(DataConfig("cifar100"), ModelConfig(name="preactivation-164"), OptimizerConfig(warmup_steps=8), epochs=3),
    RunConfig(DataConfig("svhn_cropped"), ModelConfig(name="wide-16-4-dropout")),
  ],
)
def test_a_note_says_what_ran(config, tmp_path):
  untrained.run(tmp_path, config, 9.0)
  grid = table_of(tmp_path)
  (note,) = protocol_notes(grid)
  resolved = resolve(config)
  check(note, resolved)
  published = {"wide-28-10": 200, "preactivation-164": 164}.get(config.model.name)
  if resolved.epochs in (3, 4):
    assert f"{resolved.epochs} epochs (published: {published})" in note
    share = f"{resolved.epochs / published:.3g}"
    assert grid.title.startswith(f"REHEARSAL, schedules of {share} of their published epochs.")
  else:
    assert "published:" not in note
    assert "REHEARSAL" not in grid.title


def test_another_protocol_and_another_type_have_rows_of_their_own(tmp_path):
  for flags in ({}, {"protocol": "densenet"}):
    untrained.run(tmp_path, RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="resnet-110"), **flags), 7)
  model = ModelConfig(name="resnet-110", dtype="bfloat16")
  untrained.run(tmp_path, RunConfig(DataConfig("cifar10", augment=True), model), 8.0)
  grid = table_of(tmp_path)
  expected = {"ResNet-110", "ResNet-110, protocol densenet", "ResNet-110, dtype bfloat16"}
  assert {row[0] for row in grid.rows} == expected
  assert len(protocol_notes(grid)) == 3


WIDEST = "DenseNet-BC (L=190, k=40)"


def of_widest(folder, error, data="cifar10", **flags):
  config = RunConfig(DataConfig(data, augment=True), ModelConfig(name="densenet-bc-190-40"), **flags)
  untrained.run(folder, config, error)


def test_a_recipe_of_others_has_a_row_with_their_errors_and_a_note_that_says_whose(tmp_path):
  of_widest(tmp_path, 3.5)
  of_widest(tmp_path, 2.9, protocol="mixup")
  of_widest(tmp_path, 17.0, data="cifar100", protocol="mixup")
  grid = table_of(tmp_path)
  # Of the DenseNet paper 3.46 and 17.18, of mixup's 2.7 and 16.8.
  assert {row[0]: row[2:] for row in grid.rows} == {
    WIDEST: ["3.46 | 3.50 (1) | +0.04", "17.18 | - | -"],
    f"{WIDEST}*, protocol mixup": ["2.70 | 2.90 (1) | +0.20", "16.80 | 17.00 (1) | +0.20"],
  }
  (note,) = [note for note in grid.notes if note.startswith("* ")]
  assert note == (f"* {WIDEST}, protocol mixup: published are errors of mixup's paper, section 3.2, FROM MEMORY.")
  assert not any("Not the published training" in note for note in grid.notes)
  lines = {(line["trained"], line["column"]): line for line in grid.records}
  assert lines["", "c10+"]["published"] == 3.46
  assert lines["protocol mixup", "c10+"]["published"] == 2.7
  assert lines["protocol mixup", "c10+"]["published_epochs"] == 200


def test_what_departs_from_a_recipe_of_others_is_marked_as_of_that_recipe(tmp_path):
  of_widest(tmp_path, 5.0, protocol="mixup", epochs=20, batch_size=64)
  (row,) = (grid := table_of(tmp_path)).rows
  assert row[0] == f"{WIDEST}*, protocol mixup, batch-size 64"
  assert row[2] == "2.70 | 5.00 (1) [a] | +2.30"
  assert "[a] Not the published training: 20 of 200 epochs; batch-size 64, not 128." in grid.notes


def test_a_recipe_on_another_network_is_marked_beside_the_papers_own_error(tmp_path):
  config = RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="densenet-40-12"), protocol="mixup")
  untrained.run(tmp_path, config, 5.0)
  (row,) = (grid := table_of(tmp_path)).rows
  assert row[2] == "5.24 | 5.00 (1) [a] | -0.24"
  assert "[a] Not the published training: 200 of 300 epochs; protocol mixup, not densenet." in grid.notes


@pytest.mark.parametrize(
  ("config", "words"),
  [
    (
      RunConfig(DataConfig("cifar10", augment=True), protocol="rdnet"),
      "rate 0.001 along a cosine to 1e-06, rising to it in 20 epochs from 0.0001, labels smoothed by 0.1, AdamW, "
      "beta1 0.9, beta2 0.999, weight decay 0.05 times the rate (kernels alone), ",
    ),
    (
      RunConfig(optimizer=OptimizerConfig(decay="kernels")),
      "momentum 0.9 (Nesterov), weight decay 0.0001 (kernels alone), ",
    ),
    (
      RunConfig(optimizer=OptimizerConfig(schedule="cosine")),
      "rate 0.1 along a cosine to 0, momentum 0.9 (Nesterov), ",
    ),
    (
      RunConfig(DataConfig("imagenet2012", augment=True), ModelConfig(name="densenet-121"), protocol="rdnet"),
      "224 pixels, resized by a bicubic filter, ",
    ),
  ],
)
def test_a_recipes_optimizer_schedule_and_filter_are_said(config, words):
  assert words in protocol_words.text(resolve(config))


# A configuration with the flags of what is done to images, whether or not `DataConfig` has them.
Altered = dataclasses.make_dataclass(
  "Altered",
  [
    (name, float | None, added(None))
    for name in ("mixup", "cutmix", "erasing", "cutout", "rand_augment", "rand_augment_deviation")
  ],
  bases=(DataConfig,),
  frozen=True,
)


def test_what_a_recipe_does_to_images_is_filled_in_and_said_unless_a_flag_says_none():
  said = protocol_words.text(resolve(RunConfig(Altered("cifar10", augment=True), protocol="rdnet")))
  assert (
    ", images mixed by mixup of alpha 0.8, boxes of others pasted by CutMix of alpha 1, a box erased by a chance of "
    "0.25, RandAugment of magnitude 9, its magnitude's deviation 0.5, "
  ) in said
  none = Altered("cifar10", augment=True, mixup=0.0, cutmix=0.0, rand_augment=0.0, cutout=8)
  config = resolve(RunConfig(none, protocol="rdnet"))
  assert (config.data.mixup, config.data.cutmix, config.data.rand_augment) == (0, 0, 0)
  said = protocol_words.text(config)
  assert "a box erased by a chance of 0.25, a square of 8 pixels cut out, nothing held out" in said
  assert "mixup" not in said
  # Where the protocol has none, no word is as good.
  config = resolve(RunConfig(Altered("cifar10", mixup=0.0, rand_augment=0.0)))
  assert (config.data.mixup, config.data.rand_augment) == (None, None)


def test_the_source_of_a_recipe_says_where_it_was_not_published():
  for data, said in (("cifar10", "; of cifar10 it says nothing"), ("imagenet2012", "")):
    config = resolve(RunConfig(DataConfig(data), ModelConfig(name="densenet-121"), protocol="rdnet"))
    assert protocol_words.source_of(config).partition("rdnet.yaml)")[2] == said
  config = resolve(RunConfig(DataConfig("cifar100"), protocol="mixup"))
  assert "FROM MEMORY of its paper" in protocol_words.source_of(config)


def test_rehearsals_of_several_lengths_have_rows_of_their_own(tmp_path):
  for epochs in (3, 6):
    config = RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="densenet-40-12"), epochs=epochs)
    untrained.run(tmp_path, config, 60.0 / epochs)
  grid = table_of(tmp_path)
  assert [row[0] for row in grid.rows] == ["DenseNet (L=40, k=12), 6 epochs", "DenseNet (L=40, k=12), 3 epochs"]
  assert grid.title.startswith("REHEARSAL, schedules of 0.01 to 0.02 of their published epochs.")


def test_what_is_from_memory_and_what_is_another_networks_is_said(whole_table):
  notes = table_of(whole_table).notes
  sources = {note.split(":")[0].rpartition(" ")[2]: note for note in notes if note.startswith("Source of")}
  assert set(sources) == {"densenet", "caffe", "stochastic-depth", "wide", "resnet", "preactivation"}
  memory = {name for name, note in sources.items() if "FROM MEMORY" in note}
  assert memory == {"resnet", "preactivation"}
  assert any("ResNet-110 with stochastic depth: " in note and "1.75" in note and "152 layers" in note for note in notes)


def test_a_schedule_that_a_protocol_says_nothing_of_is_said_to_be_borrowed():
  config = resolve(RunConfig(DataConfig("svhn_cropped"), ModelConfig(name="resnet-110")))
  assert "of SVHN it says nothing" in protocol_words.source_of(config)
  config = resolve(RunConfig(DataConfig("cifar10"), ModelConfig(name="resnet-110")))
  assert "SVHN" not in protocol_words.source_of(config)


def test_runs_of_no_published_row_or_column_are_no_part_of_the_table(small_table, tmp_path):
  assert published_table.entries_of(collection.read(small_table).runs) == []
  untrained.run(tmp_path, RunConfig(DataConfig("cifar10"), ModelConfig(depth=46, growth_rate=12), epochs=2), 9.0)
  untrained.run(tmp_path, RunConfig(DataConfig("digits"), ModelConfig(name="densenet-40-12"), epochs=2), 9.0)
  assert published_table.entries_of(collection.read(tmp_path).runs) == []


@pytest.mark.parametrize("column", zoo.COLUMNS)
def test_a_column_is_a_data_set_and_back(column):
  data, augment = published_table.data_of_column(column)
  config = resolve(RunConfig(DataConfig(data, augment=augment), ModelConfig(name="densenet-40-12")))
  assert published_table.column_of(config) == column
