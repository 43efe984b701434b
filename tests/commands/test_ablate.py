"""ablate as a person runs it."""

import csv
import json
import os
import subprocess
import sys
import time

import fabricated
import pytest
import stand_in
from conftest import HANGS, ROOT, call, metrics, run

from dn_jax.commands import ablate as command
from dn_jax.sweep import accelerators
from dn_jax.sweep import command as sweep_command
from dn_jax.sweep.accelerators import Accelerators

SMALL = ("--data.name", "digits", "--model.depth", "10", "--epochs", "1")


@pytest.fixture
def ablate(monkeypatch, capsys):
  """Runs the command here; returns its exit code and what it printed, out and err."""

  def call(*words):
    monkeypatch.setattr(sys, "argv", ["ablate.py", *map(str, words)])
    try:
      command.main()
      code = 0
    except SystemExit as stop:
      code = stop.code
    return code, *capsys.readouterr()

  return call


@pytest.mark.parametrize(
  ("words", "line"),
  [
    (
      ("--model.grwth-rate", "4"),
      "error: --model.grwth-rate 4: there is no such flag; did you mean --model.growth",
    ),
    (("--sedes", "3"), "error: --sedes 3: there is no such flag; did you mean --seeds or "),
    (("--model.growth-rate", "four"), "  --model.growth-rate four: takes a whole number"),
    (("--time-out", "0"), "error: --time-out 0.0: must be above 0"),
    (("--time-out", "nan"), "error: --time-out nan: must be above 0"),
    (("--seeds", "0"), "error: --seeds 0: must be at least 1"),
    (("--cell.cpus", "-1"), "error: --cell.cpus -1.0: must be at least 0"),
    (("--cell.tpus", "nan"), "error: --cell.tpus nan: must be at least 0"),
    (("--at-once", "0"), "error: --at-once 0: must be at least 1"),
    (("--at-once", "2000"), "error: --at-once 2000: must be at most 1,024"),
    (("--devices-per-run", "0"), "error: --devices-per-run 0: must be at least 1"),
    (
      ("--devices-per-run", "1", "--cluster", "local"),
      "error: --devices-per-run 1: divides this machine; with --cluster",
    ),
    (("--at-once", "9"), "error: --at-once 9: this machine has 8 x cpu, and each run takes 1; at most 8"),
    (("--cluster", "127.0.0.1:9"), "error: --cluster 127.0.0.1:9: cannot be reached (Connection refused)"),
    (("--cluster", "ray://h:1"), "error: --cluster ray://h:1: local, auto, or HOST:PORT"),
    (
      ("--out", "s3://bucket/x"),
      "error: --out s3://bucket/x: a folder of this machine is needed, or gs://BUCKET/FOLDER",
    ),
    (("--file", "/no/such"), "error: --file /no/such: cannot be read (No such file or directory)"),
  ],
)
def test_a_mistake_is_a_line_and_exit_code_2_and_nothing_is_written(ablate, tmp_path, monkeypatch, words, line):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(accelerators, "count", lambda: Accelerators("cpu", "cpu", 8))
  code, out, err = ablate(*SMALL, *words)
  assert code == 2
  assert [each for each in err.splitlines() if each.startswith(line)], err
  assert "Traceback" not in err + out
  assert list(tmp_path.iterdir()) == []


def test_every_depth_that_does_not_fit_is_listed(ablate, tmp_path):
  code, _, err = ablate(*SMALL[:2], "--model.depth", "10,11,12", "--out", tmp_path / "out")
  assert code == 2
  assert err.splitlines()[0] == "error: 2 of the values do not fit; nothing was started"
  assert [line.split(":")[0].strip() for line in err.splitlines()[1:]] == ["--model.depth 11", "--model.depth 12"]


def test_foreign_files_and_damaged_records_are_named_and_left_alone(ablate, tmp_path):
  fabricated.finished(tmp_path / "whole", fabricated.config(epochs=1))
  damaged = fabricated.finished(tmp_path / "damaged", fabricated.config(epochs=1, growth_rate=8))
  (damaged / "summary.json").write_text("{")
  (tmp_path / "notes.txt").write_text("mine")
  before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
  words = ("--out", tmp_path, "--model.growth-rate", "4,8", "--dry-run")
  code, out, err = ablate(*SMALL, *words)
  assert code == 0
  assert err.splitlines() == [
    f"skipped: {damaged / 'summary.json'}: cannot be read (no JSON: EOF while parsing an object at line 1 column 1)",
    f"skipped: {tmp_path / 'notes.txt'}: not a run's folder",
  ]
  assert f"2 runs, in {tmp_path}" in out.replace("\n", "")
  assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_sweep_does_what_is_missing_and_nothing_twice(ablate, tmp_path, monkeypatch):
  data, out = stand_in.prepare(tmp_path / "data"), tmp_path / "out"
  monkeypatch.setattr(sweep_command, "TRAIN", stand_in.TRAIN)
  command = (*SMALL, "--data.dir", data, "--out", out, "--seeds", "2")
  code, printed, err = ablate(*command, "--model.growth-rate", "4")
  assert code == 0, err
  began = lambda: (data / "events.txt").read_text().count(" began\n")
  assert began() == 2
  with (out / "report" / "table.csv").open() as file:
    (row,) = csv.DictReader(file)
  # A stand-in's error is 5 and its seed.
  assert (row["mean"], row["std"], row["n"]) == ("5.5", "0.707106781", "2")
  # Once more, with another network.
  folders = sorted(path for path in out.iterdir() if path.name != "report")
  before = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
  for lines in (2, 0):
    code, printed, err = ablate(*command, "--model.growth-rate", "4,6")
    assert code == 0, err
    assert printed.count("test error  (") == lines  # A run's line.
    assert began() == 4
  with (out / "report" / "table.csv").open() as file:
    assert [each["runs"] for each in csv.DictReader(file)] == ["2", "2"]
  assert {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.thorough
def test_runs_on_virtual_devices_of_their_own_end_like_undisturbed_ones_when_the_sweep_is_killed(tmp_path):
  out = tmp_path / "out"
  words = (*SMALL[:4], "--model.growth-rate", "4", "--epochs", "3")
  flags = ("--seeds", "3", "--at-once", "8", "--devices-per-run", "1", "--out", str(out))
  command = [sys.executable, "experiments/ablate.py", *words, *flags]
  environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
  sweep = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
  deadline = time.monotonic() + HANGS
  while len(list(out.glob("*/metrics.jsonl"))) < 2:
    assert sweep.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.05)
  sweep.kill()
  sweep.wait()
  assert len(list(out.glob("*/summary.json"))) < 3
  again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert again.returncode == 0, again.stderr + again.stdout
  found = {json.loads(path.read_text())["seed"]: path.parent for path in out.glob("*/summary.json")}
  assert sorted(found) == [0, 1, 2]
  for seed, folder in found.items():
    assert json.loads((folder / "summary.json").read_text())["devices"] == "1 x cpu"
    alone = tmp_path / f"alone{seed}"
    done = call("experiments/train.py", *words, "--seed", seed, "--out", alone)
    assert done.returncode == 0, done.stderr
    assert metrics(folder) == metrics(alone)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.usefixtures("one_cluster")
def test_a_sweep_trains_what_is_missing_here_and_on_a_cluster(ablate, tmp_path):
  out, command = tmp_path / "out", (*SMALL, "--out", str(tmp_path / "out"))
  script, quick = "experiments/ablate.py", {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  done = run(script, *command, "--model.growth-rate", "4", **quick)
  assert done.returncode == 0, done.stderr + done.stdout
  (folder,) = (path for path in out.iterdir() if path.name != "report")
  error = json.loads((folder / "summary.json").read_text())["test_error_percent"]
  with (out / "report" / "table.csv").open() as file:
    (row,) = csv.DictReader(file)
  assert float(row["mean"]) == pytest.approx(error)
  # Once more, with another network: on a cluster, as far as something is missing.
  before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  more = run(script, *command, "--model.growth-rate", "4,6", "--cluster", "local", **quick)
  assert more.returncode == 0, more.stderr + more.stdout
  assert more.stdout.count("test error  (") == 1  # A run's line.
  code, printed, err = ablate(*command, "--model.growth-rate", "4,6", "--cluster", "local")
  assert code == 0, err
  assert "test error  (" not in printed
  with (out / "report" / "table.csv").open() as file:
    assert [each["runs"] for each in csv.DictReader(file)] == ["1", "1"]
  assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
