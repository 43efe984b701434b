"""Batch normalisation with each feature map's statistics taken once.

Inside a dense block, layer l normalises the concatenation [x_0, ..., x_{l-1}] (paper, equation 2). A
channel's mean and variance do not depend on who reads it, so an ordinary batch norm in every layer
measures x_0 again L times. Here a map is measured when it is made (`MeasureMap`), and every reader brings
only its own scale and bias (`BatchNorm`). It is the same function as batch norm, gradients through the
statistics included, with O(L) reads for statistics instead of O(L^2).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


@dataclasses.dataclass(frozen=True)
class BatchCut:
  """Neighbouring devices along a mapped axis (`jax.shard_map`, `jax.pmap`) that hold one batch together.

  axis_name: of the mapped axis
  devices:   along it, in all
  parts:     how many neighbours share a batch; divides `devices`
  """

  axis_name: str
  devices: int
  parts: int

  @property
  def neighbours(self) -> list[list[int]]:
    """The devices of each batch, by their place along the axis."""
    return [list(range(first, first + self.parts)) for first in range(0, self.devices, self.parts)]

  def part(self) -> jax.Array:
    """Which part of its batch this device holds, counted from 0."""
    return jax.lax.axis_index(self.axis_name) % self.parts

  def gather(self, x: jax.Array) -> jax.Array:
    """What each of the parts has, [parts, ...]."""
    return jax.lax.all_gather(x, self.axis_name, axis_index_groups=self.neighbours)

  def sum(self, x: jax.Array) -> jax.Array:
    """The sum over the parts."""
    return jax.lax.psum(x, self.axis_name, axis_index_groups=self.neighbours)


# What `jax.checkpoint` may always keep: a few numbers a channel, each the result of reading a whole map.
STATISTICS = "statistics"


class FeatureMap(NamedTuple):
  """A feature map together with what normalising it takes.

  values:   [batch, height, width, channels]
  mean:     [channels], float32 or wider: over the batch in training, the running average otherwise
  variance: [channels], likewise; biased (divided by N)
  """

  values: jax.Array
  mean: jax.Array
  variance: jax.Array


Features = tuple[FeatureMap, ...]


def concatenate(maps: Sequence[FeatureMap]) -> FeatureMap:
  """[x_0, ..., x_{l-1}] of the paper's equation 2: along channels, statistics included."""
  if len(maps) == 1:
    return maps[0]
  return FeatureMap(*(jnp.concatenate(parts, axis=-1) for parts in zip(*maps, strict=True)))


def batch_moments(
  values: jax.Array, dtype: jnp.dtype = jnp.float32, cut: BatchCut | None = None
) -> tuple[jax.Array, jax.Array]:
  """Mean and biased variance of each channel over batch and pixels.

  Two passes rather than E[x^2] - E[x]^2: in float32 the difference of two large numbers loses the digits
  that a comparison with PyTorch needs. Of a batch that lies on several devices each takes its part's two, and
  one exchange brings all of them everywhere: the variance is the mean of the parts' own and the variance of
  their means.

  Args:
    values: [batch, height, width, channels], any float type.
    dtype: what to sum in; wider types of `values` win.
    cut: where the rest of the batch is.

  Returns:
    mean and variance, [channels] each.
  """
  values = values.astype(jnp.promote_types(values.dtype, dtype))
  mean = jnp.mean(values, axis=(0, 1, 2))
  variance = jnp.mean(jnp.square(values - mean), axis=(0, 1, 2))
  if cut is None:
    return mean, variance
  means, variances = jnp.moveaxis(cut.gather(jnp.stack((mean, variance))), 1, 0)
  mean = jnp.mean(means, axis=0)
  return mean, jnp.mean(variances + jnp.square(means - mean), axis=0)


def statistics_gradient(
  features: FeatureMap, of_mean: jax.Array, of_variance: jax.Array, cut: BatchCut | None = None
) -> jax.Array:
  """The gradient that a map's batch statistics pass on to its values, in the values' type.

  d mean / d x = 1 / N and d variance / d x = 2 (x - mean) / N, for N values a channel.

  Args:
    features: a map with its batch's statistics.
    of_mean, of_variance: gradients of these, [channels] each; of this device's readers alone.
    cut: where the rest of the batch is.
  """
  values, mean, _ = features
  count = values.size // values.shape[-1]
  if cut is not None:
    count *= cut.parts
    of_mean, of_variance = cut.sum(jnp.stack((of_mean, of_variance)))
  return (of_mean / count + (2 / count) * of_variance * (values - mean)).astype(values.dtype)


class MeasureMap(nn.Module):
  """Takes a new feature map's statistics, once, and keeps their running averages.

  The running averages live in the collection `batch_stats` as `mean` and `var` [channels]. `var` averages
  the unbiased variance (times N / (N - 1)), as Torch and PyTorch do; `flax.linen.BatchNorm` keeps the
  biased one.

  Attributes:
    momentum: share of the old running average (0.9; PyTorch writes the complement, 0.1).
    param_dtype: type of the statistics.
    cut: where the rest of the batch is, if it lies on several devices.
  """

  momentum: float = 0.9
  param_dtype: jnp.dtype = jnp.float32
  cut: BatchCut | None = None

  @nn.compact
  def __call__(self, values: jax.Array, train: bool) -> FeatureMap:
    """values: [batch, height, width, channels]."""
    channels = values.shape[-1]
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), self.param_dtype)
    running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), self.param_dtype)
    if not train:
      return FeatureMap(values, running_mean.value, running_var.value)

    mean, variance = batch_moments(values, self.param_dtype, self.cut)
    mean, variance = checkpoint_name(mean, STATISTICS), checkpoint_name(variance, STATISTICS)
    if self.is_mutable_collection("batch_stats") and not self.is_initializing():
      count = values.size // channels * (self.cut.parts if self.cut else 1)
      unbiased = variance * (count / (count - 1))
      running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
      running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
    return FeatureMap(values, mean, variance)


class BatchNorm(nn.Module):
  """One reader's batch norm: its own scale and bias over statistics that the map brings along.

  Attributes:
    epsilon: added to the variance (1e-5 in Torch and PyTorch; Keras's DenseNet has 1.001e-5).
    dtype: of the output.
    param_dtype: of scale and bias.
  """

  epsilon: float = 1e-5
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, features: FeatureMap) -> jax.Array:
    """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias, [batch, height, width, channels]."""
    channels = features.values.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
    slope = scale * jax.lax.rsqrt(features.variance + self.epsilon)
    offset = bias - features.mean * slope
    values = features.values
    x = _scaled_prefix(*values, slope, offset) if isinstance(values, Prefix) else values * slope + offset
    return x.astype(self.dtype)


class Prefix(NamedTuple):
  """The first channels of a concatenation, as a reader gets them that is differentiated one by one.

  On the CPU a sum over pixels has XLA copy the slice that it reads, and the copy live from the layer's first operation
  to its last. So the backward pass cuts the channels out again, once their gradient is there.

  port:  [batch, height, width, first channels]; only its shape counts. Its gradient is that of these channels
  whole: [batch, height, width, channels]; gets no gradient
  """

  port: jax.Array
  whole: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    return self.port.shape


@jax.custom_vjp
def _scaled_prefix(port: jax.Array, whole: jax.Array, slope: jax.Array, offset: jax.Array) -> jax.Array:
  return whole[..., : port.shape[-1]] * slope + offset


def _forward(port: jax.Array, whole: jax.Array, slope: jax.Array, offset: jax.Array) -> Any:
  return _scaled_prefix(port, whole, slope, offset), (port, whole, slope)


def _backward(residuals: Any, gradient: jax.Array) -> Any:
  port, whole, slope = residuals
  barrier = functools.partial(jax.lax.platform_dependent, cpu=_after_one_another, default=lambda *arrays: arrays)
  whole, gradient = barrier(whole, gradient)
  of_slope = jnp.sum(gradient * whole[..., : port.shape[-1]], axis=(0, 1, 2))
  of_slope, gradient = barrier(of_slope, gradient)
  return (gradient * slope).astype(port.dtype), None, of_slope, jnp.sum(gradient, axis=(0, 1, 2))


def _after_one_another(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  return jax.lax.optimization_barrier(arrays)


_scaled_prefix.defvjp(_forward, _backward)
