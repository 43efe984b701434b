"""A folder of runs, read: what is in it, what is damaged, what is no run."""

import dataclasses
import json
import pathlib
import shutil

import fabricated
import pytest

from dn_jax.config.schema import RETIRED
from dn_jax.errors import ConfigurationError
from dn_jax.runs import collection, records

RECORDS = ("config.json", "summary.json", "metrics.jsonl", "data.json", "failure.json")
WRONG_TYPES = {
  "config.json": {"model": {"depth": "forty"}},
  "summary.json": {"test_error_percent": 5.0, "seconds": "long"},
  "metrics.jsonl": {**fabricated.record(1, 0.3), "epoch": "one"},
  "data.json": {"pictures": [10, 5], "labels": 0},
  "failure.json": {"error": 5, "exit_code": 1, "at": "now"},
}


def bytes_of(folder):
  return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def damage(path: pathlib.Path, how: str) -> None:
  text = path.read_text()
  if how == "a directory":
    path.unlink()
    path.mkdir()
  else:
    contents = {
      "empty": b"",
      "half": text[: len(text) // 2].encode(),
      "no fields": b"{}\n",
      "wrong types": json.dumps(WRONG_TYPES[path.name]).encode(),
      "binary": bytes(range(256)),
      "deep": b"[" * 100_000,
    }
    path.write_bytes(contents[how])


@pytest.mark.parametrize("how", ["empty", "half", "no fields", "wrong types", "a directory", "binary", "deep"])
@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_named_and_left_alone_and_the_other_runs_are_read(tmp_path, name, how):
  make = fabricated.failed if name == "failure.json" else fabricated.finished
  damage(make(tmp_path / "a") / name, how)
  fabricated.finished(tmp_path / "b", fabricated.config(seed=1))
  before = bytes_of(tmp_path)
  found = collection.read(tmp_path)
  assert bytes_of(tmp_path) == before
  assert [line for line in found.skipped if str(tmp_path / "a" / name) in line], found.skipped
  assert all("\n" not in line for line in found.skipped)
  # Without what says which run it is or what it came to there is no run; without the rest there is.
  stays = name not in ("config.json", "summary.json")
  assert [run.folder.name for run in found.runs] == (["a", "b"] if stays else ["b"])
  if name == "failure.json":
    assert found.runs[0].failure.error
    assert found.runs[0].summary is None


REQUIRED = sorted(field.name for field in dataclasses.fields(records.Summary) if field.default is dataclasses.MISSING)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_summary_that_lacks_what_tables_print_is_no_finished_run(tmp_path, name):
  folder = fabricated.finished(tmp_path / "run")
  summary = json.loads((folder / "summary.json").read_text())
  del summary[name]
  (folder / "summary.json").write_text(json.dumps(summary))
  with pytest.raises(records.RunError, match=rf"summary\.json: cannot be read \(it has no {name}\)"):
    collection.read_run(folder)


def test_a_configuration_that_leaves_a_flag_open_is_no_runs(tmp_path):
  folder = fabricated.finished(tmp_path / "run")
  config = json.loads((folder / "config.json").read_text())
  config["optimizer"]["learning_rate"] = None
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.raises(records.RunError, match=r"it leaves open --optimizer\.learning-rate"):
    collection.read_run(folder)
  config["optimizer"]["learning_rate"] = -0.1
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.raises(records.RunError, match=r"\(optimizer\.learning_rate -0\.1: must be above 0\)$"):
    collection.read_run(folder)


def test_a_copied_run_is_not_another_seed(tmp_path):
  fabricated.finished(tmp_path / "first", test_error=5.0)
  fabricated.finished(tmp_path / "second", fabricated.config(seed=1), test_error=7.0)
  shutil.copytree(tmp_path / "first", tmp_path / "copy")
  found = collection.read(tmp_path)
  (cell,) = collection.cells(found.runs).values()
  assert sorted(run.test_error for run in cell) == [5.0, 7.0]
  assert found.skipped == [f"{tmp_path / 'first'}: the same run as {tmp_path / 'copy'}"]


def test_of_two_folders_of_one_run_the_finished_one_counts(tmp_path):
  fabricated.begun(tmp_path / "a")
  fabricated.finished(tmp_path / "b")
  fabricated.failed(tmp_path / "c")
  found = collection.read(tmp_path)
  assert [run.folder.name for run in found.runs] == ["b"]
  assert found.skipped == [f"{tmp_path / n}: the same run as {tmp_path / 'b'}" for n in "ac"]
  assert found.of_key(collection.key(fabricated.config())).folder == tmp_path / "b"
  assert found.of_key(collection.key(fabricated.config(seed=1))) is None


def test_foreign_files_are_named_and_the_report_is_not(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  (tmp_path / "pictures").mkdir()
  (tmp_path / "report").mkdir()
  found = collection.read(tmp_path)
  assert found.skipped == [f"{tmp_path / name}: not a run's folder" for name in ("notes.txt", "pictures")]
  assert found.runs == []


def test_a_run_or_a_file_given_for_a_folder_of_runs_is_refused_and_a_missing_folder_is_empty(tmp_path):
  folder = fabricated.finished(tmp_path / "run")
  with pytest.raises(ConfigurationError, match="is one run's folder; give the folder around it"):
    collection.read(folder)
  with pytest.raises(ConfigurationError, match="is not a folder"):
    collection.read(folder / "config.json")
  assert collection.read(tmp_path / "later") == collection.Collection(tmp_path / "later", [], [])


def test_the_key_is_of_what_the_run_is_not_of_how_it_was_carried_out():
  config = fabricated.config()
  assert collection.key(config) == collection.key(fabricated.config(remat="none"))
  others = [fabricated.config(seed=1), fabricated.config(growth_rate=8), fabricated.config(epochs=3)]
  assert len({collection.key(each) for each in (config, *others)}) == 4
  assert collection.cell_key(config) == collection.cell_key(others[0])
  assert collection.cell_key(config) != collection.cell_key(others[1])


def test_a_run_goes_where_it_lies_else_where_no_other_one_does(tmp_path):
  config, key = fabricated.config(), collection.key(fabricated.config())
  assert collection.place_for(collection.read(tmp_path), config, "name") == tmp_path / f"name_{key}"
  fabricated.begun(tmp_path / "elsewhere")
  assert collection.place_for(collection.read(tmp_path), config, "name") == tmp_path / "elsewhere"
  # One that is damaged is not written over.
  shutil.move(tmp_path / "elsewhere", tmp_path / f"name_{key}")
  (tmp_path / f"name_{key}" / "config.json").write_text("{")
  assert collection.place_for(collection.read(tmp_path), config, "name") == tmp_path / f"name_{key}-2"


def test_a_folder_that_another_sweep_has_just_made_for_the_same_run_is_shared(tmp_path):
  config, there = fabricated.config(), collection.read(tmp_path)
  folder = tmp_path / f"name_{collection.key(config)}"
  folder.mkdir()
  assert collection.place_for(there, config, "name") == folder
  (folder / f"{records.CLAIM}.host-1").write_text("{")
  assert collection.place_for(there, config, "name") == folder
  records.claim(folder, config)
  assert collection.place_for(there, config, "name") == folder
  (folder / "config.json").unlink()
  (folder / "notes.txt").write_text("mine")
  assert collection.place_for(there, config, "name") == tmp_path / f"{folder.name}-2"


def test_a_run_that_an_earlier_version_recorded_is_found_under_its_key_and_written_as_it_was(tmp_path):
  kept = pathlib.Path(__file__).parent.parent / "fixtures" / "run"
  found = collection.read(kept)
  assert found.skipped == []
  (run,) = found.runs
  # As the sweep that made the folder named it.
  assert run.folder.name.endswith(f"_{run.key}")
  assert run.summary.test_error_percent == 100 * records.read_records(run.folder)[-1].test_error
  records.claim(tmp_path, run.config)
  was = json.loads((run.folder / "config.json").read_text())
  was = {name: value for name, value in was.items() if name not in RETIRED}
  assert (tmp_path / "config.json").read_text() == json.dumps(was, indent=2) + "\n"
