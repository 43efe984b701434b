"""This project's network and training step, as experiments/train.py runs it."""

import dataclasses
import functools
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from jax_device import batch, device, device_peak, versions

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig, OptimizerConfig
from dn_jax.data.augment import mirror_and_shift, normalise
from dn_jax.distributed.layout import make_layout_of_one
from dn_jax.models import build, initial
from dn_jax.training import optimizer, resident, step

__all__ = ["device", "device_peak", "start", "versions"]

versions = functools.partial(versions, "flax", "dn_jax")
EXTRAS = ("bfloat16", "data")


def start(depth, growth_rate, batch_size, *options):
  """Returns a training step, which returns its loss, and the number of trainable parameters.

  options: a remat policy; `bfloat16` activations; `data`: a step also picks its images from a data set on the device,
  mirrors and shifts them.
  """
  model = ModelConfig(depth=depth, growth_rate=growth_rate, dtype="bfloat16" if "bfloat16" in options else "float32")
  for policy in set(options) - set(EXTRAS):
    model = dataclasses.replace(model, remat=policy)
  model = complete_model(model)
  network = build.build(model, 10)
  sgd = optimizer.sgd(OptimizerConfig(0.1, 0.9, True, 1e-4), lambda _: 0.1)
  # As dn_jax.training.setup does.
  variables = initial.variables(network, jax.random.key(0), (32, 32, 3))
  state = jax.jit(lambda variables: step.state_of(variables, sgd))(variables)
  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
  take = _from_data if "data" in options else _from_a_batch
  return take(step.make_train_step(network, sgd), state, batch_size), parameters


def _from_a_batch(train_step, state, batch_size):
  images, labels = batch(batch_size)
  one, key = step.Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(batch_size)), jax.random.key(1)
  compiled = make_layout_of_one().compiled(jax.jit(train_step, donate_argnums=0), state, one, key)

  def take():
    nonlocal state
    state, totals = compiled(state, one, key)
    return totals.means()["loss"]

  return take


def _from_data(train_step, state, batch_size):
  pictures = np.random.RandomState(0).randint(0, 256, (50 * batch_size, 32, 32, 3)).astype(np.uint8)
  split = resident.DeviceSplit(jnp.asarray(pictures), jnp.arange(len(pictures), dtype=jnp.int32) % 10)
  shift = functools.partial(mirror_and_shift, mirror=True, pad=4)
  prepare = lambda images, key, numbers: shift(normalise(images, 127.5, 63.75), key, numbers)
  keys = jax.random.split(jax.random.key(1))
  advance = resident.make_advance(train_step, prepare, make_layout_of_one(), *keys, steps_per_dispatch=1)
  order = jax.random.permutation(jax.random.key(3), jnp.arange(len(pictures), dtype=jnp.int32))
  totals, number = step.Totals.zero(), 0

  def take():
    nonlocal state, totals, number
    first = number % 50 * batch_size
    state, totals, losses = advance(state, totals, split, order, np.int32(first), np.int32(1), batch_size=batch_size)
    number += 1
    return float(losses.mean())

  return take
