"""The stream's measuring script."""

import json

import pytest
from photographs import class_folders
from untrained import refused, script


@pytest.mark.slow
@pytest.mark.parametrize(
  ("workers", "besides"),
  [(0, set()), pytest.param(1, {"dn_jax, 1 processes"}, marks=[pytest.mark.slow, pytest.mark.thorough])],
)
def test_rates_are_measured_and_written(tmp_path, capsys, workers, besides):
  class_folders(tmp_path / "photos", each=6)
  flags = ("--pictures", tmp_path / "photos", "--batch-size", "4", "--repeats", "2", "--workers", workers)
  script("loading", *flags, "--json", tmp_path / "rates.json")
  rates = json.loads((tmp_path / "rates.json").read_text())
  assert set(rates) == {"dn_jax", "dn_jax, colours and lighting too"} | besides
  assert all(len(found) == 2 and min(found) > 0 for found in rates.values())
  assert "18 images, batches of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("flags", "answer"),
  [
    (["--repeats", "0"], "error: --repeats 0: must be at least 1"),
    (["--workers", "-1"], "error: --workers -1: must be at least 0"),
    (["--torch-python", "/nowhere/python"], "error: --torch-python /nowhere/python: is no program"),
    (["--pictures", "/nowhere"], "error: --pictures /nowhere: is not a folder"),
  ],
)
def test_a_mistake_is_one_line(capsys, flags, answer):
  assert refused(capsys, "loading", *flags) == answer
