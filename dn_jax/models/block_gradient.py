"""A dense block with its own backward pass: one layer at a time, all gradients in one array.

Left to itself, JAX adds up the gradient of every map reader by reader, in as many pieces as there are maps, and
lets the compiler make several layers' activations again at once. Here the backward pass is a loop written
out. It holds the gradient G of the concatenation of all maps, and from the last layer to the first

  1. takes the layer's own k channels off G's end, its statistics' share added,
  2. makes the layer's activations again from the maps it read, and with them the gradients of parameters and
     of those maps,
  3. adds the latter to what is left of G;

no layer begins before the one after it is done. So one layer's activations exist at a time, beside the maps
and G.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models.batch_stats import BatchCut, FeatureMap, Features, Prefix, concatenate, statistics_gradient


def _apply(layer: nn.Module, variables: Any, rngs: Any, features: Features) -> tuple[FeatureMap, Any]:
  output, updated = layer.apply(variables, features, True, mutable=["batch_stats"], rngs=rngs)
  return output, updated["batch_stats"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def dense_block(
  layer: nn.Module, cut: BatchCut | None, variables: Sequence[Any], rngs: Sequence[Any], features: Features
) -> tuple[Features, list[Any]]:
  """Runs layers in training, each on the maps given and all that came before it.

  Args:
    layer: a module without variables of its own, (features, train) -> FeatureMap; each layer is this one.
    cut: where the rest of the batch is.
    variables: each layer's `params` and `batch_stats`.
    rngs: each layer's random streams.
    features: [x_0, ...], as given to the block.

  Returns:
    The maps given and one more for each layer, and each layer's new `batch_stats`.
  """
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
  features, updates = dense_block.fun(layer, cut, variables, rngs, features)
  return (features, updates), (variables, rngs, features[:given], features[given:])


def _backward(layer: nn.Module, cut: BatchCut | None, residuals: Any, gradients: Any) -> tuple[Any, None, Features]:
  variables, rngs, given, made = residuals
  maps, gradient = concatenate((*given, *made)), concatenate(gradients[0])
  of_variables = []
  # The maps are read as slices of their concatenation alone, so that they need not outlive it one by one.
  growth_rates = [output.values.shape[-1] for output in made]
  for its_variables, its_rngs, growth_rate in zip(*map(reversed, (variables, rngs, growth_rates)), strict=True):
    rest = gradient.values.shape[-1] - growth_rate
    gradient, own = _split(gradient, rest)
    output, _ = _split(_split(maps, rest)[1], growth_rate)
    of_output = own.values + statistics_gradient(output, own.mean, own.variance, cut)
    # The barrier is what keeps the layers' order: nothing of this one is made before its gradient is there.
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


dense_block.defvjp(_forward, _backward)


def _split(maps: FeatureMap, channels: int) -> tuple[FeatureMap, FeatureMap]:
  """A concatenation cut in two after so many channels."""
  return FeatureMap(*(part[..., :channels] for part in maps)), FeatureMap(*(part[..., channels:] for part in maps))
