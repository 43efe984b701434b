"""One run from a configuration."""

import dataclasses
import io
import json
import re
import shutil
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import rich.console
import traced_once
from conftest import metrics

from dn_jax import experiment
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import CheckpointConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from dn_jax.data import catalog
from dn_jax.distributed.layout import Layout
from dn_jax.inference import load
from dn_jax.planner import plan, policy
from dn_jax.runs import records
from dn_jax.training import loop
from dn_jax.training.checkpoint import Checkpoints

traced_once = traced_once.traced_once


@pytest.mark.slow
def test_auto_is_decided_by_the_planner_and_kept_by_a_run_that_goes_on(tmp_path, monkeypatch):
  asked = []

  def choose(question, where, beside):
    asked.append((dataclasses.astuple(question)[1:], beside))
    return "block", plan.Plan(3 * 2**20)

  monkeypatch.setattr(policy, "choose", choose)
  model = ModelConfig(blocks=(1,), growth_rate=4, remat="auto")
  config = RunConfig(DataConfig("digits"), model, epochs=1, out=tmp_path / "run")
  console = rich.console.Console(file=io.StringIO(), width=200)
  # A sweep that was stopped before the run began has left a configuration that says no policy.
  records.claim(config.out, resolve(dataclasses.replace(config, model=dataclasses.replace(model, remat=None))))
  assert experiment.train(config, console)["remat"] == "block"
  assert "remat auto: block (a step takes 3 MiB a device)" in console.file.getvalue()
  assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["remat"] == "block"
  # The digits' training and test pictures lie on the device: a byte a pixel, four a label.
  assert asked == [((10, (8, 8, 1), 64, 1, 1), 1797 * (64 + 4))]
  # Gone on with as it began, whatever the planner would say now.
  for again in ("auto", None):
    (tmp_path / "run" / "summary.json").unlink()
    config = dataclasses.replace(config, model=dataclasses.replace(model, remat=again))
    assert experiment.train(config, console)["remat"] == "block"
  assert len(asked) == 1


def test_a_run_of_adamw_that_goes_on_ends_as_an_undisturbed_one_bit_for_bit(tmp_path):
  whole = OptimizerConfig(
    *(0.01, 0.9, False, 0.05, "cosine"),
    **{"name": "adamw", "decay": "kernels", "final_rate": 1e-5, "warmup_epochs": 1.0, "warmup_rate": 1e-3},
    **{"average": 0.9, "classifier_rate": 2.0, "label_smoothing": 0.1},
  )
  model = ModelConfig(blocks=(2,), growth_rate=2, remat="none")
  config = RunConfig(DataConfig("digits", augment=True), model, whole, CheckpointConfig(keep=3), epochs=3)
  config = dataclasses.replace(config, batch_size=512, accumulation=2, statistics_groups=2, freeze=("block1/layer1",))
  console = rich.console.Console(file=io.StringIO(), width=200)
  folders = tmp_path / "whole", tmp_path / "cut"
  experiment.train(dataclasses.replace(config, out=folders[0]), console)
  shutil.copytree(*folders)
  (folders[1] / "summary.json").unlink()
  for step in sorted((folders[1] / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))[1:]:
    shutil.rmtree(step)
  experiment.train(dataclasses.replace(config, out=folders[1]), console)
  assert "from the checkpoint of step 2" in console.file.getvalue()
  ours, theirs = map(metrics, folders)
  assert ours == theirs
  assert len(ours) == 3
  # Two steps of 512 images an epoch: the rate rises from the first one's, and ends with the last one's.
  assert ours[-1]["learning_rate"] == pytest.approx(1e-5)
  found = [load.trained_by(folder, "last", pytest.fail) for folder in folders]
  for one, other in zip(*(jax.tree.leaves((each.params, each.batch_stats)) for each in found), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_batch_that_leaves_lanes_empty_is_said_once(tmp_path, monkeypatch):
  asked = []

  def empty_lanes(batch_size, devices, accumulation):
    asked.append((batch_size, len(devices), accumulation))
    return "lanes are empty"

  monkeypatch.setattr(policy, "empty_lanes", empty_lanes)
  model = ModelConfig(blocks=(1,), growth_rate=4)
  config = RunConfig(DataConfig("digits"), model, epochs=2, batch_size=32, out=tmp_path / "run")
  config = dataclasses.replace(config, statistics_groups=2, accumulation=2)
  console = rich.console.Console(file=io.StringIO(), width=200)
  assert experiment.train(config, console)["remat"] == "layer_by_layer"
  assert console.file.getvalue().count("lanes are empty") == 1
  assert asked == [(32, 1, 2)]


@pytest.mark.slow
def test_a_summary_says_what_saving_held_the_run_up(tmp_path, monkeypatch):
  held, save = [], Checkpoints.save

  def slow(*arguments):
    begin = time.monotonic()
    save(*arguments)
    time.sleep(0.2)
    held.append(time.monotonic() - begin)

  monkeypatch.setattr(Checkpoints, "save", slow)
  model, checkpoint = ModelConfig(blocks=(1,), growth_rate=4, remat="block"), CheckpointConfig(every_steps=8)
  config = RunConfig(DataConfig("digits"), model, checkpoint=checkpoint, epochs=1, out=tmp_path / "run")
  summary = experiment.train(config, rich.console.Console(file=io.StringIO()))
  assert len(held) == 3  # After 8 and 16 of 20 steps, and at the end.
  assert summary["saving_seconds"] == pytest.approx(sum(held), abs=0.1)
  assert json.loads((tmp_path / "run" / "summary.json").read_text())["saving_seconds"] == summary["saving_seconds"]


@pytest.mark.slow
def test_a_summary_and_the_first_epochs_record_say_what_compiling_took_and_their_times_are_without_it(
  tmp_path, monkeypatch
):
  compiled, hours = Layout.compiled, []

  def slow(*arguments, **options):
    hours.append(3600.0)
    return compiled(*arguments, **options)

  monkeypatch.setattr(Layout, "compiled", slow)
  # A clock that goes on for an hour while the training step is compiled.
  clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + sum(hours))
  monkeypatch.setattr(loop, "time", clock)
  config = RunConfig(DataConfig("digits"), ModelConfig(blocks=(1,), growth_rate=2), epochs=2, out=tmp_path / "run")
  console = rich.console.Console(file=io.StringIO(), width=200)
  summary = experiment.train(dataclasses.replace(config, batch_size=1024), console)
  first, second = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
  assert first["compile_seconds"] == summary["compile_seconds"] > 3600
  assert "compile_seconds" not in second
  assert summary["seconds"] == pytest.approx(first["seconds"] + second["seconds"])
  # One step.
  assert first["images_per_second"] == pytest.approx(1024 / first["seconds"])
  assert first["seconds"] < 3600
  line, *rest = (line for line in console.file.getvalue().splitlines() if line.startswith("compiling: "))
  assert re.fullmatch(r"compiling: 3[67]\d\d s \(training step\)", line)
  assert all(re.fullmatch(r"compiling: \d+ s \(evaluation\)", line) for line in rest)


def test_names_are_printed_as_they_are_and_unverified_files_are_not_agreed_on(tmp_path, monkeypatch):
  agreed, load = [], catalog.load

  class EnoughError(Exception):
    pass

  def stop(*_):
    raise EnoughError

  def named(data, rule):
    return load(data, rule)._replace(said=("classes: 2 ([cat], a[/b].txt)",), unverified=("[x].tar[/y]",))

  monkeypatch.setattr(catalog, "load", named)
  monkeypatch.setattr(experiment.processes, "agree", agreed.append)
  monkeypatch.setattr(experiment, "with_remat_policy", stop)
  console = rich.console.Console(file=io.StringIO(), width=200)
  with pytest.raises(EnoughError):
    experiment.train(RunConfig(DataConfig("digits"), ModelConfig(blocks=(1,)), out=tmp_path / "run"), console)
  said = console.file.getvalue().splitlines()
  assert "classes: 2 ([cat], a[/b].txt)" in said
  assert any(line.endswith("the makers' MD5 sum: [x].tar[/y]") for line in said)
  assert agreed[-1]["data"]["pictures"] == {"train": 1297, "test": 500}
  assert not agreed[-1]["data"].get("unverified")
