"""A run's folder."""

import csv
import dataclasses
import json
import time

import fabricated
import pytest

from dn_jax.config import schema
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.runs import contents
from dn_jax.runs.records import (
  Data,
  EpochRecord,
  Failure,
  RunError,
  Summary,
  best_record,
  claim,
  create,
  finished,
  read_classes,
  read_config,
  read_failure,
  read_records,
  read_summary,
  set_records_aside,
  write_failure,
  write_records,
  write_summary,
)

RECORD = EpochRecord(1, 10, 0.1, 1.5, 0.4, None, None, 1.4, 0.3, 2.0, 0.5, 100.0)
DATA = Data({"train": 10, "test": 5}, "00")
SUMMARY = Summary(**fabricated.summary(fabricated.config(), 1.0))
FAILURE = Failure("no luck", None, "now")


def test_errors_by_class_are_kept_with_names_of_any_bytes_and_what_is_unknown_is_left_out(tmp_path):
  errors = contents.class_errors((0.25, None), ("caf\udce9", "tea"))
  write_summary(tmp_path, dataclasses.replace(SUMMARY, test_class_errors_percent=errors, test_top5_error_percent=None))
  found = read_summary(tmp_path)
  assert [(each.name, each.error) for each in found.test_class_errors_percent] == [("caf\udce9", 25.0), ("tea", None)]
  assert "test_top5_error_percent" not in json.loads((tmp_path / "summary.json").read_text())
  records = [RECORD, dataclasses.replace(RECORD, test_top5_error=0.1, test_class_errors=(0.25, None))]
  write_records(tmp_path, records)
  assert read_records(tmp_path) == records
  plain, told = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
  assert told.keys() - plain.keys() == {"test_top5_error", "test_class_errors"}
  assert [each.name for each in contents.class_errors((0.5, 0.5), None)] == ["0", "1"]


EARLIER = {"test_error_percent", "test_top5_error_percent", "valid_error_percent", "test_class_errors_percent"}


def test_a_summary_of_an_earlier_version_is_read_and_a_new_one_says_that_its_errors_are_percentages(tmp_path):
  errors = contents.class_errors((0.25, None), ("cat", "tea"))
  summary = dataclasses.replace(SUMMARY, valid_error_percent=2.0, test_class_errors_percent=errors)
  write_summary(tmp_path, summary)
  told = json.loads((tmp_path / "summary.json").read_text())
  assert {name for name in told if "error" in name} == EARLIER
  old = {name.removesuffix("_percent"): value for name, value in told.items()}
  (tmp_path / "summary.json").write_text(json.dumps(old))
  assert read_summary(tmp_path) == summary
  # Which of two numbers is meant is not known.
  (tmp_path / "summary.json").write_text(json.dumps(told | {"test_error": 3.0}))
  with pytest.raises(RunError, match=r"test_error\"?: there is no such field; did you mean test_error_percent"):
    read_summary(tmp_path)


def config(**changes):
  return resolve(RunConfig(DataConfig("digits"), ModelConfig(**changes)))


def test_results_csv_has_the_columns_and_units_of_the_pytorch_implementation(tmp_path):
  records = [RECORD, dataclasses.replace(RECORD, epoch=2, valid_loss=1.2, valid_error=0.25)]
  write_records(tmp_path, records)
  with (tmp_path / "results.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == ["epoch", "train_loss", "train_error", "valid_loss", "valid_error", "test_error"]
  assert "None" not in (tmp_path / "results.csv").read_text()
  assert rows[0] == {
    "epoch": "1",
    "train_loss": "1.5",
    "train_error": "0.4",
    "valid_loss": "",
    "valid_error": "",
    "test_error": "0.3",
  }
  assert float(rows[1]["valid_error"]) == 0.25
  assert read_records(tmp_path) == records


def test_records_are_laid_out_for_a_person_and_say_what_they_hold(tmp_path):
  create(tmp_path, config(), DATA)
  write_summary(tmp_path, SUMMARY)
  write_failure(tmp_path, FAILURE)
  data = {"pictures": {"train": 10, "test": 5}, "labels": "00"}
  summary = fabricated.summary(fabricated.config(), 1.0)
  failure = {"error": "no luck", "exit_code": None, "at": "now"}
  for name, record in (("data", data), ("summary", summary), ("failure", failure)):
    assert (tmp_path / f"{name}.json").read_text() == json.dumps(record, indent=2) + "\n"
  assert (tmp_path / "config.json").read_text().startswith('{\n  "data": {\n    "name": "digits",\n')


def test_a_claim_makes_a_folder_and_leaves_a_configuration_that_is_there(tmp_path):
  folder = tmp_path / "new" / "run"
  claim(folder, config(growth_rate=4))
  claim(folder, config(growth_rate=8))
  assert read_config(folder) == config(growth_rate=4)
  assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_what_the_file_system_refuses_is_said_in_its_words(tmp_path):
  (tmp_path / "summary.json").mkdir()
  with pytest.raises(RunError, match=r"summary\.json: cannot be read \(Is a directory; take a file\)$"):
    read_summary(tmp_path)
  (tmp_path / "metrics.jsonl").mkdir()
  with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be read \(Is a directory; take a file\)$"):
    read_records(tmp_path)
  assert set_records_aside(tmp_path) == 0
  assert (tmp_path / "set-aside" / "metrics-0.jsonl").is_dir()


def test_an_epoch_of_wrong_types_is_named(tmp_path):
  line = dataclasses.asdict(RECORD)
  (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"test_error": "low"}) + "\n")
  with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be read \(line 2: test_error \"low\": a number\)$"):
    read_records(tmp_path)


def test_a_folder_of_another_run_is_refused_with_the_difference_and_left_alone(tmp_path):
  create(tmp_path / "run", config(growth_rate=4), DATA)
  before = (tmp_path / "run" / "config.json").read_text()
  with pytest.raises(ConfigurationError, match=r"--model\.growth-rate: 4 -> 8"):
    create(tmp_path / "run", config(growth_rate=8), DATA)
  assert (tmp_path / "run" / "config.json").read_text() == before


def test_how_a_resumed_run_is_carried_out_may_change(tmp_path):
  create(tmp_path / "run", config(remat="dense_layer"), DATA)
  create(tmp_path / "run", config(remat="none"), DATA)
  assert read_config(tmp_path / "run").model.remat == "none"


@pytest.mark.parametrize("content", ["", "{", '{"colour": 1}', "[]"])
def test_a_damaged_record_is_one_line(tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(RunError, match=r"config\.json: cannot be read"):
    read_config(tmp_path)
  (tmp_path / "metrics.jsonl").write_text(json.dumps(dataclasses.asdict(RECORD)) + "\n" + '{"epoch": 2')
  with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be read"):
    read_records(tmp_path)


def test_the_best_epoch_is_the_first_of_lowest_validation_error():
  records = [dataclasses.replace(RECORD, epoch=n, valid_error=error) for n, error in enumerate([0.3, 0.1, 0.2, 0.1], 1)]
  assert best_record(records).epoch == 2


def test_other_pictures_in_the_same_folder_are_refused(tmp_path):
  create(tmp_path / "run", config(), DATA)
  before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
  for other in (Data({"train": 11, "test": 5}, "00"), dataclasses.replace(DATA, labels="01")):
    with pytest.raises(ConfigurationError, match="was started with other images"):
      create(tmp_path / "run", config(), other)
  assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_finished_run_is_only_read(tmp_path):
  folder = tmp_path / "run"
  create(folder, config(remat="dense_layer"), DATA)
  assert finished(folder, config()) is None
  write_summary(folder, SUMMARY)
  assert finished(folder, config(remat="none")) == SUMMARY
  assert read_config(folder).model.remat == "dense_layer"
  with pytest.raises(ConfigurationError, match="another configuration"):
    finished(folder, config(growth_rate=8))


def test_records_without_a_checkpoint_are_set_aside_not_overwritten(tmp_path):
  assert set_records_aside(tmp_path) == 0
  for n in range(2):
    write_records(tmp_path, [RECORD, dataclasses.replace(RECORD, epoch=2 + n)])
    assert set_records_aside(tmp_path) == 2
    assert f'"epoch": {2 + n}' in (tmp_path / "set-aside" / f"metrics-{n}.jsonl").read_text()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"{}"])
def test_a_damaged_record_that_has_to_give_way_is_set_aside_not_lost(tmp_path, content):
  (tmp_path / "failure.json").write_bytes(content)
  with pytest.raises(RunError, match=r"failure\.json: cannot be read"):
    read_failure(tmp_path)
  write_failure(tmp_path, None)
  assert read_failure(tmp_path) is None
  assert (tmp_path / "set-aside" / "failure-0.json").read_bytes() == content
  (tmp_path / "metrics.jsonl").write_bytes(content + b"\n")
  assert set_records_aside(tmp_path) == 1
  assert (tmp_path / "set-aside" / "metrics-0.jsonl").read_bytes() == content + b"\n"


def test_a_whole_failure_is_taken_away(tmp_path):
  write_failure(tmp_path, FAILURE)
  assert read_failure(tmp_path) == FAILURE
  write_failure(tmp_path, None)
  assert list(tmp_path.iterdir()) == []


def test_a_configuration_of_wrong_types_is_one_line(tmp_path):
  create(tmp_path / "run", config(), DATA)
  whole = json.loads((tmp_path / "run" / "config.json").read_text())
  for part, field, value in (
    ("model", "depth", "forty"),
    ("model", "depth", 40.0),
    ("model", "bottleneck", 1),
    ("model", "dtype", "float8"),
    ("model", "blocks", [6, "6"]),
    ("optimizer", "momentum", True),
    ("data", "name", None),
    ("data", "dir", 5),
  ):
    changed = whole | {part: whole[part] | {field: value}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(changed))
    with pytest.raises(RunError, match=rf"config\.json: cannot be read \({part}\.{field} "):
      read_config(tmp_path / "run")
  (tmp_path / "run" / "config.json").write_text(json.dumps(whole | {"optimizer": whole["optimizer"] | {"momentum": 0}}))
  assert read_config(tmp_path / "run").optimizer.momentum == 0


def test_what_a_record_may_lack_is_left_out_where_there_is_nothing_to_say(tmp_path):
  write_summary(tmp_path, dataclasses.replace(SUMMARY, saving_seconds=1.5))
  assert json.loads((tmp_path / "summary.json").read_text())["saving_seconds"] == 1.5
  assert read_summary(tmp_path).saving_seconds == 1.5
  records = [dataclasses.replace(RECORD, compile_seconds=2.5), RECORD]
  write_records(tmp_path, records)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [line.get("compile_seconds", "left out") for line in lines] == [2.5, "left out"]
  assert read_records(tmp_path) == records
  classes = dataclasses.replace(DATA, classes=("cat", "dog"))
  create(tmp_path / "run", config(), classes)
  assert json.loads((tmp_path / "run" / "data.json").read_text())["classes"] == ["cat", "dog"]
  assert read_classes(tmp_path / "run") == ("cat", "dog")
  with pytest.raises(ConfigurationError, match="was started with other classes than are there now"):
    create(tmp_path / "run", config(), dataclasses.replace(DATA, classes=("dog", "cat")))


def test_a_line_of_an_earlier_version_lacks_what_came_later(tmp_path):
  later = ("waiting_seconds", "compile_seconds")
  line = {name: value for name, value in dataclasses.asdict(RECORD).items() if name not in later}
  (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
  assert read_records(tmp_path) == [RECORD]


def test_a_field_that_retired_is_dropped_at_its_default_and_else_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(schema, "RETIRED", {"colours": (1, "all is grey")})
  create(tmp_path, config(), DATA)
  record = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(record | {"colours": 1}))
  assert read_config(tmp_path) == config()
  for value, shown in ((2, "2"), (True, "true"), ("1", '"1"')):
    (tmp_path / "config.json").write_text(json.dumps(record | {"colours": value}))
    with pytest.raises(RunError, match=rf"cannot be read \(colours {shown}: all is grey\)$"):
      read_config(tmp_path)
  for text in ("{", "[]", "[" * 10_000):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json: cannot be read"):
      read_config(tmp_path)


def test_thousands_of_epochs_are_read_at_once(tmp_path):
  write_records(tmp_path, [dataclasses.replace(RECORD, epoch=n + 1) for n in range(5000)])
  best = min(timed(read_records, tmp_path) for _ in range(3))
  assert best < 0.2


def timed(function, *given):
  begin = time.process_time()
  function(*given)
  return time.process_time() - begin
