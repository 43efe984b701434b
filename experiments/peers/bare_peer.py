"""This project's training step on a bare machine: JAX, Flax, optax, chex and numpy are all that it needs.

It is the step of dn_jax_peer.py, which takes its network from checked flags and so needs pydantic too.
"""

import functools
import hashlib
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import jax_device
import numpy as np
import optax
from jax_device import batch, device, device_peak

import dn_jax
from dn_jax.models import initial, remat
from dn_jax.models.densenet import DenseNet, blocks_of_depth
from dn_jax.training import step

__all__ = ["device", "device_peak", "network", "sgd", "start", "versions"]

IMAGE_SHAPE = (32, 32, 3)


def versions():
  return {**jax_device.versions("flax", "optax"), "dn_jax": dn_jax.__version__}


def network(depth: int, growth_rate: int, policy: str, dtype: str) -> DenseNet:
  """DenseNet-BC for CIFAR-10."""
  blocks = blocks_of_depth(depth, bottleneck=True)
  return DenseNet(blocks, growth_rate, 10, 2 * growth_rate, remat=policy, dtype=jnp.dtype(dtype))


def sgd(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
  """The published optimizer, `dn_jax.training.optimizer.make` as configured for DenseNet."""
  return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, 0.9, nesterov=True))


def start(depth, growth_rate, batch_size, *options):
  """Returns a training step, which returns its loss; the number of trainable parameters; and what tells of the rest.

  options: a remat policy, `dense_layer` by default; `bfloat16` activations.
  """
  policies = set(options) & set(remat.POLICIES)
  if len(policies) > 1 or set(options) - policies - {"bfloat16"}:
    raise ValueError(f"a remat policy and bfloat16, not {', '.join(options)}")
  policy, dtype = (policies or {"dense_layer"}).pop(), "bfloat16" if "bfloat16" in options else "float32"
  module, optimizer = network(depth, growth_rate, policy, dtype), sgd(0.1)
  variables = initial.variables(module, jax.random.key(0), IMAGE_SHAPE)
  state = jax.jit(lambda variables: step.state_of(variables, optimizer))(variables)
  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
  images, labels = batch(batch_size)
  one, key = step.Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(batch_size)), jax.random.key(1)
  train_step = step.make_train_step(module, optimizer)

  @functools.partial(jax.jit, donate_argnums=0)
  def program(state, one, key):
    state, totals = train_step(state, one, key)
    return state, totals.loss / batch_size

  compiled = program.lower(state, one, key).compile()

  def take():
    nonlocal state
    state, loss = compiled(state, one, key)
    return loss

  def tell():
    """Memory, and a digest of all bits of the state."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
      digest.update(np.asarray(leaf).tobytes())
    return {"temporaries": jax_device.temporaries(compiled), "digest": digest.hexdigest()}

  return take, parameters, tell
