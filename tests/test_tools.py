"""What the tests lean on: whether a machine can run them, and the list of deliberate faults."""

import importlib.metadata
import shutil
import sys
import types

import pytest
import ready
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "faults"))

import catch


def test_this_machine_can_run_the_tests():
  assert ready.trouble("run") == ""


@pytest.mark.parametrize(("step", "needed"), [("install", "4"), ("run", "0.5")])
def test_a_machine_without_room_is_told_how_much_is_needed(monkeypatch, step, needed):
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=2**20))
  assert ready.trouble(step).endswith(f": 0.0 GiB are free, {needed} GiB are needed")


def test_packages_that_are_missing_are_named_and_those_of_other_machines_are_not(monkeypatch):
  there = [types.SimpleNamespace(name=name) for name in ("packaging", "array_record")]
  monkeypatch.setattr(importlib.metadata, "distributions", lambda: there)
  pins = "# a comment\narray-record==0.8.6\n    # via grain\ncolorama==0.4.6 ; sys_platform == 'nowhere'\nkeras==3.12\n"
  assert ready.lacks(pins) == ["keras"]
  assert ready.trouble("run").endswith("not installed, and the tests need them; rm .venv/.test, then make test again")


def test_every_deliberate_fault_fits_one_place_of_the_package():
  found = catch.faults((ROOT / "tests" / "faults" / "faults.txt").read_text(), ROOT / "dn_jax")
  assert len(found) >= 40
  assert len({fault.words for fault in found}) == len(found)
  for fault in found:
    source = (ROOT / fault.file).read_text()
    compile(source.replace(fault.old, fault.new), fault.file, "exec")


@pytest.mark.parametrize(
  ("line", "message"), [("a :: b", "no 'words :: old"), ("a :: import jax ==> import os", "stands [0-9]+ times")]
)
def test_a_line_that_fits_no_place_or_several_is_refused(line, message):
  with pytest.raises(ValueError, match=message):
    catch.faults(line, ROOT / "dn_jax")


def test_a_fault_meets_the_tests_that_import_its_module_those_of_its_name_first():
  fault = catch.faults("a :: class MeasureMap(nn.Module): ==> class MeasureMaps(nn.Module):", ROOT / "dn_jax")[0]
  found = catch.tests_of(fault.file, ROOT)
  assert found[0] == "tests/models/test_batch_stats.py"
  assert "tests/models/test_densenet.py" in found
  assert "tests/sweep/test_lock.py" not in found


def test_words_that_no_fault_has_are_refused(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["catch.py", "--only", "no such words"])
  assert catch.main() == 2
  assert capsys.readouterr().err == "error: --only no such words: no fault has these words, see faults.txt\n"
