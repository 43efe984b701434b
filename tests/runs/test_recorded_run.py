"""A run that an earlier version recorded, as its commit left it (tests/fixtures/run)."""

import csv
import json
import pathlib
import shutil

import pytest
from conftest import FIXTURES

from dn_jax.config.resolve import resolve
from dn_jax.config.schema import CheckpointConfig, DataConfig, ModelConfig, RunConfig
from dn_jax.runs import collection, records

(RECORDED,) = (FIXTURES / "run").iterdir()
# The flags that it was started with.
STARTED = RunConfig(
  DataConfig("digits", augment=True, validation=100),
  ModelConfig(depth=10, growth_rate=4, remat="layer_by_layer"),
  epochs=2,
  out=pathlib.Path("runs/recorded"),
)


def changed(folder, **fields):
  """A copy of the run whose config.json has other fields too."""
  shutil.copytree(RECORDED, folder)
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(config | fields))
  return folder


def test_its_configuration_is_that_of_the_flags_it_was_started_with():
  config = records.read_config(RECORDED)
  assert config == resolve(STARTED)
  assert (config.model.blocks, config.optimizer.drops, config.report) == ((1, 1, 1), (0.5, 0.75), "best")
  assert config.checkpoint == CheckpointConfig()


def test_its_records_say_what_its_table_says():
  found = records.read_records(RECORDED)
  with (RECORDED / "results.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert len(found) == len(rows) == 2
  for record, row in zip(found, rows, strict=True):
    assert {name: float(value) for name, value in row.items()} == {name: getattr(record, name) for name in row}
  # 1,197 training images in steps of 64.
  assert [record.step for record in found] == [18, 36]


def test_its_summary_is_of_its_best_epoch_and_its_data_are_the_digits():
  summary, best = records.read_summary(RECORDED), records.best_record(records.read_records(RECORDED))
  assert (summary.reported, summary.reported_epoch) == ("best", best.epoch)
  assert summary.test_error_percent == pytest.approx(100 * best.test_error)
  assert summary.valid_error_percent == pytest.approx(100 * best.valid_error)
  assert records.read_data(RECORDED).pictures == {"train": 1197, "valid": 100, "test": 500}
  assert records.finished(RECORDED, resolve(STARTED)) == summary


def test_a_folder_of_runs_has_it_whole(tmp_path):
  shutil.copytree(RECORDED, tmp_path / "run")
  found = collection.read(tmp_path)
  (run,) = found.runs
  assert (found.skipped, run.damaged, run.failure) == ([], [], None)
  assert run.key == collection.key(resolve(STARTED))
  assert run.test_error == records.read_summary(RECORDED).test_error_percent


def test_a_retired_field_is_read_at_its_default_and_otherwise_refused_in_a_line(tmp_path):
  assert json.loads((RECORDED / "config.json").read_text())["seeds_per_device"] == 1
  folder = changed(tmp_path / "two", seeds_per_device=2)
  with pytest.raises(records.RunError) as error:
    records.read_config(folder)
  assert str(error.value) == (
    f"{folder}/config.json: cannot be read (seeds_per_device 2: this version has no several seeds in one program)"
  )
  assert collection.read(tmp_path).skipped == [str(error.value)]


def test_a_field_that_no_version_had_is_refused(tmp_path):
  with pytest.raises(records.RunError, match="colour"):
    records.read_config(changed(tmp_path / "run", colour="red"))
