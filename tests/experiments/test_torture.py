"""The torture script tortures, and would see a run that was lost."""

import json
import shutil
import sys

import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT / "experiments"))

import torture


@pytest.mark.slow
def test_no_run_of_twenty_kills_and_all_damage_is_lost(tmp_path):
  done = run(
    *("experiments/torture.py", "--kills", "20", "--seed", "5"),
    *("--json", tmp_path / "found.json", "--keep", tmp_path / "runs"),
    timeout=1800,
  )
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
  found = json.loads((tmp_path / "found.json").read_text())
  assert found["lost"] == []
  assert found["compared"] >= 5
  assert set(torture.DAMAGE) <= set(found["faults"])
  assert sum(times for kind, times in found["faults"].items() if kind.startswith("SIG")) >= 12
  assert f"faults tried: {sum(found['faults'].values())}, " in done.stdout
  assert done.stdout.splitlines()[-1].endswith("runs lost: 0")

  # What it compares with tells runs apart: a number in the records, a state that is another step's.
  undisturbed, copy = tmp_path / "runs" / "undisturbed", tmp_path / "copy"
  shutil.copytree(undisturbed, copy)
  assert torture.difference(copy, undisturbed) is None
  records = copy / "metrics.jsonl"
  lines = records.read_text().splitlines()
  first = json.loads(lines[0])
  records.write_text("\n".join([json.dumps(first | {"train_loss": first["train_loss"] + 1e-7}), *lines[1:]]) + "\n")
  assert torture.difference(copy, undisturbed).startswith("records: 8 of 8")
  records.write_text("\n".join(lines[:-1]) + "\n")
  assert torture.difference(copy, undisturbed).startswith("records: 7 of 8")
  records.write_text("\n".join(lines) + "\n")
  shutil.rmtree(max((copy / "checkpoints").iterdir(), key=lambda path: int(path.name)))
  assert "arrays" in torture.difference(copy, undisturbed)


def test_a_folder_that_is_there_or_a_number_below_zero_is_refused(tmp_path):
  for flags, words in ((("--keep", tmp_path), "is there already"), (("--kills", "-1"), "must be at least 0")):
    done = run("experiments/torture.py", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
