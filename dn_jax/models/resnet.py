"""The networks that DenseNet's tables compare with: ResNet, with stochastic depth, pre-activation, and wide.

He et al., "Deep residual learning" (2015); Huang et al., "Deep networks with stochastic depth" (2016); He et
al., "Identity mappings" (2016); Zagoruyko and Komodakis, "Wide residual networks" (2016). All for 32x32
pictures, three stages of equally many residual units.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models import remat
from dn_jax.models.batch_stats import BatchCut, BatchNorm, MeasureMap
from dn_jax.models.convolution import convolve
from dn_jax.models.densenet import ModuleFactory
from dn_jax.models.dropout import Dropout
from dn_jax.models.initial import CLASSIFIER, CONVOLUTION


class Branch(nn.Module):
  """conv, BN, ReLU, conv, BN: the branch of an original residual unit."""

  channels: int
  stride: int
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = self.conv(self.channels, (3, 3), strides=(self.stride, self.stride), name="conv1")(x)
    x = nn.relu(self.norm(name="norm1")(self.measure(name="middle")(x, train)))
    x = self.conv(self.channels, (3, 3), name="conv2")(x)
    return self.norm(name="norm2")(self.measure(name="output")(x, train))


class OriginalUnit(nn.Module):
  """ReLU(shortcut + branch), the shortcut without parameters ("option A").

  Where the size changes the shortcut takes every other pixel, or in the code of stochastic depth averages four,
  and new channels are zero. Under stochastic depth (equation 2 there) a dropped branch is not computed in
  training, and in evaluation the branch is scaled by its survival probability (equation 5 there).
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
    """x: [batch, height, width, :]; survives: bool scalar, in training under stochastic depth."""
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
  """shortcut + branch, BN and ReLU before each convolution.

  `bottleneck`: 1x1 (the stride here), 3x3, 1x1 with a quarter of the channels inside; otherwise two 3x3 with
  dropout between. Where the channels change, the shortcut is a 1x1 convolution of the unit's first BN, ReLU.
  """

  channels: int
  stride: int
  bottleneck: bool
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory
  dropout: ModuleFactory

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    first = nn.relu(self.norm(name="norm1")(self.measure(name="input")(x, train)))
    strides = (self.stride, self.stride)
    if x.shape[-1] == self.channels and self.stride == 1:
      shortcut = x
    else:
      shortcut = self.conv(self.channels, (1, 1), strides=strides, name="shortcut")(first)
    if not self.bottleneck:
      y = self.conv(self.channels, (3, 3), strides=strides, name="conv1")(first)
      y = nn.relu(self.norm(name="norm2")(self.measure(name="middle")(y, train)))
      return shortcut + self.conv(self.channels, (3, 3), name="conv2")(self.dropout()(y, train))
    y = self.conv(self.channels // 4, (1, 1), strides=strides, name="conv1")(first)
    y = nn.relu(self.norm(name="norm2")(self.measure(name="middle1")(y, train)))
    y = self.conv(self.channels // 4, (3, 3), name="conv2")(y)
    y = nn.relu(self.norm(name="norm3")(self.measure(name="middle2")(y, train)))
    return shortcut + self.conv(self.channels, (1, 1), name="conv3")(y)


class ResNet(nn.Module):
  """A residual network for small pictures.

  Attributes:
    kind: `resnet` (6n + 2 layers), `preactivation` (bottleneck units, 9n + 2) or `wide` (6n + 4).
    units: n, residual units of each stage; see `dn_jax.config.network.units_of_depth`.
    num_classes: width of the classifier.
    widen_factor: channels, in units of 16, 32, 64 (`wide`).
    survival: p_L, the last unit's survival probability; p_l = 1 - l / L * (1 - p_L). 1: no stochastic depth.
    average_shortcut: the shortcuts of `resnet` average four pixels where the size changes (the code of stochastic
      depth, with and without it), and do not take one of them.
    dropout_rate: between the convolutions of a `wide` unit.
    remat: `none`, or `dense_layer`: each residual unit is rematerialised.
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
    """Logits [batch, num_classes] of normalised pictures; see `DenseNet.__call__`.

    Stochastic depth in training draws from the rng `depth`, once a unit for the whole batch.
    """
    chex.assert_rank(images, 4)
    conv = functools.partial(
      nn.Conv,
      padding=((1, 1), (1, 1)),
      use_bias=False,
      kernel_init=CONVOLUTION[self.convolution_init],
      conv_general_dilated=convolve,
      precision=self.precision,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    norm = functools.partial(BatchNorm, self.epsilon, dtype=self.dtype, param_dtype=self.param_dtype)
    measure = functools.partial(MeasureMap, self.momentum, param_dtype=self.param_dtype, cut=self.cut)

    count = 3 * self.units
    alive = 1 - (1 - self.survival) * jnp.arange(1, count + 1) / count
    stochastic = self.survival < 1 and train
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
        dropout = functools.partial(Dropout, self.dropout_rate, self.cut)
        x = make(channels, stride, self.kind == "preactivation", conv, norm, measure, dropout, name=name)(x, train)
    if self.kind != "resnet":
      x = nn.relu(norm(name="norm")(measure(name="output")(x, train)))
    x = jnp.mean(x, axis=(1, 2)).astype(self.param_dtype)
    return nn.Dense(
      self.num_classes,
      kernel_init=CLASSIFIER[self.classifier_init],
      precision=self.precision,
      dtype=self.param_dtype,
      param_dtype=self.param_dtype,
      name="classifier",
    )(x)
