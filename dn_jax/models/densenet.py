"""Densely Connected Convolutional Networks (Huang, Liu, van der Maaten, Weinberger; CVPR 2017).

x_l = H_l([x_0, x_1, ..., x_{l-1}])                                                                  (equation 2)

| in the paper            | here                                                                 |
|-------------------------|----------------------------------------------------------------------|
| H_l; x_l                | `DenseLayer`; the `FeatureMap` that it returns                       |
| dense block; transition | `DenseBlock`; `Transition`                                           |
| L                       | `depth`, or `blocks`, the number of layers in each block             |
| k; theta                | `growth_rate`; `compression`                                         |
| -B; -C                  | `bottleneck_width` 4 (0: no bottleneck); `compression` below 1       |

A map's batch statistics are taken when it is made (`measure`), and every reader of the map normalises by them with
a scale and bias of its own (`norm`): see `dn_jax.models.batch_stats`.
"""

import functools
import math
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dn_jax.config.densenet import blocks_of_depth as blocks_of_depth  # For those who import the class.
from dn_jax.config.densenet import smallest_dense_map
from dn_jax.models import block_gradient, remat
from dn_jax.models.batch_stats import BatchCut, FeatureMap, Features, concatenate
from dn_jax.models.layers import ModuleFactory, classifier, depth_factors, factories, scaled


class DenseLayer(nn.Module):
  """H_l (section 3): BN, ReLU, 3x3 conv; in DenseNet-B, BN, ReLU, 1x1 conv before these.

  Attributes:
    growth_rate: k, the number of channels that the layer adds.
    bottleneck_width: outputs of the 1x1 convolution in units of k (4 in the paper); 0: no bottleneck.
    conv, norm, measure, dropout: factories of the submodules.
  """

  growth_rate: int
  bottleneck_width: int
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory
  dropout: ModuleFactory

  def setup(self) -> None:
    if self.bottleneck_width:
      self.norm1, self.conv1 = self.norm(), self.conv(self.bottleneck_width * self.growth_rate, (1, 1))
      self.bottleneck = self.measure()
      self.norm2, self.conv2 = self.norm(), self.conv(self.growth_rate, (3, 3))
      self.Dropout_0 = self.dropout()  # Whose names are part of what they draw.
      self.Dropout_1 = self.dropout()
    else:
      self.norm1, self.conv1 = self.norm(), self.conv(self.growth_rate, (3, 3))
      self.Dropout_0 = self.dropout()
    self.output = self.measure()

  def __call__(self, features: Features, train: bool, factor: jax.Array | None = None) -> FeatureMap:
    """Returns x_l, [batch, height, width, k].

    Args:
      features: x_0, ..., x_{l-1}, [batch, height, width, :] each.
      train: as in `DenseNet.__call__`.
      factor: of `dn_jax.models.layers.depth_factors`.
    """
    return self.maps(features, train, factor)[1]

  def maps(self, features: Features, train: bool, factor: jax.Array | None) -> tuple[FeatureMap | None, FeatureMap]:
    """The bottleneck's map, [batch, height, width, 4k] (None without a bottleneck), and x_l."""
    narrow = None
    if self.bottleneck_width:
      narrow = self.bottleneck(self.first_half(features, train), train)
    x = checkpoint_name(self.second_half((narrow,) if narrow else features, train, factor), remat.OUTPUT)
    return narrow, self.output(x, train)

  def first_half(self, features: Features, train: bool) -> jax.Array:
    """BN, ReLU, 1x1 conv: the bottleneck's values, not yet measured."""
    return self.Dropout_0(self.conv1(self.norm1(concatenate(features), relu=True)), train)

  def second_half(self, features: Features, train: bool, factor: jax.Array | None = None) -> jax.Array:
    """BN, ReLU, 3x3 conv: the values of x_l, not yet measured, from the bottleneck's map or from all earlier ones."""
    if self.bottleneck_width:
      x = self.Dropout_1(self.conv2(self.norm2(concatenate(features), relu=True)), train)
    else:
      x = self.Dropout_0(self.conv1(self.norm1(concatenate(features), relu=True)), train)
    return scaled(x, factor)


class DenseBlock(nn.Module):
  """Dense layers, each of which reads all earlier maps of the block (figure 1).

  The maps stay apart. Each layer concatenates them for itself, inside `jax.checkpoint`, so that no concatenation
  outlives the layer.

  Attributes:
    layers: how many.
    dense_layer: factory of H_l.
    own_gradient: train by the backward pass of `dn_jax.models.block_gradient`; the same function.
    keep_bottlenecks: what that pass keeps of each layer besides x_l; else it computes the bottleneck again.
    cut: how several devices hold the batch; None: one device has all of it.
  """

  layers: int
  dense_layer: ModuleFactory
  own_gradient: bool = False
  keep_bottlenecks: bool = False
  cut: BatchCut | None = None

  @nn.compact
  def __call__(self, features: Features, train: bool, factors: Sequence[jax.Array | None]) -> Features:
    """features: (x_0,). Returns (x_0, x_1, ..., x_l): one more map, of k channels, for each layer."""
    layers = [self.dense_layer(name=f"layer{index + 1}") for index in range(self.layers)]
    if self.own_gradient and train and not self.is_initializing():
      return block_gradient.train_block(self, layers, features, factors)
    for layer, factor in zip(layers, factors, strict=True):
      features += (layer(features, train, factor),)
    return features


class Transition(nn.Module):
  """BN, ReLU, 1x1 conv to floor(theta * m) of m channels, 2x2 average pool (section 3, "Pooling layers").

  A 1x1 convolution and an average pool commute. Where no dropout stands between them the pool goes first, and leaves
  the convolution a quarter of the pixels.

  Attributes:
    channels: floor(theta * m).
    conv, norm, measure, dropout: factories of the submodules.
  """

  channels: int
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory
  dropout: ModuleFactory

  @nn.compact
  def __call__(self, features: Features, train: bool) -> FeatureMap:
    """features: all maps of a block. Returns x_0 of the next, [batch, height / 2, width / 2, channels]."""
    x = self.norm(name="norm")(concatenate(features), relu=True)
    conv, dropout = self.conv(self.channels, (1, 1), name="conv"), self.dropout()
    pool = functools.partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2))
    if train and dropout.rate > 0:
      x = pool(dropout(conv(x), train))
    else:
      x = conv(pool(x))
    return self.measure(name="output")(x, train)


class PooledFeatures(nn.Module):
  """BN, ReLU and the global average pool after the last block."""

  norm: ModuleFactory

  @nn.compact
  def __call__(self, features: Features, train: bool) -> jax.Array:
    """features: all maps of the last block. Returns [batch, channels]."""
    del train
    return jnp.mean(self.norm(name="norm")(concatenate(features), relu=True), axis=(1, 2))


class Stem(nn.Module):
  """The layers before the first block.

  Attributes:
    kind: `cifar` (3x3 conv, for images of 32x32 and smaller) or `imagenet` (7x7 conv of stride 2, BN, ReLU, 3x3 max
      pool of stride 2).
    channels: outputs of the convolution.
    conv, norm, measure: factories of the submodules.
  """

  kind: str
  channels: int
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> FeatureMap:
    """images: [batch, height, width, :]. Returns x_0 of the first block, 1/4 of the height and width on ImageNet."""
    if self.kind == "cifar":
      x = self.conv(self.channels, (3, 3), name="conv")(images)
    else:
      x = self.conv(self.channels, (7, 7), strides=(2, 2), padding=((3, 3), (3, 3)), name="conv")(images)
      x = self.norm(name="norm")(self.measure(name="conv_output")(x, train), relu=True)
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return self.measure(name="output")(x, train)


class DenseNet(nn.Module):
  """DenseNet, -B, -C and -BC, for small images and for ImageNet.

  Attributes:
    blocks: number of layers of each dense block: (16, 16, 16) for L=100 with bottlenecks; see `blocks_of_depth`.
    growth_rate: k.
    num_classes: outputs of the classifier.
    initial_channels: outputs of the stem (16 in the paper's plain DenseNet, 2k in -BC).
    bottleneck_width: outputs of a layer's 1x1 convolution, in units of k (4 in -B); 0: no bottleneck.
    compression: theta (0.5 in -C, 1 otherwise); a transition keeps floor(theta * m) of m channels.
    stem: `cifar` or `imagenet`.
    dropout_rate: after every convolution but the first (section 4.2).
    survival: of stochastic depth: the last dense layer's chance to be kept, see `dn_jax.models.layers.depth_factors`.
    remat: one of `dn_jax.models.remat.POLICIES`.
    epsilon, momentum: of batch norm.
    convolution_init: `fan_out` (Torch) or `fan_in` (Caffe).
    classifier_init: `torch` or `xavier` (Caffe).
    dtype: of activations.
    param_dtype: of `params`, and of the running averages in `batch_stats`.
    precision: of convolutions and matrix products, as `jax.lax.Precision` names it.
    cut: how several devices hold the batch, whose statistics are then of the whole; None: one device has all of it.
  """

  blocks: tuple[int, ...]
  growth_rate: int
  num_classes: int
  initial_channels: int
  bottleneck_width: int = 4
  compression: float = 0.5
  stem: str = "cifar"
  dropout_rate: float = 0.0
  survival: float = 1.0
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
      train: normalise by the batch's statistics (and update the running averages, where `batch_stats` is mutable),
        and drop out or drop layers (which needs an rng named `dropout`).

    Raises:
      ValueError: an unknown remat policy, or `bottleneck` for a network without bottlenecks; images so small that
        pooling leaves nothing of them.
    """
    chex.assert_rank(images, 4)
    if smallest_dense_map(min(images.shape[1:3]), len(self.blocks), self.stem) < 1:
      raise ValueError(f"images of {images.shape[1]}x{images.shape[2]} pixels shrink to nothing in this network")
    if self.remat == "bottleneck" and not self.bottleneck_width:
      raise ValueError("remat policy 'bottleneck': this network has no bottleneck to keep; use 'dense_layer'")

    own_gradient = self.remat in remat.BY_HAND
    make = factories(self, own_gradient=own_gradient)
    dense_layer = functools.partial(
      remat.remat_layer(DenseLayer, self.remat), self.growth_rate, self.bottleneck_width, *make
    )
    dense_block = functools.partial(
      remat.remat_block(DenseBlock, self.remat),
      dense_layer=dense_layer,
      own_gradient=own_gradient,
      keep_bottlenecks=self.remat == "bottleneck",
      cut=self.cut,
    )
    transition = remat.remat_layer(Transition, self.remat)
    pooled_features = remat.remat_layer(PooledFeatures, self.remat)

    stem = Stem(self.stem, self.initial_channels, make.conv, make.norm, make.measure, name="stem")
    features = (stem(images.astype(self.dtype), train),)
    factors = iter(depth_factors(self, sum(self.blocks), len(images), train))
    for index, layers in enumerate(self.blocks, start=1):
      of_layers = [next(factors) for _ in range(layers)]
      features = dense_block(layers, name=f"block{index}")(features, train, of_layers)
      if self.is_mutable_collection("intermediates"):
        self.sow("intermediates", f"block{index}_end", concatenate(features).values)
      if index < len(self.blocks):
        channels = math.floor(self.compression * sum(x.values.shape[-1] for x in features))
        features = (transition(channels, *make, name=f"transition{index}")(features, train),)
    x = pooled_features(make.norm, name="last")(features, train)  # [batch, channels]
    return classifier(self)(x.astype(self.param_dtype))
