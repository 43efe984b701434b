"""Runs of several seeds in one program, as a person does them."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import rich.console
from conftest import ROOT, call, metrics, run, small_run

from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.planner import plan
from dn_jax.training import several_seeds

FLAGS = ("--epochs", "2", "--data.augment", "--data.validation", "100")


def name(seed):
  return f"digits+_densenet-bc-10-4_seed{seed}"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
  folder = tmp_path_factory.mktemp("seeds")
  done = run(*small_run(folder, *FLAGS, "--seed", "5", "--seeds-per-device", "3"))
  assert done.returncode == 0, done.stderr
  return folder, done


@pytest.mark.slow
@pytest.mark.thorough
def test_each_seed_leaves_a_run_of_its_own(three):
  folder, done = three
  assert sorted(path.name for path in folder.iterdir()) == [name(seed) for seed in (5, 6, 7)]
  errors = []
  for seed in (5, 6, 7):
    own = folder / name(seed)
    summary = json.loads((own / "summary.json").read_text())
    config = json.loads((own / "config.json").read_text())
    assert (summary["seed"], config["seed"], summary["seeds_beside"]) == (seed, seed, 2)
    assert len(metrics(own)) == 2
    assert (own / "curves.png").exists()
    errors.append(f"test error: {summary['test_error']:.2f} %")
  assert done.stdout.splitlines()[-3:] == errors
  evaluated = run("experiments/evaluate.py", folder / name(6))
  assert errors[1].replace("test error", "top-1 error") in evaluated.stdout, evaluated.stderr
  report = run("experiments/report.py", folder)
  assert report.returncode == 0, report.stderr


@pytest.mark.slow
@pytest.mark.thorough
def test_a_seed_among_others_is_that_seed_alone_and_may_go_on_so(three, tmp_path):
  folder, _ = three
  alone = run(*small_run(tmp_path / name(6), *FLAGS, "--seed", "6"))
  assert alone.returncode == 0, alone.stderr
  found, expected = metrics(folder / name(6)), metrics(tmp_path / name(6))
  assert found[0]["train_loss"] == pytest.approx(expected[0]["train_loss"], rel=1e-5)
  # It is the same run: one of three that is there already is not done again.
  done = run(*small_run(tmp_path, *FLAGS, "--seed", "5", "--seeds-per-device", "3"))
  assert done.returncode == 0, done.stderr
  assert "and 1 more seeds side by side" in " ".join(done.stdout.split())
  assert metrics(tmp_path / name(6)) == expected


@pytest.mark.slow
@pytest.mark.thorough
def test_killed_within_an_epoch_all_go_on_from_a_step_that_all_have_saved(three, tmp_path):
  flags = small_run(tmp_path, *FLAGS, "--seed", "5", "--seeds-per-device", "3", "--checkpoint.every-steps", "1")
  process = subprocess.Popen([sys.executable, *flags], cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL)
  while not (tmp_path / name(7) / "checkpoints" / "20").is_dir():
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  again = run(*flags)
  assert again.returncode == 0, again.stderr
  assert "going on from the checkpoints of step" in again.stdout
  for seed in (5, 6, 7):
    assert metrics(tmp_path / name(seed)) == metrics(three[0] / name(seed))


def test_folders_lie_side_by_side_whether_or_not_a_folder_is_given(tmp_path):
  def folders(out):
    config = resolve(RunConfig(DataConfig("digits"), ModelConfig(depth=10), seed=5, seeds_per_device=2, out=out))
    return [str(one.out) for one in several_seeds.configurations(config)]

  names = ["digits_densenet-bc-10-12_seed5", "digits_densenet-bc-10-12_seed6"]
  assert folders(None) == [f"runs/{each}" for each in names]
  assert folders(tmp_path) == [f"{tmp_path}/{each}" for each in names]
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ConfigurationError, match="is one run's folder; give the folder around it"):
    folders(tmp_path)


@pytest.mark.slow
@pytest.mark.thorough
def test_auto_asks_for_the_memory_of_all(tmp_path, monkeypatch):
  asked = []

  def choose(*_, seeds, **__):
    asked.append(seeds)
    return "block", plan.Plan()

  monkeypatch.setattr(plan, "choose", choose)
  model = ModelConfig(depth=10, growth_rate=4, remat="auto")
  config = RunConfig(DataConfig("digits"), model, epochs=1, seeds_per_device=2, out=tmp_path)
  done = several_seeds.train(resolve(config), rich.console.Console(file=io.StringIO()))
  assert (asked, [each["remat"] for each in done]) == ([2], ["block", "block"])


@pytest.mark.parametrize(
  ("flags", "answer"),
  [
    (("--seeds-per-device", "0"), "--seeds-per-device 0: must be at least 1"),
    (("--seeds-per-device", "2", "--parallel", "pmap"), "--parallel pmap: takes all devices for one run"),
    (("--seeds-per-device", "2", "--tensorboard"), "--tensorboard True: is of one run; without --seeds-per-device"),
  ],
)
def test_what_takes_one_run_is_refused(tmp_path, flags, answer):
  done = call(*small_run(tmp_path / "out", *flags))
  assert done.returncode == 2
  assert done.stderr.strip().startswith(f"error: {answer}")
  assert not (tmp_path / "out").exists()
