"""The layers that the networks are made of, from attributes that they have."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models import cpu
from dn_jax.models.batch_stats import BatchCut, BatchNorm, MeasureMap
from dn_jax.models.initial import CLASSIFIER, CONVOLUTION

ModuleFactory = Callable[..., Any]


def convolve(
  inputs: jax.Array,
  kernel: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  own_gradient: bool = False,
  **rest: Any,
) -> jax.Array:
  """`jax.lax.conv_general_dilated`, as `flax.linen.Conv` calls it; 1x1 convolutions are products, but on TPUs.

  On the CPU back end the weight gradient of a 1x1 `conv_general_dilated` takes about ten times as long as that of
  the product. Around products a TPU's compiler copies maps of fewer than 128 images and at least as many channels into
  another layout (docs/history.md).

  Args:
    inputs: [batch, height, width, in_channels].
    kernel: [kernel_height, kernel_width, in_channels, out_channels].
    window_strides: vertical, horizontal.
    padding: as `jax.lax.conv_general_dilated` takes it; ignored for a 1x1 kernel.
    own_gradient: give 3x3 convolutions of stride 1 the gradients of `dn_jax.models.cpu.convolve_3x3`.
    **rest: the other arguments of `jax.lax.conv_general_dilated`.

  Returns:
    [batch, height', width', out_channels].
  """
  if kernel.shape[:2] == (1, 1):
    product = functools.partial(_product, window_strides=window_strides, precision=rest.get("precision"))
    on_tpu = functools.partial(jax.lax.conv_general_dilated, window_strides=window_strides, padding="VALID", **rest)
    return jax.lax.platform_dependent(inputs, kernel, tpu=on_tpu, default=product)
  if own_gradient and kernel.shape[:2] == (3, 3) and tuple(window_strides) == (1, 1) and padding == "SAME":
    return cpu.convolve_3x3(inputs, kernel, rest.get("precision"))
  return jax.lax.conv_general_dilated(inputs, kernel, window_strides, padding, **rest)


def _product(inputs: jax.Array, kernel: jax.Array, window_strides: Sequence[int], precision: Any) -> jax.Array:
  """A 1x1 convolution as a matrix product."""
  inputs = inputs[:, :: window_strides[0], :: window_strides[1]]
  flat = jnp.dot(inputs.reshape(-1, inputs.shape[-1]), kernel[0, 0], precision=precision)
  return flat.reshape(*inputs.shape[:-1], kernel.shape[-1])


class Dropout(nn.Module):
  """In training, zeroes a share of all values and scales the others up; draws from the rng `dropout`.

  The draw of a value depends on the key, on its image's row in the batch and on its place in the image, not on the
  devices that share the batch.

  Attributes:
    rate: the share of zeros.
    cut: how several devices hold the batch; None: one device has all of it.
  """

  rate: float
  cut: BatchCut | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """x: [batch, height, width, channels]; returns the same shape and type."""
    if not train or self.rate == 0:
      return x
    key = jax.random.key_data(self.make_rng("dropout"))
    flat = (x.shape[0], x[0].size)
    row, place = (jax.lax.broadcasted_iota(jnp.uint32, flat, axis) for axis in (0, 1))
    if self.cut:
      row += self.cut.part().astype(jnp.uint32) * jnp.uint32(x.shape[0])
    bits, _ = cpu.threefry_2x32((key[0], key[1]), (row, place))
    keep = (bits >= jnp.uint32(round(self.rate * 2**32))).reshape(x.shape)
    return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


def depth_factors(network: nn.Module, layers: int, images: int, train: bool) -> list[jax.Array | None]:
  """Stochastic depth (Huang et al. 2016), image by image: what multiplies each of a network's layers.

  The first of L layers is always kept, the last with the chance `survival`, between them it falls linearly. A layer
  that is kept is divided by its chance, so that nothing changes in evaluation. So timm and RDNet have it.

  Args:
    network: with `survival` and `cut`; it draws from the rng `dropout`.
    layers: L.
    images: of this device.
    train: whether layers are dropped.

  Returns:
    For each layer 0 or 1 / its chance, [images]; None: nothing is dropped.
  """
  if not train or network.survival == 1 or network.is_initializing():
    return [None] * layers
  chances = 1 - (1 - network.survival) * jnp.arange(layers) / max(1, layers - 1)
  # The whole batch's draws, so that they do not depend on the devices that share it.
  whole = images * (network.cut.parts if network.cut else 1)
  drawn = jax.random.uniform(network.make_rng("dropout"), (layers, whole), jnp.float32)
  factors = (drawn < chances[:, None]) / chances[:, None]
  if network.cut:
    factors = jax.lax.dynamic_slice_in_dim(factors, network.cut.part() * images, images, axis=1)
  return list(factors)


def scaled(x: jax.Array, factor: jax.Array | None) -> jax.Array:
  """x [batch, height, width, channels], each image times its factor [batch]; None: x itself."""
  return x if factor is None else x * factor[:, None, None, None].astype(x.dtype)


class Factories(NamedTuple):
  """conv(channels, kernel_size), norm(), measure(), dropout(); each also takes Flax's `name`."""

  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory
  dropout: ModuleFactory


def convolution(network: nn.Module, padding: Any = "SAME", own_gradient: bool = False) -> ModuleFactory:
  """The factory of a network's convolutions, without biases unless told; `own_gradient` as `convolve` has it."""
  return functools.partial(
    nn.Conv,
    padding=padding,
    use_bias=False,
    kernel_init=CONVOLUTION[network.convolution_init],
    conv_general_dilated=functools.partial(convolve, own_gradient=own_gradient),
    precision=network.precision,
    dtype=network.dtype,
    param_dtype=network.param_dtype,
  )


def factories(network: nn.Module, padding: Any = "SAME", own_gradient: bool = False) -> Factories:
  """The factories of a network's layers; `padding` and `own_gradient` are for its convolutions."""
  return Factories(
    conv=convolution(network, padding, own_gradient),
    norm=functools.partial(BatchNorm, network.epsilon, dtype=network.dtype, param_dtype=network.param_dtype),
    measure=functools.partial(MeasureMap, network.momentum, param_dtype=network.param_dtype, cut=network.cut),
    dropout=functools.partial(Dropout, network.dropout_rate, network.cut),
  )


def classifier(network: nn.Module) -> nn.Dense:
  """The last layer, [batch, channels] to logits [batch, num_classes]; computed in `param_dtype`."""
  return nn.Dense(
    network.num_classes,
    kernel_init=CLASSIFIER[network.classifier_init],
    precision=network.precision,
    dtype=network.param_dtype,
    param_dtype=network.param_dtype,
    name="classifier",
  )
