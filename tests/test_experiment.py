"""One run from a configuration."""

import dataclasses
import io
import json

import rich.console

from dn_jax import experiment, planner
from dn_jax.configuration import DataConfig, ModelConfig, RunConfig


def test_auto_is_decided_by_the_planner_and_kept_by_a_run_that_goes_on(tmp_path, monkeypatch):
  asked = []

  def choose(model, num_classes, image_shape, batch_size, beside, groups, accumulation):
    asked.append((num_classes, image_shape, batch_size, beside, groups, accumulation))
    return "block", planner.Plan(3 * 2**20)

  monkeypatch.setattr(planner, "choose", choose)
  model = ModelConfig(depth=10, growth_rate=4, remat="auto")
  config = RunConfig(DataConfig("digits"), model, epochs=1, out=tmp_path / "run")
  console = rich.console.Console(file=io.StringIO(), width=200)
  assert experiment.train(config, console)["remat"] == "block"
  assert "remat auto: block (a step takes 3 MiB a device)" in console.file.getvalue()
  assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["remat"] == "block"
  # The digits' training and test pictures lie on the device: a byte a pixel, four a label.
  assert asked == [(10, (8, 8, 1), 64, 1797 * (64 + 4), 1, 1)]
  # Gone on with as it began, whatever the planner would say now.
  (tmp_path / "run" / "summary.json").unlink()
  assert experiment.train(dataclasses.replace(config), console)["remat"] == "block"
  assert len(asked) == 1
