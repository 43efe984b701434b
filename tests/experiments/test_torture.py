"""The torture script tortures, and would see a run that was lost."""

import dataclasses
import json
import shutil
import sys

import jax
import pytest
import traced_once
import untrained
from conftest import ROOT, call

from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.runs.records import CHECKPOINTS, read_records, write_records
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.step import TrainState

sys.path.insert(0, str(ROOT / "experiments"))

import torture

traced_once = traced_once.traced_once


@pytest.mark.slow
@pytest.mark.thorough
def test_no_run_of_a_few_kills_and_all_damage_is_lost(tmp_path, capsys, monkeypatch):
  # What is killed, or runs out of disk, is a process; it compiles as this one does, which takes runs to their ends.
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

  def finish(folder):
    done = call("experiments/train.py", *torture.FLAGS, "--out", folder)
    return None if done.returncode == 0 else done.stderr

  monkeypatch.setattr(torture, "finish", finish)
  monkeypatch.setattr(torture, "DISKS", torture.DISKS[:1])
  with pytest.raises(SystemExit) as end:
    torture.torture(kills=4, seed=5, json_path=tmp_path / "found.json", keep=tmp_path / "runs")
  printed = capsys.readouterr().out
  assert end.value.code == 0, printed
  found = json.loads((tmp_path / "found.json").read_text())
  assert found["lost"] == []
  assert found["compared"] >= 4
  assert set(torture.DAMAGE) <= set(found["faults"])
  assert sum(times for kind, times in found["faults"].items() if kind.startswith("SIG")) >= 3
  assert f"faults tried: {sum(found['faults'].values())}, " in printed
  assert printed.splitlines()[-1].endswith("runs lost: 0")


def test_what_runs_are_compared_by_tells_them_apart(tmp_path):
  config = RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), epochs=8)
  undisturbed, copy = untrained.run(tmp_path / "runs", config, 5.0), tmp_path / "copy"
  records = read_records(undisturbed)
  with Checkpoints(undisturbed / CHECKPOINTS, 3, pytest.fail) as checkpoints:
    for n in (7, 8):
      a, b, c = ({"kernel": jax.numpy.full((3, 2), scale * n)} for scale in (1.0, 2.0, 3.0))
      state = TrainState(step=jax.numpy.int32(10 * n), params=a, batch_stats=b, opt_state=c)
      checkpoints.save(10 * n, state, records[:n])
  shutil.copytree(undisturbed, copy)
  assert torture.difference(copy, undisturbed) is None
  # A number in the records, one that is missing, times alone.
  for changed, said in (
    ([dataclasses.replace(records[0], train_loss=records[0].train_loss + 1e-7), *records[1:]], "records: 8 of 8"),
    (records[:-1], "records: 7 of 8"),
    ([dataclasses.replace(record, seconds=9.0) for record in records], None),
  ):
    write_records(copy, changed)
    found = torture.difference(copy, undisturbed)
    assert found == said or found.startswith(said)
  (copy / "results.csv").write_text((copy / "results.csv").read_text()[:-2])
  assert torture.difference(copy, undisturbed) == "results.csv"
  write_records(copy, records)
  # A state that is another step's: its number, parameters, statistics and momentum.
  shutil.rmtree(copy / "checkpoints" / "80")
  assert torture.difference(copy, undisturbed).startswith("4 of ")


def test_a_folder_that_is_there_or_a_number_below_zero_is_refused(tmp_path):
  for flags, words in ((("--keep", tmp_path), "is there already"), (("--kills", "-1"), "must be at least 0")):
    done = call("experiments/torture.py", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
