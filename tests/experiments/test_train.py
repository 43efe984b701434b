"""The scripts as a person runs them: start, kill, start again, mistype."""

import csv
import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, metrics, run, small_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  # Its name looks like an end of rich's markup.
  folder = tmp_path_factory.mktemp("runs") / "[" / "b]"
  done = run(*small_run(folder, "--data.augment", "--model.dropout", "0.1", "--data.validation", "100"))
  assert done.returncode == 0, done.stderr
  return folder, done.stdout


def test_a_run_leaves_everything_and_ends_with_its_error(undisturbed):
  folder, printed = undisturbed
  names = {path.name for path in folder.iterdir()}
  records = {"config.json", "data.json", "summary.json", "metrics.jsonl", "results.csv"}
  assert names == records | {"curves.png", "checkpoints"}
  summary = json.loads((folder / "summary.json").read_text())
  assert printed.splitlines()[-1] == f"test error: {summary['test_error']:.2f} %"
  lines = metrics(folder)
  assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
  assert lines[-1]["step"] == 4 * (1197 // 64)
  # A validation split was asked for, so the best network on it is the reported one.
  best = min(lines, key=lambda line: line["valid_error"])
  assert (summary["reported"], summary["reported_epoch"]) == ("best", best["epoch"])
  assert summary["test_error"] == pytest.approx(100 * best["test_error"])
  assert {"jax", "flax", "optax", "dn_jax"} <= set(summary["versions"])
  assert summary["images_per_second"] > 0
  with (folder / "results.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [float(row["test_error"]) for row in rows] == [line["test_error"] for line in lines]
  assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_finished_run_is_not_done_again(undisturbed):
  folder, printed = undisturbed
  again = run(*small_run(folder, "--data.augment", "--model.dropout", "0.1", "--data.validation", "100"))
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


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", ["metrics.jsonl", "checkpoints/36"])
def test_a_killed_run_ends_bit_for_bit_as_an_undisturbed_one(undisturbed, tmp_path, kill_after):
  folder = tmp_path / "killed"
  command = small_run(folder, "--data.augment", "--model.dropout", "0.1", "--data.validation", "100")
  process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
  while not (folder / kill_after).exists():
    assert process.poll() is None
    time.sleep(0.01)
  process.kill()
  process.wait()
  again = run(*command)
  assert again.returncode == 0, again.stderr
  assert metrics(folder) == metrics(undisturbed[0])
  for a, b in zip(final_state(folder), final_state(undisturbed[0]), strict=True):
    assert np.array_equal(a, b)


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_an_epoch_and_changes_nothing(undisturbed, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(undisturbed[0], folder)
  (folder / "summary.json").unlink()
  newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
  victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
  victim.write_bytes(victim.read_bytes()[:100])
  again = run(*small_run(folder, "--data.augment", "--model.dropout", "0.1", "--data.validation", "100"))
  assert again.returncode == 0, again.stderr
  assert f"checkpoint of step {newest.name} is not used" in again.stdout
  assert "going on after epoch 3" in again.stdout
  assert metrics(folder) == metrics(undisturbed[0])
  for a, b in zip(final_state(folder), final_state(undisturbed[0]), strict=True):
    assert np.array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_between_steps_and_it_goes_on(undisturbed, tmp_path, number):
  folder = tmp_path / "run"
  command = small_run(folder, "--data.augment", "--model.dropout", "0.1", "--data.validation", "100")
  process = subprocess.Popen(
    [sys.executable, *command], cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
  )
  while not (folder / "metrics.jsonl").exists():
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(number)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 75
  stopped = re.fullmatch(r"stopped as asked, and saved after step (\d+); the same command goes on from there\n", stderr)
  assert stopped, stderr
  assert (folder / "checkpoints" / stopped[1] / "digests.json").exists()
  assert len(metrics(folder)) < 4
  again = run(*command)
  assert again.returncode == 0, again.stderr
  assert f"from the checkpoint of step {stopped[1]}" in again.stdout
  assert metrics(folder) == metrics(undisturbed[0])
  for a, b in zip(final_state(folder), final_state(undisturbed[0]), strict=True):
    assert np.array_equal(a, b)


@pytest.mark.slow
def test_a_run_killed_within_an_epoch_goes_on_within_it(undisturbed, tmp_path):
  folder = tmp_path / "killed"
  flags = ("--data.augment", "--model.dropout", "0.1", "--data.validation", "100", "--checkpoint.every-steps", "5")
  process = subprocess.Popen([sys.executable, *small_run(folder, *flags)], cwd=ROOT, stdout=subprocess.DEVNULL)
  while not (folder / "checkpoints" / "25" / "digests.json").exists():  # An epoch has 19 steps.
    assert process.poll() is None
    time.sleep(0.01)
  process.kill()
  process.wait()
  again = run(*small_run(folder, *flags))
  assert again.returncode == 0, again.stderr
  assert re.search(r"going on after epoch [123] and \d+ steps, from the checkpoint of step \d*[05]\n", again.stdout)
  assert metrics(folder) == metrics(undisturbed[0])
  for a, b in zip(final_state(folder), final_state(undisturbed[0]), strict=True):
    assert np.array_equal(a, b)


def test_evaluate_agrees_with_the_record(undisturbed):
  folder, _ = undisturbed
  lines = metrics(folder)
  best = min(lines, key=lambda line: line["valid_error"])
  for flags, line in ((("--checkpoint", "last"), lines[-1]), (("--checkpoint", "best"), best), ((), best)):
    done = run("experiments/evaluate.py", folder, *flags)
    assert done.returncode == 0, done.stderr
    assert f"network of epoch {line['epoch']}\n" in done.stdout
    assert f"top-1 error: {100 * line['test_error']:.2f} %" in done.stdout
    assert f"top-5 error: {100 * line['test_top5_error']:.2f} %" in done.stdout
  done = run("experiments/evaluate.py", folder, "--split", "valid", "--checkpoint", "last", "--batch-size", "33")
  assert f"top-1 error: {100 * lines[-1]['valid_error']:.2f} %" in done.stdout
  assert "100 pictures" in done.stdout


def test_a_dispatch_of_many_steps_leaves_the_same_metrics(undisturbed, tmp_path):
  folder = tmp_path / "run"
  done = run(
    *small_run(
      folder,
      "--data.augment",
      "--model.dropout",
      "0.1",
      "--data.validation",
      "100",
      "--steps-per-dispatch",
      "7",
      "--model.remat",
      "none",
      "--epochs",
      "1",
      "--optimizer.drops",
      "1.0",
    )
  )
  assert done.returncode == 0, done.stderr
  mine, theirs = metrics(folder)[0], metrics(undisturbed[0])[0]
  assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)  # Another order of rounding, amplified.


def test_tensorboard_events_are_written_on_request(tmp_path):
  done = run(*small_run(tmp_path / "run", "--epochs", "1", "--tensorboard"))
  assert done.returncode == 0, done.stderr
  events = list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))
  assert len(events) == 1
  assert b"test_error" in events[0].read_bytes()


# What a person mistypes, and a part of the one line that answers.
MISTAKES = [
  (
    ["--model.depth", "41"],
    "--model.depth 41: 3 equal blocks with bottlenecks need depth = 4 + 6 * n; the nearest are 40 and 46",
  ),
  (["--model.growth-rate", "0"], "--model.growth-rate 0: must be at least 1"),
  (["--model.name", "densenet-bc-100-13"], "--model.name densenet-bc-100-13: did you mean densenet-bc-100-12"),
  (["--model.stem", "imagenet", "--model.depth", "13"], "pictures of 8x8 pixels shrink to nothing"),
  (["--data.name", "cifar11"], "--data.name cifar11: did you mean cifar10"),
  (["--data.name", "cifar10", "--data.dir", "setup.cfg"], "--data.dir setup.cfg: is not a folder"),
  (["--data.name", "cifar10", "--data.dir", "tests"], "is not prepared in tests; to get it: pip install"),
  (["--data.validation", "1297"], "--data.validation 1297: digits has 1297 training pictures"),
  (["--batch-size", "1298"], "--batch-size 1298: there are 1297 training pictures"),
  (["--batch-size", "-1"], "--batch-size -1: must be at least 1"),
  (["--epochs", "0"], "--epochs 0: must be at least 1"),
  (["--seed", "-1"], "--seed -1: must be at least 0"),
  (["--optimizer.learning-rate", "-0.1"], "--optimizer.learning-rate -0.1: must be above 0"),
  (["--optimizer.learning-rate", "nan"], "--optimizer.learning-rate nan: must be above 0"),
  (["--optimizer.drops", "0.5", "1.5"], "--optimizer.drops"),
  (["--report", "best"], "--report best: needs held-out pictures; give --data.validation"),
  (["--checkpoint.keep", "1"], "--checkpoint.keep 1: must be at least 2"),
  (["--model.stem", "imagenet", "--model.depth", "12"], "--model.depth 12: 4 equal blocks with bottlenecks need depth"),
  (["--model.blocks", "1", "1", "1", "1"], "give --model.depth or --model.blocks, not both"),
  (["--out", "setup.cfg"], "--out setup.cfg: is not a run's folder"),
  (["--out", "tests"], "--out tests: is not a run's folder, and not empty"),
  (["--out", "setup.cfg/run"], "--out setup.cfg/run: cannot be written"),
]


@pytest.mark.parametrize(("flags", "answer"), MISTAKES, ids=[" ".join(flags) for flags, _ in MISTAKES])
def test_a_mistake_gets_one_line_and_exit_code_2(flags, answer, tmp_path):
  folder = tmp_path / "run"
  done = run(*small_run(folder, *flags))
  assert done.returncode == 2
  assert done.stderr.startswith("error: ")
  assert answer in done.stderr
  assert done.stderr.count("\n") == 1
  assert not folder.exists()


def test_a_last_batch_of_one_picture_and_one_pixel_is_refused(tmp_path):
  flags = ["--model.blocks", "1", "1", "1", "1", "--batch-size", "48", "--last-batch", "keep"]
  done = run("experiments/train.py", "--data.name", "digits", *flags, "--out", tmp_path / "run")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "--last-batch keep: the last batch has 1 picture; the last block would normalise over" in done.stderr
  assert not (tmp_path / "run").exists()


def test_an_unknown_flag_or_word_gets_exit_code_2():
  for flags in (["--model.dept", "40"], ["--model.dtype", "float16"], ["--epochs", "many"]):
    done = run("experiments/train.py", *flags)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_another_configuration_in_the_same_folder_is_refused_with_the_difference(undisturbed):
  folder, _ = undisturbed
  before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  done = run(*small_run(folder, "--seed", "1"))
  assert done.returncode == 2
  assert "--seed: 0 -> 1" in done.stderr
  assert "--data.augment: True -> False" in done.stderr
  assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_started_under_another_remat_policy_keeps_its_record(undisturbed):
  folder, _ = undisturbed
  before = (folder / "config.json").read_bytes()
  flags = ["--data.augment", "--model.dropout", "0.1", "--data.validation", "100", "--model.remat", "none"]
  assert run(*small_run(folder, *flags)).returncode == 0
  assert (folder / "config.json").read_bytes() == before


def test_evaluate_refuses_a_batch_of_nothing(undisturbed):
  for size in ("0", "-1"):
    done = run("experiments/evaluate.py", undisturbed[0], "--batch-size", size)
    assert (done.returncode, done.stderr) == (2, f"error: --batch-size {size}: must be at least 1\n")


def test_evaluate_refuses_what_is_no_run(tmp_path, undisturbed):
  done = run("experiments/evaluate.py", tmp_path)
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "not a run's folder" in done.stderr
  shutil.copytree(undisturbed[0], tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "checkpoints")
  done = run("experiments/evaluate.py", tmp_path / "run")
  assert done.returncode == 2
  assert "no whole checkpoint" in done.stderr


def test_a_loss_that_explodes_stops_the_run_in_one_line(tmp_path):
  folder = tmp_path / "run"
  done = run(*small_run(folder, "--optimizer.learning-rate", "1e30"))
  assert done.returncode == 2
  assert done.stderr.startswith("error: the loss")
  assert "learning rate" in done.stderr
  assert done.stderr.count("\n") == 1
  assert not (folder / "summary.json").exists()


def test_a_network_that_breaks_in_an_epochs_last_step_is_noticed_and_not_saved(tmp_path):
  folder = tmp_path / "run"
  one_step = ["--batch-size", "1297", "--optimizer.learning-rate", "1e30", "--epochs", "1"]
  done = run(*small_run(folder, *one_step))
  assert done.returncode == 2
  assert "error: the loss on the test pictures is" in done.stderr
  assert list((folder / "checkpoints").iterdir()) == []


def test_prepare_without_tensorflow_or_with_digits_is_one_line():
  done = run("experiments/prepare.py", "--data.name", "digits")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "ships with scikit-learn" in done.stderr


def test_a_profile_opens_and_training_is_the_same_with_it(undisturbed, tmp_path):
  flags = ["--data.augment", "--model.dropout", "0.1", "--data.validation", "100", "--profile"]
  done = run(*small_run(tmp_path / "run", *flags))
  assert done.returncode == 0, done.stderr
  assert metrics(tmp_path / "run") == metrics(undisturbed[0])
  (trace,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
  assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
  assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_debug_nans_stops_where_one_is_made(tmp_path):
  done = run(*small_run(tmp_path / "run", "--debug-nans", "--optimizer.learning-rate", "1e30"))
  assert done.returncode == 1
  assert "FloatingPointError: invalid value (nan)" in done.stderr
