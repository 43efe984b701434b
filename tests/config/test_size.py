import json
import os
import time

import numpy as np
import pytest
import safetensors.numpy

from dn_jax.config import size, weights_file, zoo
from dn_jax.config.check import Misfit, from_json
from dn_jax.config.network import complete_model
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.runs import start
from dn_jax.sweep.cells import cells_of


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_parameters_are_those_that_a_built_network_has(name):
  entry = zoo.NETWORKS[name]
  model = complete_model(ModelConfig(name=name))
  assert size.parameters(model, 1000 if entry.imagenet else 10) == entry.counted.parameters


@pytest.mark.parametrize(
  ("model", "flag"),
  [
    (ModelConfig(depth=9994, growth_rate=5000), "--model.growth-rate 5000"),
    (ModelConfig(blocks=(2000,) * 3, initial_channels=10_000, growth_rate=4000), "--model.initial-channels 10000"),
    (ModelConfig(family="wide", depth=9994, widen_factor=10_000), "--model.widen-factor 10000"),
  ],
)
def test_a_network_that_no_machine_holds_is_refused_with_its_parameters_at_once(model, flag):
  begin = time.process_time()
  with pytest.raises(ConfigurationError, match=r"the network would have [\d,]{17,} parameters") as refused:
    complete_model(model)
  assert str(refused.value).startswith(flag)
  assert time.process_time() - begin < 1


def test_more_layers_than_can_be_built_are_refused_with_their_number():
  with pytest.raises(ConfigurationError, match="20,000 layers; at most 10,000 in all"):
    complete_model(ModelConfig(blocks=(10_000, 10_000), growth_rate=1))


def test_what_is_many_times_the_machine_is_refused_before_anything_is_built(monkeypatch):
  there = os.sysconf
  # A machine of 1 GB.
  monkeypatch.setattr(
    os, "sysconf", lambda name: 10**6 if name == "SC_PHYS_PAGES" else 1000 if "PAGE" in name else there(name)
  )
  large = RunConfig(DataConfig("digits"), ModelConfig(depth=40, growth_rate=2000))
  count = size.parameters(resolve(large).model, 10, 1)
  assert 12 * count > 16e9
  with pytest.raises(
    ConfigurationError, match=f"--model.growth-rate 2000: .*{count:,} parameters, .* this machine has 1 GB"
  ):
    start.resolved(large, print)
  with pytest.raises(ConfigurationError, match="--evaluation-batch-size 100000000: its images would take 26 GB"):
    start.resolved(RunConfig(DataConfig("digits"), evaluation_batch_size=10**8), print)
  with pytest.raises(UserError, match="--batch-size 100000000: its images would take 26 GB"):
    cells_of(["--data.name", "digits", "--batch-size", "100000000"])
  # A record of such a run, made on a larger machine, is read.
  resolve(large)
  start.resolved(RunConfig(DataConfig("digits"), ModelConfig(depth=40, growth_rate=100)), print)


@pytest.mark.parametrize("epsilon", [0.0, 1e-13, 1.0, 1e308])
def test_an_epsilon_that_normalises_nothing_is_refused(epsilon):
  with pytest.raises(Misfit, match=r"epsilon .* at least 1e-12, below 1"):
    from_json(ModelConfig, json.dumps({"epsilon": epsilon}))


def test_a_file_that_says_it_is_of_a_network_with_far_more_layers_than_tensors_is_refused(tmp_path):
  path = tmp_path / "w.safetensors"
  about = json.dumps({"model": {"blocks": [300, 300], "growth_rate": 4}})
  safetensors.numpy.save_file({"x": np.zeros(1)}, path, {weights_file.METADATA: about})
  with pytest.raises(weights_file.WeightsError, match="its network has 600 layers, and holds 1 tensors"):
    weights_file.about(path)
