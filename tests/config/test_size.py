import dataclasses
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from dn_jax.config import size, weights_file, zoo
from dn_jax.config.check import Misfit, from_json
from dn_jax.config.network import complete_model
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.models import build, summary
from dn_jax.runs import start
from dn_jax.sweep.cells import cells_of
from dn_jax.training import optimizer


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_a_published_network_has_the_size_that_was_counted_when_it_was_built(name):
  # `test_zoo.py` counts them again.
  entry = zoo.NETWORKS[name]
  model = complete_model(ModelConfig(name=name))
  shape = (224, 224, 3) if entry.imagenet else (32, 32, 3)
  assert tuple(size.of(model, 1000 if entry.imagenet else 10, shape)) == entry.counted


# Flags that are seldom used, and images whose sides are neither equal nor halved evenly.
ODD = [
  ({"depth": 10, "growth_rate": 5, "compression": 0.37}, (33, 29, 3)),
  ({"depth": 16, "growth_rate": 3, "bottleneck_width": 2, "compression": 1.0}, (8, 8, 1)),
  ({"depth": 13, "growth_rate": 6, "bottleneck": False, "compression": 0.5}, (32, 32, 1)),
  ({"blocks": (1, 3), "growth_rate": 7, "initial_channels": 5}, (21, 40, 3)),
  ({"blocks": (2,), "growth_rate": 4, "bottleneck": False}, (5, 7, 3)),
  ({"blocks": (1, 2, 1), "growth_rate": 4, "stem": "imagenet"}, (65, 47, 3)),
  ({"blocks": (1, 1), "growth_rate": 4, "stem": "imagenet", "bottleneck": False, "dropout": 0.2}, (31, 31, 1)),
  ({"family": "resnet", "depth": 8}, (31, 27, 3)),
  ({"family": "resnet", "depth": 14, "survival": 0.5}, (32, 32, 1)),
  ({"family": "preactivation", "depth": 11}, (30, 33, 3)),
  ({"family": "wide", "depth": 10, "widen_factor": 1}, (29, 31, 3)),
  ({"family": "wide", "depth": 10, "widen_factor": 3, "dropout": 0.3}, (32, 32, 1)),
]


@pytest.mark.parametrize(("flags", "shape"), ODD)
def test_the_size_by_formula_is_that_of_the_network_that_is_built(flags, shape):
  model = complete_model(ModelConfig(**flags))
  rows = summary.layers(build.build(dataclasses.replace(model, remat="none"), 7), shape)
  assert size.of(model, 7, shape) == (sum(row.parameters for row in rows), sum(row.flops for row in rows))


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


@pytest.mark.parametrize(
  ("asked", "copies"),
  [({}, 0), ({"average": 0.9}, 1), ({"name": "adamw"}, 1), ({"name": "adamw", "average": 0.9, "decay": "kernels"}, 2)],
)
def test_bytes_beyond_momentum_are_those_of_the_optimizers_state(asked, copies):
  asked = OptimizerConfig(learning_rate=0.001, weight_decay=0.1, **asked)
  config = resolve(RunConfig(DataConfig("digits"), ModelConfig(blocks=(1,), growth_rate=2), asked))
  network = build.build(config.model, 10)
  variables = jax.eval_shape(lambda key: network.init(key, jnp.zeros((1, 8, 8, 1)), False), jax.random.key(0))
  rule = optimizer.make(config.optimizer, lambda step: 0.1)
  state = jax.eval_shape(rule.init, variables["params"])
  held = [sum(4 * leaf.size for leaf in jax.tree.leaves(tree) if leaf.ndim) for tree in (state, variables["params"])]
  assert size.beyond_momentum(config, 1, 10) == held[0] - held[1] == copies * held[1]


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
