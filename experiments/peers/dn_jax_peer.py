"""This project: its network and its own training step, as experiments/train.py runs it."""

import dataclasses
import functools
import math
import operator
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
SEEDS = "seeds"


def start(depth, growth_rate, batch_size, *options):
  """A training step that gives its loss, and the number of trainable parameters of a network.

  options: a remat policy; `bfloat16` activations; `data`, for an epoch's steps with their pictures picked out of a data
  set on the device, mirrored and shifted; `4seeds`, for a step of each of four runs in one program.
  """
  model = ModelConfig(depth=depth, growth_rate=growth_rate, dtype="bfloat16" if "bfloat16" in options else "float32")
  (seeds,) = [int(option.removesuffix(SEEDS)) for option in options if option.endswith(SEEDS)] or [1]
  for policy in {option for option in options if not option.endswith(SEEDS)} - set(EXTRAS):
    model = dataclasses.replace(model, remat=policy)
  model = complete_model(model)
  network = build.build(model, 10)
  sgd = optimizer.sgd(OptimizerConfig(0.1, 0.9, True, 1e-4), lambda _: 0.1)
  # As dn_jax.training.setup does.
  state_of = jax.jit(lambda variables: step.state_of(variables, sgd))
  states = tuple(state_of(initial.variables(network, jax.random.key(seed), (32, 32, 3))) for seed in range(seeds))
  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(states[0].params))
  train_step = step.make_train_step(network, sgd)
  take = _from_data if "data" in options else _from_a_batch
  return take(train_step, states, batch_size), parameters


def _from_a_batch(train_step, states, batch_size):
  images, labels = batch(batch_size)
  one, key = step.Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(batch_size)), jax.random.key(1)

  def each(states, one, key):
    return tuple(zip(*(train_step(state, one, key) for state in states), strict=True))

  compiled = make_layout_of_one().compiled(jax.jit(each, donate_argnums=0), states, one, key)

  def take():
    nonlocal states
    states, totals = compiled(states, one, key)
    return functools.reduce(operator.add, totals).means()["loss"]

  return take


def _from_data(train_step, states, batch_size):
  pictures = np.random.RandomState(0).randint(0, 256, (50 * batch_size, 32, 32, 3)).astype(np.uint8)
  split = resident.DeviceSplit(jnp.asarray(pictures), jnp.arange(len(pictures), dtype=jnp.int32) % 10)
  shift = functools.partial(mirror_and_shift, mirror=True, pad=4)
  prepare = lambda images, key, numbers: shift(normalise(images, 127.5, 63.75), key, numbers)
  keys = [resident.Keys(jax.random.key(1), jax.random.key(2)) for _ in states]
  advance = resident.make_advance_side_by_side(train_step, prepare, make_layout_of_one(), keys, steps_per_dispatch=1)
  order = jax.random.permutation(jax.random.key(3), jnp.arange(len(pictures), dtype=jnp.int32))
  totals, number = tuple(step.Totals.zero() for _ in states), 0

  def take():
    nonlocal states, totals, number
    first, orders = jnp.int32(number % 50 * batch_size), (order,) * len(states)
    states, totals, losses = advance(states, totals, split, orders, first, jnp.int32(1), batch_size=batch_size)
    number += 1
    return float(losses.mean())

  return take
