"""RDNet: "DenseNets Reloaded: Paradigm Shift Beyond ResNets and ViTs" (Kim, Heo, Han; ECCV 2024).

x_l = f_l([x_0, x_1, ..., x_{l-1}]), as in DenseNet, in blocks of few wide layers with a transition after each block.

| in the paper                          | here                                                                |
|---------------------------------------|---------------------------------------------------------------------|
| feature mixer; mixing block           | `MixingLayer`; `MixingBlock`, three layers of one growth rate       |
| growth rate                           | `growth_rates`, one of each block                                   |
| transition layer, strided or not      | `Transition`, `downsample`                                          |
| layer scale; stochastic depth         | `layer_scale`, 1e-6 at the start; `survival`                        |

Nothing is normalised over the batch: an image's logits depend on that image alone. Details that the paper leaves open
are as in its authors' code and in timm: int(4 c / 8) * 8 inner and int(theta m / 8) * 8 kept channels, the exact GELU,
effective squeeze-and-excitation from the third block on.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.config.rdnet import EXCITED_FROM, inner_channels, kept_channels, smallest_mixed_map
from dn_jax.models import cpu, initial
from dn_jax.models.batch_stats import BatchCut
from dn_jax.models.layers import ModuleFactory, classifier, convolution, depth_factors, scaled

# The policies that it takes, of `dn_jax.models.remat`.
POLICIES = ("none", "dense_layer", "layer_by_layer")
_LAYER_SCALE = initial.CONSTANTS["layer_scale"]

Maps = tuple[jax.Array, ...]


def _mixed(inputs: jax.Array, kernel: jax.Array, *_: Any, precision: Any = None, **rest: Any) -> jax.Array:
  """A depthwise 7x7 convolution as `flax.linen.Conv` calls it."""
  del rest  # Strides of 1, and a padding of 3.
  return cpu.convolve_depthwise(inputs, kernel, precision)


class MixingLayer(nn.Module):
  """f_l: depthwise 7x7, LayerNorm, 1x1 to about four times the channels, GELU, 1x1 to the growth rate, layer scale.

  Attributes:
    growth_rate: channels that the layer adds.
    excite: whether effective squeeze-and-excitation comes before the layer scale.
    conv, norm: factories of the submodules.
    param_dtype: of the layer scale.
  """

  growth_rate: int
  excite: bool
  conv: ModuleFactory
  norm: ModuleFactory
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: Maps, factor: jax.Array | None = None) -> jax.Array:
    """Returns x_l, [batch, height, width, growth_rate].

    Args:
      maps: x_0, ..., x_{l-1}, [batch, height, width, :] each.
      factor: of `dn_jax.models.layers.depth_factors`.
    """
    x = jnp.concatenate(maps, axis=-1) if len(maps) > 1 else maps[0]
    channels = x.shape[-1]
    mix = self.conv(7, 1, channels, feature_group_count=channels, conv_general_dilated=_mixed, name="mix")
    x = self.norm(name="norm")(mix(x))
    x = nn.gelu(self.conv(1, channels, inner_channels(channels), name="expand")(x), approximate=False)
    x = self.conv(1, x.shape[-1], self.growth_rate, name="project")(x)
    if self.excite:
      squeezed = jnp.mean(x, axis=(1, 2), keepdims=True)
      x *= nn.hard_sigmoid(self.conv(1, self.growth_rate, self.growth_rate, name="excite")(squeezed))
    scale = self.param("layer_scale", nn.initializers.constant(_LAYER_SCALE), (self.growth_rate,), self.param_dtype)
    x *= scale.astype(x.dtype)
    return scaled(x, factor)


class MixingBlock(nn.Module):
  """Layers of one growth rate, each of which reads all earlier maps of the block.

  Attributes:
    layers: how many.
    mixing_layer: factory of f_l.
    own_gradient: train by a backward pass that recomputes one layer at a time; the same function.
  """

  layers: int
  mixing_layer: ModuleFactory
  own_gradient: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, factors: Sequence[jax.Array | None]) -> Maps:
    """x: x_0, [batch, height, width, :]. Returns (x_0, x_1, ..., x_l)."""
    layers = [self.mixing_layer(name=f"layer{index + 1}") for index in range(self.layers)]
    if self.own_gradient and not self.is_initializing():
      how = _How(self.mixing_layer(parent=None))
      return _run(how, [layer.variables for layer in layers], tuple(factors), x)
    maps = (x,)
    for layer, factor in zip(layers, factors, strict=True):
      maps += (layer(maps, factor),)
    return maps


class _How(NamedTuple):
  """A mixing layer without variables."""

  layer: nn.Module


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(how: _How, variables: Sequence[Any], factors: Sequence[jax.Array | None], x: jax.Array) -> Maps:
  """All maps of a block. In the backward pass one layer's activations exist at a time, beside maps and gradients."""
  maps = (x,)
  for its_variables, factor in zip(variables, factors, strict=True):
    maps += (how.layer.apply(its_variables, maps, factor),)
  return maps


def _forward(how: _How, variables: Sequence[Any], factors: Sequence[jax.Array | None], x: jax.Array) -> Any:
  maps = _run(how, variables, factors, x)
  return maps, (variables, factors, maps)


def _backward(how: _How, residuals: Any, gradients: Maps) -> tuple[list[Any], Any, jax.Array]:
  variables, factors, maps = residuals
  of_variables = []
  for index in reversed(range(len(variables))):
    # What a layer computes again waits until the layer after it is done.
    maps, gradients = jax.lax.optimization_barrier((maps[: index + 1], gradients))
    # Without `jax.checkpoint` a CPU's compiler needs a quarter more memory.
    layer = jax.checkpoint(functools.partial(how.layer.apply, factor=factors[index]))
    _, pull_back = jax.vjp(layer, variables[index], maps)
    of_its, of_maps = pull_back(gradients[-1])
    gradients = jax.tree.map(jnp.add, gradients[:-1], of_maps)
    of_variables.append(of_its)
  return of_variables[::-1], jax.tree.map(jnp.zeros_like, factors), gradients[0]


_run.defvjp(_forward, _backward)


class Transition(nn.Module):
  """LayerNorm and a convolution whose kernel and stride are 2 where it halves the map, else 1.

  Attributes:
    channels: that it keeps.
    stride: 2 or 1.
    conv, norm: factories of the submodules.
  """

  channels: int
  stride: int
  conv: ModuleFactory
  norm: ModuleFactory

  @nn.compact
  def __call__(self, maps: Maps) -> jax.Array:
    """maps: all of a block. Returns x_0 of the next, [batch, height / stride, width / stride, channels]."""
    x = self.norm(name="norm")(jnp.concatenate(maps, axis=-1))
    return self.conv(self.stride, x.shape[-1], self.channels, strides=(self.stride,) * 2, name="conv")(x)


class Stem(nn.Module):
  """The image cut into patches, each one pixel of x_0: a convolution whose stride is its kernel's size, LayerNorm."""

  patch_size: int
  channels: int
  conv: ModuleFactory
  norm: ModuleFactory

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """images: [batch, height, width, :]. Returns [batch, height / patch_size, width / patch_size, channels]."""
    strides = (self.patch_size,) * 2
    x = self.conv(self.patch_size, images.shape[-1], self.channels, strides=strides, name="conv")(images)
    return self.norm(name="norm")(x)


class PooledFeatures(nn.Module):
  """The global average pool and LayerNorm after the last block."""

  norm: ModuleFactory

  @nn.compact
  def __call__(self, maps: Maps) -> jax.Array:
    """maps: all of the last block. Returns [batch, channels]."""
    return self.norm(name="norm")(jnp.mean(jnp.concatenate(maps, axis=-1), axis=(1, 2)))


class RDNet(nn.Module):
  """RDNet, for ImageNet and, with a small `patch_size`, for small images.

  Attributes:
    blocks: number of layers of each block, 3 each in the paper.
    growth_rates: channels that a layer adds, one number for each block.
    num_classes: outputs of the classifier.
    initial_channels: outputs of the stem.
    downsample: numbers of the transitions that halve the map, from 1.
    patch_size: of the stem; 4 in the paper.
    compression: theta; a transition keeps int(theta * m / 8) * 8 of m channels.
    survival: the last layer's chance to be kept in training; the first one's is 1, those between lie on a line. Each
      image draws for itself, and what is kept is divided by its chance.
    remat: `none`, `dense_layer` (`jax.checkpoint` on each layer) or `layer_by_layer` (a backward pass of its own).
    epsilon: of LayerNorm.
    the rest: as in `dn_jax.models.densenet.DenseNet`.
  """

  blocks: tuple[int, ...]
  growth_rates: tuple[int, ...]
  num_classes: int
  initial_channels: int
  downsample: tuple[int, ...]
  patch_size: int = 4
  compression: float = 0.5
  survival: float = 1.0
  remat: str = "dense_layer"
  epsilon: float = 1e-6
  convolution_init: str = "fan_in"
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
      train: drop layers, which needs an rng named `dropout` where `survival` is below 1.

    Raises:
      ValueError: a remat policy that it does not take; nothing is left of an image's pixels, or of a
        transition's channels.
    """
    chex.assert_rank(images, 4)
    if self.remat not in POLICIES:
      raise ValueError(f"remat policy {self.remat!r}: of an RDNet one of {', '.join(POLICIES)}")
    if smallest_mixed_map(min(images.shape[1:3]), self.patch_size, len(self.downsample)) < 1:
      raise ValueError(f"images of {images.shape[1]}x{images.shape[2]} pixels shrink to nothing in this network")
    norm = functools.partial(
      nn.LayerNorm, self.epsilon, use_fast_variance=False, dtype=self.dtype, param_dtype=self.param_dtype
    )
    plain = convolution(self, "VALID")

    def conv(kernel: int, inputs: int, outputs: int, **rest: Any) -> nn.Conv:
      bias = initial.bias(kernel * kernel * inputs)
      return plain(outputs, (kernel, kernel), use_bias=True, bias_init=bias, **rest)

    again = (lambda module: module) if self.remat == "none" else nn.remat
    # A block with a backward pass of its own sees to its layers.
    layer = nn.remat(MixingLayer) if self.remat == "dense_layer" else MixingLayer
    mixing_layer = functools.partial(layer, conv=conv, norm=norm, param_dtype=self.param_dtype)
    factors = iter(depth_factors(self, sum(self.blocks), len(images), train))

    x = Stem(self.patch_size, self.initial_channels, conv, norm, name="stem")(images.astype(self.dtype))
    for index, (layers, growth_rate) in enumerate(zip(self.blocks, self.growth_rates, strict=True), start=1):
      of_layer = functools.partial(mixing_layer, growth_rate, index >= EXCITED_FROM)
      block = MixingBlock(layers, of_layer, train and self.remat == "layer_by_layer", name=f"block{index}")
      maps = block(x, [next(factors) for _ in range(layers)])
      if self.is_mutable_collection("intermediates"):
        self.sow("intermediates", f"block{index}_end", jnp.concatenate(maps, axis=-1))
      if index < len(self.blocks):
        channels = kept_channels(self.compression, sum(x.shape[-1] for x in maps))
        if channels < 1:
          raise ValueError(f"compression {self.compression}: leaves transition {index} without channels")
        stride = 2 if index in self.downsample else 1
        x = again(Transition)(channels, stride, conv, norm, name=f"transition{index}")(maps)
    x = again(PooledFeatures)(norm, name="last")(maps)
    return classifier(self)(x.astype(self.param_dtype))
