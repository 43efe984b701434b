"""A dense block with its own backward pass: one layer at a time, all gradients in one array.

JAX by itself sums the gradient of each map over its readers, in one array per map, and lets the compiler recompute
the activations of several layers at once. Here the backward pass is a loop. It holds the gradient G of the
concatenation of all maps and, from the last layer to the first,

  1. cuts the layer's own k channels off the end of G, and adds the gradient through their statistics;
  2. takes the gradients of the 3x3 half from the bottleneck's map, which was kept or is computed again from the maps
     that the layer read; then those of the 1x1 half, adding the gradient through the bottleneck's statistics;
  3. adds the gradients of the maps to what is left of G.

Where bottlenecks are computed again, a layer begins only when the layer after it is done. So the activations of one
layer exist at a time, beside the maps and G.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models.batch_stats import BatchCut, FeatureMap, Features, concatenate, statistics_gradient
from dn_jax.models.cpu import Prefix

# Bytes of a gradient in float32 up to which it is kept so; a TPU has 128 MiB of fast memory. Of 48, 64 and 96 MiB the
# first gives the fewest cycles at L=100 (docs/history.md).
_WIDE = 3 * 2**24
# Images that a TPU computes at once; it lays out fewer as if they were so many.
_LANES = 128


def train_block(
  block: nn.Module, layers: Sequence[nn.Module], features: Features, factors: Sequence[jax.Array | None]
) -> Features:
  """Runs a `dn_jax.models.densenet.DenseBlock` in training, and updates its running averages.

  Args:
    block: a DenseBlock that has variables.
    layers: its dense layers.
    features: x_0, as given to the block.
    factors: of `dn_jax.models.layers.depth_factors`, one for each layer.

  Returns:
    [x_0, x_1, ..., x_l]: one more map for each layer.
  """
  variables = [layer.variables for layer in layers]
  rngs = [layer.scope.rngs for layer in layers]
  how = _How(block.dense_layer(parent=None), block.keep_bottlenecks, block.cut)
  features, updates = _run(how, variables, rngs, factors, features)
  if block.is_mutable_collection("batch_stats"):
    for layer, updated in zip(layers, updates, strict=True):
      block.put_variable("batch_stats", layer.name, updated)
  return features


class _How(NamedTuple):
  """A dense layer without variables, and the two attributes of its block."""

  layer: nn.Module
  keep_bottlenecks: bool
  cut: BatchCut | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(
  how: _How, variables: Sequence[Any], rngs: Sequence[Any], factors: Sequence[jax.Array | None], features: Features
) -> tuple[Features, list[Any]]:
  """All maps of the block, and each layer's new `batch_stats`."""
  return _forward(how, variables, rngs, factors, features)[0]


def _forward(
  how: _How, variables: Sequence[Any], rngs: Sequence[Any], factors: Sequence[jax.Array | None], features: Features
) -> Any:
  given, updates, bottlenecks = len(features), [], []
  for its_variables, its_rngs, factor in zip(variables, rngs, factors, strict=True):
    (narrow, output), updated = how.layer.apply(
      its_variables, features, True, factor, mutable=["batch_stats"], rngs=its_rngs, method="maps"
    )
    features += (output,)
    updates.append(updated["batch_stats"])
    bottlenecks.append(narrow if narrow is None or how.keep_bottlenecks else narrow._replace(values=None))
  return (features, updates), (variables, rngs, factors, features[:given], features[given:], bottlenecks)


def _backward(how: _How, residuals: Any, gradients: Any) -> tuple[Any, None, Any, Features]:
  variables, rngs, factors, given, made, bottlenecks = residuals
  whole, gradient = concatenate((*given, *made)), concatenate(gradients[0])  # values [batch, height, width, m + l * k]
  parts = tuple(one.values for one in (*given, *made))
  of_variables = []
  for index in reversed(range(len(made))):
    its_variables, narrow = variables[index], bottlenecks[index]
    growth_rate = made[index].values.shape[-1]
    rest = gradient.values.shape[-1] - growth_rate
    gradient, own = _split(_wide(gradient), rest)
    output, _ = _split(_split(whole, rest)[1], growth_rate)
    # Rounded before the sum: a TPU's compiler then fuses both with the convolutions that read it.
    own_values = own.values.astype(output.values.dtype)
    of_output = own_values + statistics_gradient(output, own.mean, own.variance, how.cut)
    values, gradient, of_output, parts = _in_order(how, whole.values, gradient, of_output, parts[: len(given) + index])
    whole = whole._replace(values=values)
    mean, variance = _split(whole, rest)[0][1:]
    port = jnp.zeros((*values.shape[:-1], rest), mean.dtype)
    earlier = FeatureMap(Prefix(port, values, parts), mean, variance)
    half = functools.partial(_half, how.layer, its_variables, rngs[index])
    params = its_variables["params"]
    if narrow is None:
      _, pull_back = jax.vjp(half("second_half", factors[index]), params, earlier)
      of_params, of_earlier = pull_back(of_output)
    else:
      found, pull_back_first = jax.vjp(half("first_half"), params, earlier)
      narrow = narrow._replace(values=found) if narrow.values is None else narrow
      _, pull_back = jax.vjp(half("second_half", factors[index]), params, narrow)
      of_params, of_narrow = pull_back(of_output)
      of_values = of_narrow.values + statistics_gradient(narrow, of_narrow.mean, of_narrow.variance, how.cut)
      of_rest, of_earlier = pull_back_first(of_values)
      of_params = jax.tree.map(jnp.add, of_params, of_rest)
    of_earlier = of_earlier._replace(values=of_earlier.values.port)
    gradient = jax.tree.map(lambda total, more: (total + more).astype(total.dtype), gradient, of_earlier)
    of_variables.append({**jax.tree.map(jnp.zeros_like, its_variables), "params": of_params})
  gradient = gradient._replace(values=gradient.values.astype(given[0].values.dtype))
  of_given = []
  for one in reversed(given):
    gradient, part = _split(gradient, gradient.values.shape[-1] - one.values.shape[-1])
    of_given.append(part)
  return of_variables[::-1], None, jax.tree.map(jnp.zeros_like, factors), tuple(of_given[::-1])


_run.defvjp(_forward, _backward)


def _half(
  layer: nn.Module, variables: Any, rngs: Any, method: str, *factor: jax.Array | None
) -> Callable[[Any, FeatureMap], jax.Array]:
  """One half of a dense layer, as a function of its parameters and of the map that it reads."""
  return lambda params, read: layer.apply(
    {**variables, "params": params}, (read,), True, *factor, rngs=rngs, method=method
  )


def _wide(gradient: FeatureMap) -> FeatureMap:
  """The gradient in float32 as soon as it is so small that a TPU keeps it beside its units.

  It is more exact, and cheaper there: the units compute in float32, and writing bfloat16 takes longer than the sum.
  The barrier has it written so from the start.
  """
  images, *shape = gradient.values.shape
  full = -(-images // _LANES) * _LANES  # As the array lies there.
  if gradient.values.dtype != jnp.bfloat16 or 4 * full * math.prod(shape) > _WIDE:
    return gradient
  return gradient._replace(values=jax.lax.optimization_barrier(gradient.values.astype(jnp.float32)))


def _in_order(how: _How, whole: jax.Array, gradient: FeatureMap, of_output: jax.Array, parts: Any) -> Any:
  """The same arrays; what is computed from them, such as this layer's activations, waits for all of them.

  On a CPU the maps are read as slices of their concatenation alone, so that they need not outlive it one by one.
  Elsewhere they are read one by one, since the compilers fuse a concatenation with the convolution that reads it, and
  copy a slice.
  """

  def on_cpu(whole: jax.Array, gradient: FeatureMap, of_output: jax.Array, parts: Any) -> Any:
    return *jax.lax.optimization_barrier((whole, gradient, of_output)), parts

  def elsewhere(whole: jax.Array, gradient: FeatureMap, of_output: jax.Array, parts: Any) -> Any:
    if how.keep_bottlenecks or not how.layer.bottleneck_width:  # Nothing is computed again that needs room.
      return whole, gradient, of_output, parts
    return whole, *jax.lax.optimization_barrier((gradient, of_output, parts))

  return jax.lax.platform_dependent(whole, gradient, of_output, parts, cpu=on_cpu, default=elsewhere)


def _split(maps: FeatureMap, channels: int) -> tuple[FeatureMap, FeatureMap]:
  """Cuts a concatenation in two after so many channels."""
  return FeatureMap(*(part[..., :channels] for part in maps)), FeatureMap(*(part[..., channels:] for part in maps))
