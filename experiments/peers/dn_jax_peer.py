"""This project's network and training step, as experiments/train.py runs it."""

import dataclasses
import functools
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
from jax_device import batch, device, device_peak, versions

from dn_jax.config import zoo
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig, OptimizerConfig
from dn_jax.distributed.layout import make_layout_of_one, replicate
from dn_jax.models import build, initial
from dn_jax.system import compilation
from dn_jax.training import optimizer, step

__all__ = ["device", "device_peak", "start", "versions"]

versions = functools.partial(versions, "flax", "dn_jax")


def start(depth, growth_rate, batch_size, *options):
  """Returns a training step, which returns its loss, and the number of trainable parameters.

  options: a remat policy, `bfloat16` activations, and a name of the zoo, in place of depth and growth rate.
  """
  compilation.keep_compiled_programs()
  named = next((option for option in options if option in zoo.NETWORKS), None)
  model = ModelConfig(name=named) if named else ModelConfig(depth=depth, growth_rate=growth_rate)
  model = dataclasses.replace(model, dtype="bfloat16" if "bfloat16" in options else "float32")
  for policy in set(options) - {"bfloat16", named}:
    model = dataclasses.replace(model, remat=policy)
  model = complete_model(model)
  network = build.build(model, 10)
  sgd = optimizer.make(OptimizerConfig(0.1, 0.9, True, 1e-4), lambda _: 0.1)
  # As dn_jax.training.setup does.
  variables = initial.variables(network, jax.random.key(0), (32, 32, 3))
  state = jax.jit(lambda variables: step.state_of(variables, sgd))(variables)
  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
  images, labels = batch(batch_size)
  one, key = step.Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(batch_size)), jax.random.key(1)
  layout = make_layout_of_one()
  state, one, key = replicate((state, one, key), layout.mesh)
  like = (state, step.Totals.zero())
  compiled = layout.compiled(step.make_train_step(network, sgd, layout), (state, one, key), like, donate=(0,))

  def take():
    nonlocal state
    state, totals = compiled(state, one, key)
    return totals.means()["loss"]

  return take, parameters
