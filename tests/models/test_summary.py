"""The layer table against the compiler's and other people's counts."""

import jax
import jax.numpy as jnp
import pytest

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.models import build, summary


def layers(name, size, classes):
  return summary.layers(build.build(complete_model(ModelConfig(name=name)), classes), (size, size, 3))


# Multiply-adds, in billions, that torchvision states for its networks ("GFLOPS" of its weights' tables).
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "billions"),
  [
    ("densenet-121", 2.83),
    pytest.param("densenet-161", 7.73, marks=pytest.mark.thorough),
    pytest.param("densenet-169", 3.36, marks=pytest.mark.thorough),
    pytest.param("densenet-201", 4.29, marks=pytest.mark.thorough),
  ],
)
def test_flops_of_imagenet_networks_are_torchvisions(name, billions):
  flops = sum(row.flops for row in layers(name, 224, 1000))
  assert flops / 2e9 == pytest.approx(billions, abs=0.006)


def test_rows_add_up_to_all_parameters_and_each_layer_stands_once():
  network = build.build(complete_model(ModelConfig(depth=22)), 10)
  rows = summary.layers(network, (32, 32, 3))
  params = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))["params"]
  assert sum(row.parameters for row in rows) == sum(leaf.size for leaf in jax.tree.leaves(params))
  assert len({row.path for row in rows}) == len(rows) == 1 + 9 * 4 + 2 * 2 + 1 + 1


def test_flops_are_about_what_the_compiler_counts():
  network = build.build(complete_model(ModelConfig(depth=16, remat="none")), 10)
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(x.shape), False))
  compiled = jax.jit(lambda v, x: network.apply(v, x, False)).lower(variables, x).compile()
  rows = summary.layers(network, (32, 32, 3))
  # As executed: a transition's convolution has a quarter of the pixels.
  executed = sum(row.flops / (4 if row.path.startswith("transition") else 1) for row in rows)
  assert compiled.cost_analysis()["flops"] == pytest.approx(executed, rel=0.08)  # The compiler counts norms too.
