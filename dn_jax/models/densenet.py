"""Densely Connected Convolutional Networks (Huang, Liu, van der Maaten, Weinberger; CVPR 2017).

x_l = H_l([x_0, x_1, ..., x_{l-1}])                                                        (equation 2)

The paper's symbols: L `depth`, k `growth_rate`, theta `compression`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dn_jax.config.network import blocks_of_depth as blocks_of_depth  # For those who import the class.
from dn_jax.config.network import smallest_dense_map
from dn_jax.models import block_gradient, initial, remat
from dn_jax.models.batch_stats import BatchCut, BatchNorm, FeatureMap, Features, MeasureMap, concatenate
from dn_jax.models.convolution import convolve, convolve_with_own_gradient
from dn_jax.models.dropout import Dropout

ModuleFactory = Callable[..., Any]


class DenseLayer(nn.Module):
  """H_l (section 3): BN, ReLU, 3x3 conv; with a bottleneck BN, ReLU, 1x1 conv before it (-B).

  Attributes:
    growth_rate: k, the number of channels a layer adds.
    bottleneck_width: the 1x1 convolution has this many times k outputs (4 in the paper); 0: no bottleneck.
    conv, norm, measure, dropout: factories of the submodules.
  """

  growth_rate: int
  bottleneck_width: int
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory
  dropout: ModuleFactory

  @nn.compact
  def __call__(self, features: Features, train: bool) -> FeatureMap:
    """features: x_0 ... x_{l-1}, all [batch, height, width, :]. Returns x_l, k channels."""
    x = nn.relu(self.norm(name="norm1")(concatenate(features)))
    if self.bottleneck_width:
      x = self.conv(self.bottleneck_width * self.growth_rate, (1, 1), name="conv1")(x)
      x = checkpoint_name(x, remat.BOTTLENECK)
      x = self.dropout()(x, train)
      x = self.measure(name="bottleneck")(x, train)
      x = nn.relu(self.norm(name="norm2")(x))
    x = self.conv(self.growth_rate, (3, 3), name="conv2" if self.bottleneck_width else "conv1")(x)
    x = checkpoint_name(self.dropout()(x, train), remat.OUTPUT)
    return self.measure(name="output")(x, train)


class DenseBlock(nn.Module):
  """Layers that each read all earlier maps of the block (figure 1); the maps stay apart.

  Nothing is concatenated here: a layer concatenates what it reads, inside `jax.checkpoint`, so that no
  concatenation outlives the layer.

  Attributes:
    layers: how many.
    dense_layer: factory of a layer.
    own_gradient: whether training takes the backward pass of `dn_jax.models.block_gradient`.
    cut: where the rest of the batch is.
  """

  layers: int
  dense_layer: ModuleFactory
  own_gradient: bool = False
  cut: BatchCut | None = None

  @nn.compact
  def __call__(self, features: Features, train: bool) -> Features:
    """Returns the maps it was given and one more, of k channels, for each layer."""
    layers = [self.dense_layer(name=f"layer{index + 1}") for index in range(self.layers)]
    if self.own_gradient and train and not self.is_initializing():
      return self._with_own_gradient(layers, features)
    for layer in layers:
      features += (layer(features, train),)
    return features

  def _with_own_gradient(self, layers: list[nn.Module], features: Features) -> Features:
    variables = [layer.variables for layer in layers]
    rngs = [layer.scope.rngs for layer in layers]
    features, updates = block_gradient.dense_block(self.dense_layer(parent=None), self.cut, variables, rngs, features)
    if self.is_mutable_collection("batch_stats"):
      for layer, updated in zip(layers, updates, strict=True):
        self.put_variable("batch_stats", layer.name, updated)
    return features


class Transition(nn.Module):
  """BN, ReLU, 1x1 conv to floor(theta * m) channels, 2x2 average pool (section 3, "Pooling layers").

  A 1x1 convolution and an average pool commute; where no dropout stands between them the pool goes first,
  and the convolution has a quarter of the pixels.
  """

  channels: int
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory
  dropout: ModuleFactory
  dropout_rate: float

  @nn.compact
  def __call__(self, features: Features, train: bool) -> FeatureMap:
    x = nn.relu(self.norm(name="norm")(concatenate(features)))
    conv = self.conv(self.channels, (1, 1), name="conv")
    pool = functools.partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2))
    if train and self.dropout_rate > 0:
      x = pool(self.dropout()(conv(x), train))
    else:
      x = conv(pool(x))
    return self.measure(name="output")(x, train)


class PooledFeatures(nn.Module):
  """The last BN, ReLU and global average pool, over pictures of any size. Returns [batch, channels]."""

  norm: ModuleFactory

  @nn.compact
  def __call__(self, features: Features, train: bool) -> jax.Array:
    del train
    return jnp.mean(nn.relu(self.norm(name="norm")(concatenate(features))), axis=(1, 2))


class Stem(nn.Module):
  """What comes before the first block.

  `cifar`: a 3x3 convolution (32x32 pictures and smaller). `imagenet`: a 7x7 convolution of stride 2, BN,
  ReLU and a 3x3 max pool of stride 2.
  """

  kind: str
  channels: int
  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> FeatureMap:
    if self.kind == "cifar":
      x = self.conv(self.channels, (3, 3), name="conv")(images)
    else:
      x = self.conv(self.channels, (7, 7), strides=(2, 2), padding=((3, 3), (3, 3)), name="conv")(images)
      x = nn.relu(self.norm(name="norm")(self.measure(name="conv_output")(x, train)))
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return self.measure(name="output")(x, train)


class DenseNet(nn.Module):
  """The whole network: DenseNet, -B, -C and -BC, for small pictures and for ImageNet.

  Parameters are in `params`, running averages in `batch_stats`, both in `param_dtype`; activations are in
  `dtype`.

  Attributes:
    blocks: layers of each dense block, e.g. (16, 16, 16); see `blocks_of_depth`.
    growth_rate: k.
    num_classes: width of the classifier.
    initial_channels: outputs of the stem (16 in the paper's plain DenseNet, 2k in -BC).
    bottleneck_width: outputs of a layer's 1x1 convolution, in units of k (4 in -B); 0: no bottleneck.
    compression: theta; a transition keeps floor(theta * m) of m channels. 0.5 in -C, 1 otherwise.
    stem: `cifar` or `imagenet`.
    dropout_rate: after every convolution but the first (section 4.2).
    remat: a name of `dn_jax.models.remat.POLICIES`.
    epsilon, momentum: of batch norm.
    convolution_init: `fan_out` (Torch) or `fan_in` (Caffe), for the convolutions.
    classifier_init: `torch` or `xavier` (Caffe), for the classifier's weight.
    dtype, param_dtype: see above.
    precision: of convolutions and products, as `jax.lax.Precision` names it.
    cut: where the rest of the batch is, if each device holds a part: statistics are of the whole.
  """

  blocks: tuple[int, ...]
  growth_rate: int
  num_classes: int
  initial_channels: int
  bottleneck_width: int = 4
  compression: float = 0.5
  stem: str = "cifar"
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
    """Classifies normalised pictures.

    Args:
      images: [batch, height, width, channels], normalised, any float type.
      train: use (and update, where `batch_stats` is mutable) the batch's statistics, and drop out; dropout
        needs an rng named `dropout`.

    Returns:
      Logits [batch, num_classes], in `param_dtype`.

    Raises:
      ValueError: a remat policy that is unknown, or `bottleneck` for a network that has none; pictures so small
        that pooling leaves nothing of them.
    """
    chex.assert_rank(images, 4)
    if smallest_dense_map(min(images.shape[1:3]), len(self.blocks), self.stem) < 1:
      raise ValueError(f"pictures of {images.shape[1]}x{images.shape[2]} pixels shrink to nothing in this network")
    if self.remat == "bottleneck" and not self.bottleneck_width:
      raise ValueError("remat policy 'bottleneck': this network has no bottleneck to keep; use 'dense_layer'")

    own_gradient = self.remat == "layer_by_layer"
    conv = functools.partial(
      nn.Conv,
      padding="SAME",
      use_bias=False,
      kernel_init=initial.CONVOLUTION[self.convolution_init],
      conv_general_dilated=convolve_with_own_gradient if own_gradient else convolve,
      precision=self.precision,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    norm = functools.partial(BatchNorm, self.epsilon, dtype=self.dtype, param_dtype=self.param_dtype)
    measure = functools.partial(MeasureMap, self.momentum, param_dtype=self.param_dtype, cut=self.cut)
    dropout = functools.partial(Dropout, self.dropout_rate, self.cut)
    dense_layer = functools.partial(
      remat.remat_layer(DenseLayer, self.remat), self.growth_rate, self.bottleneck_width, conv, norm, measure, dropout
    )
    dense_block = remat.remat_block(DenseBlock, self.remat)
    transition = remat.remat_layer(Transition, self.remat)
    pooled = remat.remat_layer(PooledFeatures, self.remat)

    features = (
      Stem(self.stem, self.initial_channels, conv, norm, measure, name="stem")(images.astype(self.dtype), train),
    )
    for index, layers in enumerate(self.blocks, start=1):
      features = dense_block(layers, dense_layer, own_gradient, self.cut, name=f"block{index}")(features, train)
      if self.is_mutable_collection("intermediates"):
        self.sow("intermediates", f"block{index}_end", concatenate(features).values)
      if index < len(self.blocks):
        channels = math.floor(self.compression * sum(x.values.shape[-1] for x in features))
        features = (
          transition(channels, conv, norm, measure, dropout, self.dropout_rate, name=f"transition{index}")(
            features, train
          ),
        )
    x = pooled(norm, name="last")(features, train)
    classifier = nn.Dense(
      self.num_classes,
      kernel_init=initial.CLASSIFIER[self.classifier_init],
      precision=self.precision,
      dtype=self.param_dtype,
      param_dtype=self.param_dtype,
      name="classifier",
    )
    return classifier(x.astype(self.param_dtype))
