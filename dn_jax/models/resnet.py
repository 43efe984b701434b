"""The residual networks in DenseNet's tables, for 32x32 images: three stages of equally many residual units.

| `kind`                       | paper                                                      |
|------------------------------|------------------------------------------------------------|
| `resnet`                     | He et al., "Deep residual learning" (2015)                 |
| `resnet` with `survival` < 1 | Huang et al., "Deep networks with stochastic depth" (2016) |
| `preactivation`              | He et al., "Identity mappings" (2016)                      |
| `wide`                       | Zagoruyko and Komodakis, "Wide residual networks" (2016)   |
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models import remat
from dn_jax.models.batch_stats import BatchCut
from dn_jax.models.layers import ModuleFactory, classifier, depth_factors, factories, scaled


class Branch(nn.Module):
  """The branch of an `OriginalUnit`: conv, BN, ReLU, conv, BN."""

  channels: int
  stride: int
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """x: [batch, height, width, :]. Returns [batch, height / stride, width / stride, channels]."""
    x = self.conv(self.channels, (3, 3), strides=(self.stride, self.stride), name="conv1")(x)
    x = nn.relu(self.norm(name="norm1")(self.measure(name="middle")(x, train)))
    x = self.conv(self.channels, (3, 3), name="conv2")(x)
    return self.norm(name="norm2")(self.measure(name="output")(x, train))


class OriginalUnit(nn.Module):
  """ReLU(shortcut + branch), with a shortcut that has no parameters ("option A").

  Where the size changes, the shortcut takes every second pixel (or averages four: `average_shortcut`), and new
  channels are zero. Under stochastic depth, training does not compute a dropped branch (equation 2 of its paper), and
  evaluation scales the branch by its survival probability (equation 5).
  """

  channels: int
  stride: int
  survival: float
  average_shortcut: bool
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, survives: jax.Array | None = None) -> jax.Array:
    """Returns [batch, height / stride, width / stride, channels].

    Args:
      x: [batch, height, width, :].
      train: as in `ResNet.__call__`.
      survives: whether the branch is computed, a bool scalar; for training under stochastic depth.
    """
    branch = Branch(self.channels, self.stride, self.conv, self.norm, self.measure, name="branch")
    shortcut = x
    if self.stride > 1 and self.average_shortcut:
      shortcut = nn.avg_pool(x, (self.stride, self.stride), (self.stride, self.stride))
    elif self.stride > 1:
      shortcut = x[:, :: self.stride, :: self.stride]
    shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, self.channels - x.shape[-1])))
    if survives is None:
      y = branch(x, train) * jnp.asarray(1.0 if train else self.survival, x.dtype)
    else:
      y = nn.cond(survives, lambda module, x: module(x, True), lambda _, x: jnp.zeros_like(shortcut), branch, x)
    return nn.relu(shortcut + y)


class PreactivationUnit(nn.Module):
  """shortcut + branch, with BN and ReLU before each convolution of the branch.

  With `bottleneck` the branch is 1x1 (which has the stride), 3x3, 1x1, with a quarter of the channels inside. Without,
  it is two 3x3 with dropout between them. Where the shape changes, the shortcut is a 1x1 convolution of the first BN,
  ReLU.
  """

  channels: int
  stride: int
  bottleneck: bool
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory
  dropout: ModuleFactory

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, factor: jax.Array | None = None) -> jax.Array:
    """Returns [batch, height / stride, width / stride, channels].

    Args:
      x: [batch, height, width, :].
      train: as in `ResNet.__call__`.
      factor: of the branch, see `dn_jax.models.layers.depth_factors`.
    """
    first = nn.relu(self.norm(name="norm1")(self.measure(name="input")(x, train)))
    strides = (self.stride, self.stride)
    if x.shape[-1] == self.channels and self.stride == 1:
      shortcut = x
    else:
      shortcut = self.conv(self.channels, (1, 1), strides=strides, name="shortcut")(first)
    if not self.bottleneck:
      y = self.conv(self.channels, (3, 3), strides=strides, name="conv1")(first)
      y = nn.relu(self.norm(name="norm2")(self.measure(name="middle")(y, train)))
      return shortcut + scaled(self.conv(self.channels, (3, 3), name="conv2")(self.dropout()(y, train)), factor)
    y = self.conv(self.channels // 4, (1, 1), strides=strides, name="conv1")(first)
    y = nn.relu(self.norm(name="norm2")(self.measure(name="middle1")(y, train)))
    y = self.conv(self.channels // 4, (3, 3), name="conv2")(y)
    y = nn.relu(self.norm(name="norm3")(self.measure(name="middle2")(y, train)))
    return shortcut + scaled(self.conv(self.channels, (1, 1), name="conv3")(y), factor)


class ResNet(nn.Module):
  """A residual network for small images.

  Attributes:
    kind: `resnet` (6n + 2 layers), `preactivation` (bottleneck units, 9n + 2) or `wide` (6n + 4).
    units: n, the number of residual units of each stage; see `dn_jax.config.families.units_of_depth`.
    num_classes: outputs of the classifier.
    widen_factor: of `wide`: channels of the stages, in units of 16, 32, 64.
    survival: p_L, the last unit's survival probability; 1: no stochastic depth. Of `resnet` for the whole batch,
      p_l = 1 - l / L * (1 - p_L); of the others as `dn_jax.models.layers.depth_factors` has it.
    average_shortcut: of `resnet`: where the size changes, shortcuts average four pixels instead of taking one (as the
      code of stochastic depth does, also for the network without it).
    dropout_rate: of `wide`: between the convolutions of a unit.
    remat: `none`, or `dense_layer`, which recomputes each residual unit in the backward pass.
    the rest: as in `dn_jax.models.densenet.DenseNet`.
  """

  kind: str
  units: int
  num_classes: int
  widen_factor: int = 1
  survival: float = 1.0
  average_shortcut: bool = False
  dropout_rate: float = 0.0
  remat: str = "dense_layer"
  epsilon: float = 1e-5
  momentum: float = 0.9
  convolution_init: str = "fan_out"
  classifier_init: str = "torch"
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  precision: str | None = None
  cut: BatchCut | None = None

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Returns logits [batch, num_classes], in `param_dtype`.

    Args:
      images: [batch, height, width, channels], normalised, any float type.
      train: as in `DenseNet.__call__`; stochastic depth of `resnet` draws from the rng `depth`, once per unit for the
        whole batch.
    """
    chex.assert_rank(images, 4)
    # As in PyTorch; of stride 2, "SAME" would pad at the end alone.
    conv, norm, measure, dropout = factories(self, padding=((1, 1), (1, 1)))
    count = 3 * self.units
    alive = 1 - (1 - self.survival) * jnp.arange(1, count + 1) / count
    stochastic = self.kind == "resnet" and self.survival < 1 and train
    factors = [None] * count if self.kind == "resnet" else depth_factors(self, count, len(images), train)
    survives = jax.random.bernoulli(self.make_rng("depth"), alive) if stochastic else None

    x = conv(16, (3, 3), name="stem")(images.astype(self.dtype))
    if self.kind == "resnet":
      x = nn.relu(norm(name="norm")(measure(name="stem_output")(x, train)))
    for index in range(count):
      stage, number = divmod(index, self.units)
      channels = 16 * 2**stage * (4 if self.kind == "preactivation" else self.widen_factor)
      stride = 2 if stage and not number else 1
      name = f"stage{stage + 1}_unit{number + 1}"
      if self.kind == "resnet":
        survival = 1 - (1 - self.survival) * (index + 1) / count
        make = remat.remat_layer(OriginalUnit, self.remat)
        unit = make(channels, stride, survival, self.average_shortcut, conv, norm, measure, name=name)
        x = unit(x, train, survives[index]) if stochastic else unit(x, train)
      else:
        make = remat.remat_layer(PreactivationUnit, self.remat)
        unit = make(channels, stride, self.kind == "preactivation", conv, norm, measure, dropout, name=name)
        x = unit(x, train, factors[index])
    if self.kind != "resnet":
      x = nn.relu(norm(name="norm")(measure(name="output")(x, train)))
    x = jnp.mean(x, axis=(1, 2)).astype(self.param_dtype)
    return classifier(self)(x)
