"""Batch normalisation that takes each feature map's statistics once.

Layer l of a dense block normalises the concatenation [x_0, ..., x_{l-1}] (paper, equation 2). A channel's mean and
variance do not depend on the layer that reads it, so ordinary batch norms measure x_0 again in each of L layers:
O(L^2) maps are read for statistics. Here `MeasureMap` measures a map when it is made, O(L) in all, and the
`BatchNorm` of a reader has only its own scale and bias. Values and gradients are those of ordinary batch norm.

Several devices may hold one batch together (`BatchCut`). They exchange the statistics of their parts, and each
normalises by those of the whole batch.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dn_jax.models import cpu

# The name by which `jax.checkpoint` keeps statistics: a few numbers per channel, each from reading a whole map.
STATISTICS = "statistics"
# Squared distance of the mean from the shift, in variances, from which a second pass takes the variance.
_FAR = 4.0


@dataclasses.dataclass(frozen=True)
class BatchCut:
  """How neighbouring devices along a mapped axis (`jax.shard_map`, `jax.pmap`) hold one batch together.

  axis_name: of the mapped axis
  devices:   number of devices along it
  parts:     number of neighbours that share a batch; divides `devices`
  """

  axis_name: str
  devices: int
  parts: int

  @property
  def neighbours(self) -> list[list[int]]:
    """The devices of each batch, by their index along the axis."""
    return [list(range(first, first + self.parts)) for first in range(0, self.devices, self.parts)]

  def part(self) -> jax.Array:
    """The part of its batch that this device holds, counted from 0; a scalar."""
    return jax.lax.axis_index(self.axis_name) % self.parts

  def gather(self, x: jax.Array) -> jax.Array:
    """The x of every part, [parts, ...]."""
    return jax.lax.all_gather(x, self.axis_name, axis_index_groups=self.neighbours)

  def sum(self, x: jax.Array) -> jax.Array:
    """The sum of x over the parts."""
    return jax.lax.psum(x, self.axis_name, axis_index_groups=self.neighbours)


class FeatureMap(NamedTuple):
  """A feature map with the statistics that normalise it.

  values:   [batch, height, width, channels]
  mean:     [channels], float32 or wider: over the batch in training, the running average otherwise
  variance: [channels], likewise; biased (divided by N)
  """

  values: jax.Array
  mean: jax.Array
  variance: jax.Array


Features = tuple[FeatureMap, ...]


def concatenate(maps: Sequence[FeatureMap]) -> FeatureMap:
  """[x_0, ..., x_{l-1}] (equation 2): along the channels, statistics included."""
  if len(maps) == 1:
    return maps[0]
  return FeatureMap(*(jnp.concatenate(parts, axis=-1) for parts in zip(*maps, strict=True)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def batch_moments(
  values: jax.Array, shift: jax.Array, dtype: jnp.dtype = jnp.float32, cut: BatchCut | None = None
) -> tuple[jax.Array, jax.Array]:
  """Mean and biased variance of each channel over batch and pixels.

  One pass adds up values - shift and their squares, which a TPU's compiler fuses with the convolution that makes the
  map. In E[d^2] - E[d]^2 the difference of two large numbers loses the digits that a comparison with PyTorch needs,
  if the mean of d = values - shift is many deviations from 0: then a second pass takes the variance about the mean.
  Of a batch on several devices, the variance is the mean of the parts' variances plus the variance of their means;
  both come to every device in one exchange.

  Args:
    values: [batch, height, width, channels], any float type; of a batch on several devices, this device's part.
    shift: [channels], a guess of the mean that is known before the map is; it has no gradient.
    dtype: of the sums; a wider type of `values` wins.
    cut: how several devices hold the batch; None: one device has all of it.

  Returns:
    mean and variance, [channels] each.
  """
  return _combined(*_moments_of_part(values, shift, dtype), cut)


@batch_moments.defjvp
def _moments_jvp(dtype: jnp.dtype, cut: BatchCut | None, primals: Any, tangents: Any) -> Any:
  """d mean = E[dx] and d variance = 2 E[(x - mean) dx]: E[x - mean] is 0, so the mean in the variance moves nothing.

  Automatic differentiation would read the map once more for that 0.
  """
  values, shift = primals
  mean, variance = (checkpoint_name(each, STATISTICS) for each in batch_moments(values, shift, dtype, cut))
  wide = jnp.promote_types(values.dtype, dtype)
  of_values, centered = tangents[0].astype(wide), values.astype(wide) - mean
  of_mean, of_variance = jnp.mean(of_values, axis=(0, 1, 2)), 2 * jnp.mean(centered * of_values, axis=(0, 1, 2))
  if cut is not None:
    of_mean, of_variance = cut.sum(jnp.stack((of_mean, of_variance))) / cut.parts
  return (mean, variance), (of_mean, of_variance)


def _moments_of_part(values: jax.Array, shift: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
  known, three = functools.partial(_about_shift, dtype=dtype), functools.partial(_about_three, dtype=dtype)
  return jax.lax.platform_dependent(values, shift, cuda=three, rocm=three, default=known)


def _about_shift(values: jax.Array, shift: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
  mean, variance = _about(values, shift, dtype)
  far = jnp.any(jnp.square(mean - shift) > _FAR * variance)
  # The map is the argument, not what `_about` makes of it, which would be kept for a pass that is almost never taken.
  second_pass = lambda values, mean, _: _about(values, mean, dtype)
  return jax.lax.cond(far, second_pass, lambda _, mean, variance: (mean, variance), values, mean, variance)


def _about(values: jax.Array, shift: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
  shifted = values.astype(jnp.promote_types(values.dtype, dtype)) - shift
  distance, square = jnp.mean(shifted, axis=(0, 1, 2)), jnp.mean(jnp.square(shifted), axis=(0, 1, 2))
  return shift + distance, jnp.maximum(square - jnp.square(distance), 0)


def _about_three(values: jax.Array, _: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
  """For GPUs, which make a map before they measure it, and may wait for the host at each branch of a program.

  The shift is the median of three values of each channel, a few deviations from the mean unless two of the three are
  outliers. Both sums are one reduction: as two, their parts are added up by a kernel each.
  """
  flat = values.reshape(-1, values.shape[-1]).astype(jnp.promote_types(values.dtype, dtype))
  one, two, three = (flat[len(flat) * sevenths // 7] for sevenths in (1, 3, 5))
  shift = jnp.maximum(jnp.minimum(one, two), jnp.minimum(jnp.maximum(one, two), three))
  shifted, zero = flat - shift, jnp.zeros((), flat.dtype)
  both = lambda sums, more: (sums[0] + more[0], sums[1] + more[1])
  sums = jax.lax.reduce((shifted, jnp.square(shifted)), (zero, zero), both, (0,))
  distance, square = (each / len(flat) for each in sums)
  return shift + distance, jnp.maximum(square - jnp.square(distance), 0)


def _combined(mean: jax.Array, variance: jax.Array, cut: BatchCut | None) -> tuple[jax.Array, jax.Array]:
  if cut is None:
    return mean, variance
  means, variances = jnp.moveaxis(cut.gather(jnp.stack((mean, variance))), 1, 0)  # [parts, channels] each
  mean = jnp.mean(means, axis=0)
  return mean, jnp.mean(variances + jnp.square(means - mean), axis=0)


def statistics_gradient(
  features: FeatureMap, of_mean: jax.Array, of_variance: jax.Array, cut: BatchCut | None = None
) -> jax.Array:
  """The gradient that reaches a map's values through its batch statistics.

  d mean / d x = 1 / N and d variance / d x = 2 (x - mean) / N, for N values per channel.

  Args:
    features: the map, with its batch's statistics.
    of_mean, of_variance: the gradients of its statistics, [channels] each, from this device's readers alone.
    cut: how several devices hold the batch; None: one device has all of it.

  Returns:
    [batch, height, width, channels], in the type of the values.
  """
  values, mean, _ = features
  count = values.size // values.shape[-1]
  if cut is not None:
    count *= cut.parts
    of_mean, of_variance = cut.sum(jnp.stack((of_mean, of_variance)))
  return (of_mean / count + (2 / count) * of_variance * (values - mean)).astype(values.dtype)


class MeasureMap(nn.Module):
  """Takes a new feature map's statistics and updates their running averages.

  The running averages are `mean` and `var` in the collection `batch_stats`, [channels] each. `var` averages the
  unbiased variance (times N / (N - 1)), as Torch and PyTorch do; `flax.linen.BatchNorm` averages the biased one.

  Attributes:
    momentum: share of the old running average (0.9; PyTorch writes the complement, 0.1).
    param_dtype: of the statistics.
    cut: how several devices hold the batch; None: one device has all of it.
  """

  momentum: float = 0.9
  param_dtype: jnp.dtype = jnp.float32
  cut: BatchCut | None = None

  @nn.compact
  def __call__(self, values: jax.Array, train: bool) -> FeatureMap:
    """values: [batch, height, width, channels]; train: use the batch's statistics, not the running averages."""
    channels = values.shape[-1]
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), self.param_dtype)
    running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), self.param_dtype)
    if not train:
      return FeatureMap(values, running_mean.value, running_var.value)

    mean, variance = batch_moments(values, jax.lax.stop_gradient(running_mean.value), self.param_dtype, self.cut)
    if self.is_mutable_collection("batch_stats") and not self.is_initializing():
      count = values.size // channels * (self.cut.parts if self.cut else 1)
      unbiased = variance * (count / (count - 1))
      running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
      running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
    return FeatureMap(values, mean, variance)


class BatchNorm(nn.Module):
  """The batch norm of one reader: its scale and bias, over the statistics that come with the map.

  Attributes:
    epsilon: added to the variance (1e-5 in Torch and PyTorch; Keras's DenseNet has 1.001e-5).
    dtype: of the output.
    param_dtype: of scale and bias.
  """

  epsilon: float = 1e-5
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, features: FeatureMap, relu: bool = False) -> jax.Array:
    """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias, or its ReLU, [batch, height, width, channels]."""
    values = features.values
    channels = values.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
    slope = _slope(scale, features.variance, self.epsilon)
    offset = bias - features.mean * slope
    if isinstance(values, cpu.Prefix):
      return values.normalised(slope, offset, self.dtype)
    x = (values * slope + offset).astype(self.dtype)
    return nn.relu(x) if relu else x


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _slope(scale: jax.Array, variance: jax.Array, epsilon: float) -> jax.Array:
  """What a channel is multiplied by, scale / sqrt(variance + epsilon); all are [channels]."""
  return scale * jax.lax.rsqrt(variance + epsilon)


@_slope.defjvp
def _slope_jvp(epsilon: float, primals: Any, tangents: Any) -> Any:
  """d slope / d variance from the slope, not from the scale.

  With the scale read in the backward pass, a TPU's compiler copies the new one, since the old one's place is in use.
  """
  scale, variance = primals
  slope, inverse = _slope(scale, variance, epsilon), jax.lax.rsqrt(variance + epsilon)
  return slope, tangents[0] * inverse - slope * (0.5 * inverse * inverse) * tangents[1]
