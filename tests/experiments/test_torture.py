"""The torture script tortures, and would see a run that was lost."""

import contextlib
import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys

import jax
import pytest
import rich.console
import traced_once
import untrained
from conftest import ROOT, call

from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.runs.records import CHECKPOINTS, read_records, write_records
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.step import TrainState

sys.path.insert(0, str(ROOT / "experiments"))

import torture
from torturing import comparing, places, runs, started
from torturing.faults import FAULTS, Fault

traced_once = traced_once.traced_once


# Of XLA, on a busy machine.
ALARM = (
  f"E1130 07:53:19.148026   20806 slow_operation_alarm.cc:74] \n{'*' * 32}\n[Compiling module a for CPU] Very "
  f"slow compile?\n{'*' * 32}\nE1130 07:55:49.010918   20401 slow_operation_alarm.cc:141] The operation took 4m\n"
)
# Of each way to disturb a run one, for each kind of run that this process can take to its end.
SAMPLE = {
  "run": ("SIGKILL", "killed-at-seal", "file-truncated", "folder-deleted", "second-run", "no-inodes"),
  "streamed": ("records-cut-short", "folder-renamed", "read-only"),
}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("kind", SAMPLE)
def test_no_run_of_a_sample_of_the_faults_is_lost(tmp_path, capsys, monkeypatch, kind):
  # What is disturbed is a process; it compiles as this one does, which takes runs to their ends.
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  monkeypatch.setenv("COLUMNS", "500")

  def finish(victim):
    newest = victim.whole()
    done = call(*victim.kind.commands(victim.out)[0])
    started.check_words(done.returncode, done.stdout, done.stderr, (0,))
    if "this run is finished" not in done.stdout:
      runs.check_begun(done.stdout, newest["run"])

  monkeypatch.setattr(runs, "finish", finish)
  with pytest.raises(SystemExit) as end:
    torture.torture(1, 1, SAMPLE[kind], (kind,), 5, tmp_path / "found.json", tmp_path / "runs")
  printed = capsys.readouterr().out
  assert end.value.code == 0, printed
  found = json.loads((tmp_path / "found.json").read_text())
  assert found["lost"] == []
  assert found["compared"] >= 1
  assert set(found["faults"]) | set(found["left_out"]) == {f"{name}, {kind}" for name in SAMPLE[kind]}
  assert all("user namespace" in why or "unshare" in why for why in found["left_out"].values())
  assert f"faults tried: {sum(found['faults'].values())}" in printed
  assert printed.splitlines()[-1].endswith("runs lost: 0")


def test_every_fault_comes_so_often_and_signals_so_many_times():
  found = torture.drawn(30, 2, tuple(FAULTS), tuple(runs.KINDS), random.Random(0))
  counted = {(name, kind): found[kind].count(name) for kind in found for name in FAULTS}
  signals = [name for name in FAULTS if name.startswith("SIG")]
  assert sum(counted[name, kind] for name in signals for kind in found) == 30
  others = {pair: times for pair, times in counted.items() if pair[0] not in signals}
  assert {pair for pair, times in others.items() if times} == {
    (name, kind) for name in set(FAULTS) - set(signals) for kind in ("run", "streamed")
  }
  assert set(others.values()) == {0, 2}


def test_a_fault_that_is_not_allowed_is_left_out_and_one_that_a_run_does_not_survive_is_counted(tmp_path, monkeypatch):
  def refused(victim):
    raise places.LeftOut("no namespaces")

  def lost(victim):
    raise started.Mistake("exit code 1")

  for name, happens in (("read-only", refused), ("no-inodes", lost)):
    monkeypatch.setitem(FAULTS, name, Fault(happens))
  tally = torture.Tally(rich.console.Console(quiet=True))
  victim = runs.Victim(runs.KINDS["run"], tmp_path / "victim", random.Random(0), 6)
  torture.tortured(victim, "run", ["no-inodes", "read-only", "read-only"], victim, tally)
  assert tally.left_out == {("read-only", "run"): "no namespaces"}
  assert dict(tally.faults) == {("no-inodes", "run"): 1}
  assert tally.lost == [f"{tmp_path / 'victim'}: exit code 1"]


@pytest.mark.parametrize(
  ("code", "said", "mistakes", "words"),
  [
    (1, "", "error: a\n", "exit code 1"),
    (2, "", "Traceback (most recent call last):\nerror: a\n", "after a traceback"),
    (0, "Traceback (most recent call last):\n", "", "after a traceback"),
    (2, "", "b\nerror: a\n", "after 2 lines"),
    (2, "", "a\n", "after 1 lines"),
    (75, "", "", "without a word"),
    (2, "epoch 1\n", "error: a\n", None),
    (2, "", f"{ALARM}error: a\n", None),
    (75, "", ALARM, "without a word"),
    (0, "epoch 1\n", "", None),
  ],
)
def test_an_end_is_one_line_and_an_allowed_code(code, said, mistakes, words):
  with pytest.raises(started.Mistake, match=words) if words else contextlib.nullcontext():
    started.check_words(code, said, mistakes, (0, 2, 75))


def test_where_a_run_goes_on_is_told_from_where_it_should():
  said = "going on after epoch 1, from the checkpoint of step 1,018\n"
  runs.check_begun(said, 1018)
  runs.check_begun("epoch 1/6\n", None)
  for other, step in ((said, 1000), (said, None), ("epoch 1/6\n", 1018)):
    with pytest.raises(started.Mistake, match=f"of step {step}"):
      runs.check_begun(other, step)


def test_a_script_is_killed_before_the_nth_time(tmp_path):
  (tmp_path / "script.py").write_text("import os\nfor n in range(3):\n  os.rename(f'a{n}', f'a{n + 1}')\n")
  (tmp_path / "a0").touch()
  command = [sys.executable, ROOT / "experiments/torturing/killed_at.py", "os.rename", "a", "3", "script.py"]
  assert subprocess.run(command, cwd=tmp_path, check=False).returncode == -signal.SIGKILL
  assert [path.name for path in tmp_path.glob("a*")] == ["a2"]


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
  assert comparing.difference(copy, undisturbed) is None
  # A number in the records, one that is missing, times alone.
  for changed, said in (
    ([dataclasses.replace(records[0], train_loss=records[0].train_loss + 1e-7), *records[1:]], "records: 8 of 8"),
    (records[:-1], "records: 7 of 8"),
    ([dataclasses.replace(record, seconds=9.0) for record in records], None),
  ):
    write_records(copy, changed)
    found = comparing.difference(copy, undisturbed)
    assert found == said or found.startswith(said)
  (copy / "results.csv").write_text((copy / "results.csv").read_text()[:-2])
  assert comparing.difference(copy, undisturbed) == "results.csv"
  write_records(copy, records)
  # A state that is another step's: its number, parameters, statistics and momentum.
  shutil.rmtree(copy / "checkpoints" / "80")
  assert comparing.difference(copy, undisturbed).startswith("4 of ")


def test_a_folder_that_is_there_or_a_number_below_zero_is_refused(tmp_path):
  for flags, words in (
    (("--keep", tmp_path), "is there already"),
    (("--kills", "-1"), "must be at least 0"),
    (("--faults", "inodes"), "did you mean no-inodes?"),
    (("--runs", "tow"), "did you mean two?"),
  ):
    done = call("experiments/torture.py", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
