"""A dense block with its own backward pass: one layer at a time, all gradients in one array.

JAX by itself sums the gradient of each map over its readers, in one array per map, and lets the compiler recompute
the activations of several layers at once. Here the backward pass is a loop. It holds the gradient G of the
concatenation of all maps and, from the last layer to the first,

  1. cuts the layer's own k channels off the end of G, and adds the gradient through their statistics;
  2. recomputes the layer's activations from the maps it read, and takes the gradients of its parameters and of
     those maps;
  3. adds the gradients of the maps to what is left of G.

A layer begins only when the layer after it is done. So the activations of one layer exist at a time, beside the maps
and G.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models.batch_stats import BatchCut, FeatureMap, Features, concatenate, statistics_gradient
from dn_jax.models.cpu import Prefix


def train_block(block: nn.Module, layers: Sequence[nn.Module], features: Features) -> Features:
  """Runs a `dn_jax.models.densenet.DenseBlock` in training, and updates its running averages.

  Args:
    block: a DenseBlock that has variables.
    layers: its dense layers.
    features: x_0, as given to the block.

  Returns:
    [x_0, x_1, ..., x_l]: one more map for each layer.
  """
  variables = [layer.variables for layer in layers]
  rngs = [layer.scope.rngs for layer in layers]
  features, updates = _run(block.dense_layer(parent=None), block.cut, variables, rngs, features)
  if block.is_mutable_collection("batch_stats"):
    for layer, updated in zip(layers, updates, strict=True):
      block.put_variable("batch_stats", layer.name, updated)
  return features


def _apply(layer: nn.Module, variables: Any, rngs: Any, features: Features) -> tuple[FeatureMap, Any]:
  output, updated = layer.apply(variables, features, True, mutable=["batch_stats"], rngs=rngs)
  return output, updated["batch_stats"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(
  layer: nn.Module, cut: BatchCut | None, variables: Sequence[Any], rngs: Sequence[Any], features: Features
) -> tuple[Features, list[Any]]:
  """All maps of the block, and each layer's new `batch_stats`; `layer` is a dense layer without variables."""
  updates = []
  for its_variables, its_rngs in zip(variables, rngs, strict=True):
    output, updated = _apply(layer, its_variables, its_rngs, features)
    features += (output,)
    updates.append(updated)
  return features, updates


def _forward(
  layer: nn.Module, cut: BatchCut | None, variables: Sequence[Any], rngs: Sequence[Any], features: Features
) -> Any:
  given = len(features)
  features, updates = _run.fun(layer, cut, variables, rngs, features)
  return (features, updates), (variables, rngs, features[:given], features[given:])


def _backward(layer: nn.Module, cut: BatchCut | None, residuals: Any, gradients: Any) -> tuple[Any, None, Features]:
  variables, rngs, given, made = residuals
  maps, gradient = concatenate((*given, *made)), concatenate(gradients[0])  # values [batch, height, width, m + l * k]
  of_variables = []
  # The maps are read as slices of their concatenation alone, so that they need not outlive it one by one.
  growth_rates = [output.values.shape[-1] for output in made]
  for its_variables, its_rngs, growth_rate in zip(*map(reversed, (variables, rngs, growth_rates)), strict=True):
    rest = gradient.values.shape[-1] - growth_rate
    gradient, own = _split(gradient, rest)
    output, _ = _split(_split(maps, rest)[1], growth_rate)
    of_output = own.values + statistics_gradient(output, own.mean, own.variance, cut)
    # The barrier keeps the layers in order: this layer's activations wait for its gradient.
    maps, gradient, of_output = jax.lax.optimization_barrier((maps, gradient, of_output))
    read = FeatureMap(
      jnp.zeros((*maps.values.shape[:-1], rest), maps.values.dtype), maps.mean[:rest], maps.variance[:rest]
    )

    def values(params: Any, read: FeatureMap, its_variables=its_variables, its_rngs=its_rngs, maps=maps) -> jax.Array:
      read = read._replace(values=Prefix(read.values, maps.values))
      return _apply(layer, {**its_variables, "params": params}, its_rngs, (read,))[0].values

    _, pull_back = jax.vjp(values, its_variables["params"], read)
    of_params, of_read = pull_back(of_output)
    gradient = jax.tree.map(jnp.add, gradient, of_read)
    of_variables.append({**jax.tree.map(jnp.zeros_like, its_variables), "params": of_params})
  parts = []
  for one in reversed(given):
    gradient, part = _split(gradient, gradient.values.shape[-1] - one.values.shape[-1])
    parts.append(part)
  return of_variables[::-1], None, tuple(parts[::-1])


_run.defvjp(_forward, _backward)


def _split(maps: FeatureMap, channels: int) -> tuple[FeatureMap, FeatureMap]:
  """Cuts a concatenation in two after so many channels."""
  return FeatureMap(*(part[..., :channels] for part in maps)), FeatureMap(*(part[..., channels:] for part in maps))
