"""Random variables of a network."""

import jax
import jax.numpy as jnp
import numpy as np


def variables_of(network, seed=0, size=32):
  """Random variables, statistics too, such that pictures still make a difference at the end."""
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), False))
  rng = np.random.RandomState(seed)

  def draw(path, leaf):
    kind = path[-1].key
    if kind == "kernel":
      value = rng.randn(*leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]) / 2)
    else:
      value = {"mean": 0.0, "bias": 0.0}.get(kind, 1.0) + 0.2 * rng.uniform(-1, 1, leaf.shape)
    return value.astype(leaf.dtype)

  return jax.tree.map_with_path(draw, shapes)
