"""train, and evaluate after it: start, kill, start again."""

import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import read_only
import traced_once
import wandb_files
from conftest import HANGS, ROOT, call, metrics, small_run, wait_for
from cut_off import Killed, cut_off
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dn_jax import experiment
from dn_jax.config.check import to_dict
from dn_jax.runs import records
from dn_jax.training.checkpoint import Checkpoints

# One convolution a layer: half of what the network of `small_run` takes to compile.
SMALLER = ("--model.depth", "7", "--model.bottleneck", "False")
FLAGS = (*SMALLER, "--data.augment", "--model.dropout", "0.1", "--data.validation", "100")
# Processes here compile as the tests' own does, so that the same numbers come out to the last bit, whoever goes on.
AS_HERE = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

traced_once = traced_once.traced_once


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  # Its name looks like an end of rich's markup.
  folder = tmp_path_factory.mktemp("runs") / "[" / "b]"
  done = call(*small_run(folder, *FLAGS))
  assert done.returncode == 0, done.stderr
  return folder, done.stdout


@pytest.mark.slow
def test_a_run_leaves_everything_and_ends_with_its_error(undisturbed):
  folder, printed = undisturbed
  names = {path.name for path in folder.iterdir()}
  records = {"config.json", "data.json", "summary.json", "metrics.jsonl", "results.csv"}
  assert names == records | {"curves.png", "checkpoints", "run.lock"}
  summary = json.loads((folder / "summary.json").read_text())
  assert printed.splitlines()[-1] == f"test error: {summary['test_error_percent']:.2f} %"
  lines = metrics(folder)
  assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
  assert lines[-1]["step"] == 4 * (1197 // 64)
  # A validation split was asked for, so the best network on it is the reported one.
  best = min(lines, key=lambda line: line["valid_error"])
  assert (summary["reported"], summary["reported_epoch"]) == ("best", best["epoch"])
  assert summary["test_error_percent"] == pytest.approx(100 * best["test_error"])
  assert {"jax", "flax", "optax", "dn_jax"} <= set(summary["versions"])
  assert summary["images_per_second"] > 0
  with (folder / "results.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [float(row["test_error"]) for row in rows] == [line["test_error"] for line in lines]
  assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_finished_run_is_not_done_again(undisturbed):
  folder, printed = undisturbed
  again = call(*small_run(folder, *FLAGS))
  assert again.returncode == 0
  assert "this run is finished" in again.stdout
  assert again.stdout.splitlines()[-1] == printed.splitlines()[-1]


def final_state(folder):
  """All arrays of a run's newest checkpoint."""
  import orbax.checkpoint as ocp

  step = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
  with ocp.CheckpointManager(folder / "checkpoints", options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
    import jax

    return jax.tree.leaves(manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"])


def same(folder, undisturbed):
  """That a run has come to what the undisturbed one has, bit for bit."""
  assert metrics(folder) == metrics(undisturbed)
  for a, b in zip(final_state(folder), final_state(undisturbed), strict=True):
    assert np.array_equal(a, b)


@pytest.mark.thorough
def test_a_run_cut_off_before_its_first_checkpoint_sets_its_records_aside_and_starts_again(
  undisturbed, tmp_path, monkeypatch
):
  def save(*_):
    raise Killed

  monkeypatch.setattr(Checkpoints, "save", save)
  with pytest.raises(Killed):
    call(*small_run(tmp_path / "run", *FLAGS))
  monkeypatch.undo()
  assert len(metrics(tmp_path / "run")) == 1
  again = call(*small_run(tmp_path / "run", *FLAGS))
  assert again.returncode == 0, again.stderr
  assert "no whole checkpoint: starting again; the records of 1 epochs are in" in " ".join(again.stdout.split())
  same(tmp_path / "run", undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("step", "flags", "going_on"),
  [
    pytest.param(40, (), "going on after epoch 2, from the checkpoint of step 36", marks=pytest.mark.thorough),
    # An epoch has 18 steps.
    (28, ("--checkpoint.every-steps", "12"), "going on after epoch 1 and 6 steps, from the checkpoint of step 24"),
  ],
)
def test_a_run_that_is_cut_off_ends_bit_for_bit_as_an_undisturbed_one(undisturbed, tmp_path, step, flags, going_on):
  cut_off(lambda: call(*small_run(tmp_path / "run", *FLAGS, *flags)), step)
  again = call(*small_run(tmp_path / "run", *FLAGS, *flags))
  assert again.returncode == 0, again.stderr
  assert going_on in " ".join(again.stdout.split())
  same(tmp_path / "run", undisturbed[0])


@pytest.mark.slow
def test_a_process_that_is_told_to_stop_and_one_that_is_killed_go_on_to_what_an_undisturbed_run_leaves(
  undisturbed, tmp_path
):
  folder, printed = undisturbed
  out, command = tmp_path / "run", small_run(tmp_path / "run", *FLAGS, "--checkpoint.every-steps", "12")

  def start():
    return subprocess.Popen(
      [sys.executable, *command],
      cwd=ROOT,
      text=True,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      env=os.environ | AS_HERE,
    )

  told = start()
  wait_for(out / "metrics.jsonl", told)
  told.terminate()
  _, stderr = told.communicate()
  step = stopped(told.returncode, stderr, out)
  # Of an epoch's 18 steps.
  mark = next(each for each in (24, 48, 60, 72) if each > int(step))
  killed = start()
  wait_for(out / "checkpoints" / str(mark) / "digests.json", killed)
  killed.kill()
  killed.communicate()
  assert killed.returncode == -signal.SIGKILL
  again = call(*command)
  assert again.returncode == 0, again.stderr
  said = " ".join(again.stdout.split())
  assert re.search(r"going on after epoch [1234]( and \d+ steps)?, from the checkpoint of step \d+", said)
  assert again.stdout.splitlines()[-1] == printed.splitlines()[-1]
  assert {path.name for path in folder.iterdir()} <= {path.name for path in out.iterdir()}
  same(out, folder)


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_an_epoch_and_changes_nothing(undisturbed, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(undisturbed[0], folder)
  (folder / "summary.json").unlink()
  newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
  victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
  victim.write_bytes(victim.read_bytes()[:100])
  again = call(*small_run(folder, *FLAGS))
  assert again.returncode == 0, again.stderr
  assert f"checkpoint of step {newest.name} is not used" in again.stdout
  assert "going on after epoch 3" in again.stdout
  same(folder, undisturbed[0])


def stopped(code, stderr, folder):
  """The step after which a run that was asked to has stopped."""
  assert code == 75
  said = re.fullmatch(r"stopped as asked, and saved after step (\d+); the same command goes on from there\n", stderr)
  assert said, stderr
  assert (folder / "checkpoints" / said[1] / "digests.json").exists()
  assert len(metrics(folder)) < 4
  return said[1]


@pytest.mark.slow
def test_ctrl_c_stops_a_run_at_the_next_step_and_it_goes_on(undisturbed, tmp_path, monkeypatch):
  folder, epoch = tmp_path / "run", experiment.Recorder.epoch

  def interrupted(self, record, state):
    epoch(self, record, state)
    os.kill(os.getpid(), signal.SIGINT)
    until = time.monotonic() + HANGS
    while not self.stopping():  # A thread hears of it.
      assert time.monotonic() < until
      time.sleep(0.001)

  with monkeypatch.context() as patch:
    patch.setattr(experiment.Recorder, "epoch", interrupted)
    done = call(*small_run(folder, *FLAGS))
  assert stopped(done.returncode, done.stderr, folder) == "19"
  again = call(*small_run(folder, *FLAGS))
  assert again.returncode == 0, again.stderr
  assert "going on after epoch 1 and 1 step, from the checkpoint of step 19" in " ".join(again.stdout.split())
  same(folder, undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("words", "nth", "step"),
  [
    # Each of these files is opened, then renamed; an epoch has 18 steps.
    ("digests.json.", 3, 18),
    pytest.param("metrics.jsonl.", 6, 36, marks=pytest.mark.thorough),
    pytest.param("summary.json.", 1, 72, marks=pytest.mark.thorough),
  ],
)
def test_a_disk_that_turns_read_only_ends_a_run_in_a_line_and_it_goes_on_from_the_newest_whole_checkpoint(
  undisturbed, tmp_path, words, nth, step
):
  folder = tmp_path / "run"
  with read_only.turning(folder, words, nth) as disk:
    done = call(*small_run(folder, *FLAGS))
  assert disk.is_read_only
  words = "Read-only file system; take another disk); once it can, the same command goes on"
  assert (done.returncode, done.stderr) == (2, f"error: {folder}: cannot be written ({words}\n")
  again = call(*small_run(folder, *FLAGS))
  assert again.returncode == 0, again.stderr
  assert f"from the checkpoint of step {step}\n" in again.stdout
  same(folder, undisturbed[0])


@pytest.mark.slow
def test_evaluate_agrees_with_the_record(undisturbed):
  folder, _ = undisturbed
  lines = metrics(folder)
  best = min(lines, key=lambda line: line["valid_error"])
  for flags, line in ((("--checkpoint", "last"), lines[-1]), (("--checkpoint", "best"), best), ((), best)):
    done = call("experiments/evaluate.py", folder, *flags)
    assert done.returncode == 0, done.stderr
    assert f"network of epoch {line['epoch']}\n" in done.stdout
    assert f"top-1 error: {100 * line['test_error']:.2f} %" in done.stdout
    assert f"top-5 error: {100 * line['test_top5_error']:.2f} %" in done.stdout
  done = call("experiments/evaluate.py", folder, "--split", "valid", "--checkpoint", "last", "--batch-size", "33")
  assert f"top-1 error: {100 * lines[-1]['valid_error']:.2f} %" in done.stdout
  assert "100 images" in done.stdout


@pytest.mark.slow
def test_the_error_of_each_class_is_printed_and_recorded_and_who_is_taken_for_whom_written(undisturbed, tmp_path):
  folder, printed = undisturbed
  summary = json.loads((folder / "summary.json").read_text())
  again = call(*small_run(folder, *FLAGS), "--confusion", tmp_path / "after")
  assert again.returncode == 0, again.stderr
  assert again.stdout.splitlines()[-3:-1] == [f"{tmp_path}/after.svg", f"{tmp_path}/after.csv"]
  done = call("experiments/evaluate.py", folder, "--confusion", tmp_path / "of.evaluate.csv", "--batch-size", "33")
  assert (tmp_path / "after.csv").read_text() == (tmp_path / "of.evaluate.csv").read_text()
  assert (tmp_path / "of.evaluate.svg").read_text().startswith("<?xml")
  matrix = np.array([row[1:] for row in csv.reader((tmp_path / "after.csv").open())][1:], int)
  # Of scikit-learn's digits 500 are tested, of each class its share.
  assert matrix.sum(axis=1).tolist() == np.bincount(load_digits().target[_tested()]).tolist()
  assert summary["test_error_percent"] == pytest.approx(100 - matrix.trace() / 5)
  errors = 100 - 100 * matrix.diagonal() / matrix.sum(axis=1)
  assert summary["test_class_errors_percent"] == [
    {"name": str(n), "error": pytest.approx(e)} for n, e in enumerate(errors)
  ]
  lines = ["error by class:", *(f"  {n}  {error:6.2f} %" for n, error in enumerate(errors))]
  for text in (printed, again.stdout, done.stdout):
    assert "\n".join(lines) in text


def _tested():
  return train_test_split(range(1797), test_size=500, stratify=load_digits().target, random_state=0)[1]


@pytest.mark.slow
def test_weighted_classes_are_part_of_what_a_run_is_and_are_no_part_of_its_errors(undisturbed, tmp_path):
  folder = tmp_path / "run"
  flags = ("--data.class-weights", "balanced", "--epochs", "1", "--optimizer.drops", "1.0")
  done = call(*small_run(folder, *FLAGS, *flags))
  assert done.returncode == 0, done.stderr
  assert re.search(r"^class weights: from 0\.9\d+ \(\d\) to 1\.0\d+ \(\d\)$", done.stdout, re.MULTILINE)
  assert json.loads((folder / "config.json").read_text())["data"]["class_weights"] == "balanced"
  mine, theirs = metrics(folder)[0], metrics(undisturbed[0])[0]
  assert mine["test_loss"] != theirs["test_loss"]
  done = call(*small_run(undisturbed[0], *FLAGS, "--data.class-weights", "balanced"))
  assert done.returncode == 2
  assert "--data.class-weights: (absent) -> balanced" in done.stderr


@pytest.mark.slow
@pytest.mark.thorough
def test_a_dispatch_of_many_steps_leaves_the_same_metrics(undisturbed, tmp_path):
  folder = tmp_path / "run"
  flags = ("--steps-per-dispatch", "7", "--model.remat", "none", "--epochs", "1", "--optimizer.drops", "1.0")
  done = call(*small_run(folder, *FLAGS, *flags))
  assert done.returncode == 0, done.stderr
  mine, theirs = metrics(folder)[0], metrics(undisturbed[0])[0]
  assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)  # Another order of rounding, amplified.


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
  """The undisturbed run once more, with all there is to look into it."""
  folder = tmp_path_factory.mktemp("watched") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("WANDB_CACHE_DIR", str(folder.parent))
    done = call(*small_run(folder, *FLAGS, "--profile", "--tensorboard", "--wandb", "nets"))
  assert done.returncode == 0, done.stderr
  return folder


@pytest.mark.slow
def test_a_profile_opens_and_training_is_the_same_with_it(undisturbed, watched):
  same(watched, undisturbed[0])
  (trace,) = (watched / "profile").rglob("perfetto_trace.json.gz")
  assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
  assert list((watched / "profile").rglob("*.xplane.pb"))


def test_tensorboard_events_are_written_on_request(undisturbed, watched):
  events = list((watched / "tensorboard").glob("events.out.tfevents.*"))
  assert len(events) == 1
  assert b"test_error" in events[0].read_bytes()
  assert not (undisturbed[0] / "tensorboard").exists()


def test_weights_and_biases_has_a_runs_epochs_configuration_summary_and_figure(undisturbed, watched):
  (left,) = (watched / "wandb").glob("offline-run-*")
  found, summary = wandb_files.read(left), json.loads((watched / "summary.json").read_text())
  lines = {line["step"]: line for line in metrics(watched)}
  assert list(found["rows"]) == [*lines, 1 + max(lines)]  # The last one is the figure's.
  for step, line in lines.items():
    numbers = {name: value for name, value in line.items() if isinstance(value, float)}
    assert {name: found["rows"][step][name] for name in numbers} == numbers
  assert {**found["config"], "_wandb": 0} == {**to_dict(records.read_config(watched)), "_wandb": 0}
  assert found["summary"].items() >= {name: summary[name] for name in ("test_error_percent", "flops", "commit")}.items()
  assert (left / "files" / found["summary"]["curves/path"]).read_bytes() == (watched / "curves.png").read_bytes()
  assert (found["project"], found["exit"]) == ("nets", 0)
  assert not (undisturbed[0] / "wandb").exists()


def test_another_configuration_in_the_same_folder_is_refused_with_the_difference(undisturbed):
  folder, _ = undisturbed
  before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  done = call(*small_run(folder, "--seed", "1"))
  assert done.returncode == 2
  assert "--seed: 0 -> 1" in done.stderr
  assert "--data.augment: True -> False" in done.stderr
  assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_started_under_another_remat_policy_keeps_its_record(undisturbed):
  folder, _ = undisturbed
  before = (folder / "config.json").read_bytes()
  assert call(*small_run(folder, *FLAGS, "--model.remat", "none")).returncode == 0
  assert (folder / "config.json").read_bytes() == before


def test_evaluate_refuses_what_is_no_run(tmp_path, undisturbed):
  done = call("experiments/evaluate.py", tmp_path)
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "holds no run" in done.stderr
  shutil.copytree(undisturbed[0], tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "checkpoints")
  done = call("experiments/evaluate.py", tmp_path / "run")
  assert done.returncode == 2
  assert "no whole checkpoint" in done.stderr
