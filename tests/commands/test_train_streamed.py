"""Training on a folder of pictures as a person runs it."""

import json
import os
import signal
import subprocess
import sys

import pytest
import traced_once
from conftest import HANGS, ROOT, call, metrics, run, wait_for
from cut_off import cut_off
from photographs import halves

from dn_jax.report import protocol_words
from dn_jax.runs import records

traced_once = traced_once.traced_once


def command(folder, out, *flags, network=("--model.depth", "10")):
  return [
    *("experiments/train.py", "--data.name", "folder", "--data.dir", str(folder), "--data.size", "16"),
    *("--data.augment", *network, "--model.growth-rate", "4", "--epochs", "3", "--batch-size", "8"),
    *("--out", str(out), *flags),
  ]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
  return halves(tmp_path_factory.mktemp("photographs"), each=16)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, photographs):
  folder = tmp_path_factory.mktemp("streamed") / "run"
  done = call(*command(photographs, folder))
  assert done.returncode == 0, done.stderr
  return folder, done


@pytest.mark.slow
def test_a_run_on_a_folder_leaves_what_every_run_leaves_and_is_evaluated(undisturbed):
  folder, done = undisturbed
  assert "protocol: densenet's for ImageNet (densenet has none of its own for folder)" in " ".join(done.stdout.split())
  assert "48 training images, 3 epochs of 6 steps" in " ".join(done.stdout.split())
  assert "(waiting for them " in done.stdout
  config = json.loads((folder / "config.json").read_text())
  assert (config["data"]["size"], config["data"]["resize"], config["batch_size"]) == (16, 18, 8)
  assert [each["name"] for each in json.loads((folder / "data.json").read_text())["classes"]] == ["cat", "dog", "owl"]
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert all(0 < line["waiting_seconds"] < line["seconds"] for line in lines)
  table = [line.replace("┃", "│").split("│") for line in done.stdout.splitlines() if "┃" in line or "│" in line]
  cells = [[cell.strip() for cell in line] for line in table]
  # Of three classes no top-5 error is printed or recorded.
  assert "top-5" not in cells[0]
  assert not any("test_top5_error" in line for line in lines)
  summary = json.loads((folder / "summary.json").read_text())
  assert "test_top5_error_percent" not in summary
  evaluated = call("experiments/evaluate.py", folder)
  assert f"top-1 error: {100 * lines[-1]['test_error']:.2f} %" in evaluated.stdout, evaluated.stderr
  assert "top-5" not in evaluated.stdout
  errors = [(each["name"], each["error"]) for each in summary["test_class_errors_percent"]]
  said = "error by class:\n" + "".join(f"  {name}  {error:6.2f} %\n" for name, error in errors)
  assert [name for name, _ in errors] == ["cat", "dog", "owl"]
  assert said in done.stdout
  assert said in evaluated.stdout
  assert sum(error for _, error in errors) / 3 == pytest.approx(summary["test_error_percent"])  # Classes are as large.
  # Read back, as reports do.
  report = call("experiments/report.py", folder.parent)
  assert report.returncode == 0, report.stderr
  assert "crops of random area and aspect" in protocol_words.text(records.read_config(folder))


@pytest.mark.slow
def test_a_run_cut_off_within_an_epoch_goes_on_with_the_next_picture(photographs, undisturbed, tmp_path):
  flags = command(photographs, tmp_path / "run", "--checkpoint.every-steps", "9")
  cut_off(lambda: call(*flags), 11)
  again = call(*flags)
  assert again.returncode == 0, again.stderr
  # An epoch has 6 steps.
  assert "going on after epoch 1 and 3 steps, from the checkpoint of step 9" in " ".join(again.stdout.split())
  assert metrics(tmp_path / "run") == metrics(undisturbed[0])


@pytest.mark.slow
@pytest.mark.thorough
def test_a_process_with_workers_that_is_killed_within_an_epoch_leaves_none_and_goes_on(
  photographs, undisturbed, tmp_path
):
  out = tmp_path / "run"
  flags = command(photographs, out, "--checkpoint.every-steps", "1", "--data.workers", "2")
  process = subprocess.Popen(
    [sys.executable, *flags],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    # What compiles as this process does comes to the same numbers.
    env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
  )
  wait_for(out / "checkpoints" / "9", process)
  children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
  process.send_signal(signal.SIGKILL)
  process.wait()
  again = run(*flags, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
  assert again.returncode == 0, again.stderr
  assert "going on after epoch" in again.stdout
  assert metrics(out) == metrics(undisturbed[0])
  assert "leaked" not in again.stderr
  for line in children.stdout.split():  # Its workers ended with it.
    assert not os.path.exists(f"/proc/{line}")


@pytest.mark.slow
@pytest.mark.thorough
def test_ctrl_c_which_reaches_the_workers_too_saves_and_stops(photographs, tmp_path):
  out = tmp_path / "run"
  flags = command(photographs, out, "--data.workers", "2", "--epochs", "3000")
  process = subprocess.Popen(
    [sys.executable, *flags],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  wait_for(out / "metrics.jsonl", process)
  os.killpg(process.pid, signal.SIGINT)
  _, said = process.communicate(timeout=HANGS)
  assert process.returncode == 75
  assert "stopped as asked, and saved after step" in said
  assert "Traceback" not in said
  assert "leaked" not in said


@pytest.mark.slow
@pytest.mark.thorough
def test_a_run_is_the_same_on_four_devices(photographs, undisturbed, tmp_path, eight_devices):
  for name, count in (("one", 1), ("four", 4)):
    flags = ("--statistics-groups", "2", "--devices", str(count), "--model.remat", "none")
    done = eight_devices.call(*command(photographs, tmp_path / name, *flags))
    assert done.returncode == 0, done.stderr
  one, four = (metrics(tmp_path / name) for name in ("one", "four"))
  assert four[0]["train_loss"] == pytest.approx(one[0]["train_loss"], rel=1e-4)
  assert four[0]["test_loss"] == pytest.approx(one[0]["test_loss"], rel=1e-2)
  assert one[0]["train_loss"] != pytest.approx(metrics(undisturbed[0])[0]["train_loss"], rel=1e-4)


@pytest.mark.thorough
def test_bad_pictures_are_named_and_passed_over_and_too_many_stop_the_run(tmp_path):
  folder = halves(tmp_path / "photographs")
  (folder / "train" / "dog" / "3.jpg").write_text("a text file")
  network = ("--model.blocks", "1")
  done = call(*command(folder, tmp_path / "few", "--data.bad-share", "0.1", "--epochs", "1", network=network))
  assert done.returncode == 0, done.stderr
  assert done.stdout.replace("\n", "").count("dog/3.jpg: no image") == 1
  done = call(*command(folder, tmp_path / "many", "--epochs", "1", network=network))
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith("error: 1 of 24 images cannot be read, the last ")


@pytest.mark.parametrize(
  ("flags", "answer"),
  [
    (["--data.size", "0"], "--data.size 0: must be at least 1"),
    (["--data.size", "32", "--data.resize", "16"], "--data.resize 16: must be at least 32"),
    (["--data.workers", "-1"], "--data.workers -1: must be at least 0"),
    (["--data.bad-share", "1"], "--data.bad-share 1.0: at least 0, below 1"),
    (["--data.normalise", "pixel"], "--data.normalise pixel: images that are read one by one have no mean image"),
    (["--last-batch", "keep"], "--last-batch keep: batches that are read image by image have one size; take drop"),
    (["--parallel", "pmap"], "--parallel pmap: each device would need all images of a batch"),
    (["--steps-per-dispatch", "4"], "--steps-per-dispatch 4: images that are read one by one come a step at a time"),
    (["--batch-size", "64"], "--batch-size 64: there are 48 training images; at most that"),
    (["--data.dir", "/nowhere"], "--data.dir /nowhere: is not a folder"),
    (["--data.validation", "48"], "--data.validation 48: there are 48 training images"),
  ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(photographs, tmp_path, flags, answer):
  done = call(*command(photographs, tmp_path / "run", *flags))
  assert done.returncode == 2
  assert len(done.stderr.strip().splitlines()) == 1
  assert done.stderr.startswith(f"error: {answer}")
  assert not (tmp_path / "run").exists()
