"""The parts of a run, put together as the protocol says."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from dn_jax import experiment, planner
from dn_jax.configuration import DataConfig, ModelConfig, RunConfig
from dn_jax.data import catalog
from dn_jax.resolve import resolve


def grey(name, value=200):
  """A data set of one grey."""
  split = catalog.Split(np.full((8, 32, 32, 3), value, np.uint8), np.zeros(8, np.int32))
  return catalog.Dataset(catalog.info_of(name), split, None, split)


def test_pictures_are_normalised_then_padded_so_that_a_border_is_the_mean():
  config = resolve(RunConfig(DataConfig("cifar10", augment=True)))
  prepare = jax.jit(experiment.prepared(config, grey("cifar10")))
  out = np.asarray(prepare(jnp.full((64, 32, 32, 3), 200, jnp.uint8), jax.random.key(0), jnp.arange(64)))
  expected = (200 - np.array([125.3, 123.0, 113.9])) / [63.0, 62.1, 66.7]
  inside = out[:, 4:-4, 4:-4]
  assert inside == pytest.approx(np.broadcast_to(expected, inside.shape), rel=1e-5)
  outside = out[np.abs(out - expected).max(axis=-1) > 1e-3]
  assert len(outside) > 1000
  assert np.all(outside == 0)


def test_pictures_that_are_not_augmented_are_only_normalised():
  config = resolve(RunConfig(DataConfig("svhn_cropped")))
  out = experiment.prepared(config, grey("svhn_cropped"))(jnp.full((2, 32, 32, 3), 51, jnp.uint8), None, None)
  assert np.asarray(out) == pytest.approx(0.2)


def test_auto_is_decided_by_the_planner_and_kept_by_a_run_that_goes_on(tmp_path, monkeypatch):
  asked = []

  def choose(model, num_classes, image_shape, batch_size, beside):
    asked.append((num_classes, image_shape, batch_size, beside))
    return "block", planner.Plan(3 * 2**20)

  monkeypatch.setattr(planner, "choose", choose)
  model = ModelConfig(depth=10, growth_rate=4, remat="auto")
  config = RunConfig(DataConfig("digits"), model, epochs=1, out=tmp_path / "run")
  console = rich.console.Console(file=io.StringIO(), width=200)
  assert experiment.train(config, console)["remat"] == "block"
  assert "remat auto: block (a step takes 3 MiB a device)" in console.file.getvalue()
  assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["remat"] == "block"
  # The digits' training and test pictures lie on the device: a byte a pixel, four a label.
  assert asked == [(10, (8, 8, 1), 64, 1797 * (64 + 4))]
  # Gone on with as it began, whatever the planner would say now.
  (tmp_path / "run" / "summary.json").unlink()
  assert experiment.train(dataclasses.replace(config), console)["remat"] == "block"
  assert len(asked) == 1
