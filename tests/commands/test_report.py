"""report: a report from records alone, and where a number comes from."""

import json

import pytest
import untrained

from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  """Two of the paper's cells, with two seeds, and a network of its own on digits."""
  folder = tmp_path_factory.mktemp("table")
  for seed in (0, 1):
    for augment in (False, True):
      config = RunConfig(
        DataConfig("cifar10", augment=augment), ModelConfig(name="densenet-40-12"), seed=seed, epochs=3
      )
      untrained.run(folder, config, 50.0 + seed)
  untrained.run(folder, RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), epochs=3), 5.0)
  return folder


@pytest.mark.slow
def test_the_published_table_is_made_from_the_records(table, tmp_path, capsys):
  untrained.script("report", table, "--to", tmp_path / "report")
  printed = capsys.readouterr().out.splitlines()
  assert {path.name for path in (tmp_path / "report").iterdir()} == {line.rpartition("/")[2] for line in printed}
  text = (tmp_path / "report" / "cifar_table.md").read_text()
  assert text.startswith("**REHEARSAL, schedules of 0.01 of their published epochs.")
  assert "| 7.00 \\| 50.50 ± 0.71 (2) \\[a\\] \\| +43.50 | 5.24 \\| 50.50 ± 0.71 (2) \\[a\\] \\| +45.26 |" in text
  page = (tmp_path / "report" / "report.html").read_text()
  assert "REHEARSAL" in page
  assert "7.00 | 50.50 ± 0.71 (2) [a] | +43.50" in page
  # And beside it the table of all runs.
  assert "densenet-bc-10-4" in (tmp_path / "report" / "table.csv").read_text()


@pytest.mark.parametrize(
  ("flags", "cells"),
  [
    ((), 3),
    (("--rows", "densenet-40-12"), 2),
    (("--rows", "densenet-40-12", "--columns", "C10+"), 1),
    (("--columns", "c10", "c10+"), 2),
    (("--seed", 1), 2),
    (("--seed", 0, "--data.name", "digits"), 1),
    (("--model.name", "densenet-40-12", "--data.augment"), 1),
  ],
)
def test_the_trail_tells_of_the_cells_that_flags_name(flags, cells, table, capsys):
  untrained.script("report", table, "--trail", *flags)
  printed = capsys.readouterr().out
  assert printed.count("(cell ") == cells
  assert printed.count("metrics.jsonl: the same") == printed.count("  seed ")
  assert not (table / "report").exists()


def test_records_that_differ_end_the_trail_with_code_1(tmp_path, capsys):
  config = RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), epochs=3)
  folder = untrained.run(tmp_path, config, 5.0)
  summary = json.loads((folder / "summary.json").read_text())
  (folder / "summary.json").write_text(json.dumps(summary | {"test_error_percent": 4.0}))
  with pytest.raises(SystemExit) as end:
    untrained.script("report", tmp_path, "--trail")
  assert end.value.code == 1
  printed = capsys.readouterr()
  assert "metrics.jsonl: DIFFERS: line 3, epoch 3" in printed.out
  assert str(folder) in printed.err


def test_bad_input_is_one_line(table, tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  for words, said in (
    ((tmp_path / "none",), "is not a folder"),
    ((tmp_path / "empty",), "holds no run"),
    ((table, "--trail", "--seed", 5), "--trail --seed 5: names no cell"),
    ((table, "--trail", "--rows", "densenet-40-13"), "did you mean densenet-40-12"),
    ((table, "--trail", "--columns", "c11"), "--columns c11: one of c10"),
    ((table, "--trail", "--rows", "densenet-40-12", "--columns", "svhn"), "names no cell"),
    ((table, "--rows", "densenet-40-12"), "--rows densenet-40-12: goes with --trail"),
    ((table, "--model.depth", 40), "goes with --trail"),
    ((table, "--trail", "--model.dept", 40), "did you mean --model.depth"),
  ):
    assert said in untrained.refused(capsys, "report", *words)
