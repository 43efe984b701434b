"""What happens to a picture between the data set and the network: on the device, from the seed alone.

Small pictures, in the order of the authors' Torch code: normalise, mirror, pad (with zeros: the border is the mean
picture), crop. ImageNet's, cropped on the host, in the order of fb.resnet.torch, which the authors' code is built on:
jitter of colours, lighting, normalise, mirror.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog

# ImageNet's principal components of colour: deviations, and a direction in each column (Krizhevsky et al. 2012; the
# numbers of fb.resnet.torch).
_LIGHT_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_LIGHT_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
# Of red, green and blue in a grey value.
_GREY = (0.299, 0.587, 0.114)

# numpy's names.
_MODES = {"zero": "constant", "reflect": "reflect"}


def prepared(config: DataConfig, dataset: catalog.Dataset) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
  """Normalises and augments training images: (uint8 images, a step's key, the images' numbers) -> input.

  An image is padded after it is normalised, as in the authors' Torch code: the border of a shifted image is the mean.
  """
  plain, info = normalised(config, dataset), dataset.info
  if not config.augment:
    return lambda images, key, numbers: plain(images)
  if info.streamed:
    return lambda images, key, numbers: plain(jitter_light_mirror(images, key, numbers))
  shift = functools.partial(mirror_and_shift, mirror=info.mirror, pad=info.pad, padding=config.padding)
  return lambda images, key, numbers: shift(plain(images), key, numbers)


def normalised(config: DataConfig, dataset: catalog.Dataset) -> Callable[[jax.Array], jax.Array]:
  """uint8 images -> the network's input, without augmentation."""
  mean, std = catalog.normalisation(dataset, config.normalise)
  return functools.partial(normalise, mean=mean, std=std)


def normalise(
  images: jax.Array, mean: jax.typing.ArrayLike, std: jax.typing.ArrayLike, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """(pixels - mean) / std.

  Args:
    images: uint8 [batch, height, width, channels].
    mean, std: of each channel [channels] or each pixel [height, width, channels], in pixel values (0 to 255).

  Returns:
    [batch, height, width, channels] in `dtype`.
  """
  return (images.astype(dtype) - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)


def mirror_and_shift(
  images: jax.Array,
  key: jax.Array,
  picture: jax.Array,
  *,
  mirror: bool,
  pad: int,
  padding: Literal["zero", "reflect"] = "zero",
) -> jax.Array:
  """The paper's "+": each picture mirrored with probability 1/2, padded, cropped back at random.

  A picture's draws depend on the key and the picture's own number, not on its place in the batch or on how
  many devices share the batch; they are integers of fixed types, so that a float64 test sees the same
  pictures.

  Args:
    images: [batch, height, width, channels], normalised.
    key: one for each training step.
    picture: int32 [batch], the pictures' numbers in the data set.
    mirror: whether to mirror.
    pad: pixels added on every side before the crop; each of the (2 * pad + 1)^2 crops is as likely.
    padding: with zeros, or reflected at the outermost pixels, which are not repeated (Wide ResNet's code).

  Returns:
    Pictures of the same shape.
  """

  def one(image: jax.Array, number: jax.Array) -> jax.Array:
    mirror_key, shift_key = jax.random.split(jax.random.fold_in(key, number))
    if mirror:
      flip = jax.random.bits(mirror_key, dtype=jnp.uint32) >> 31 == 1
      image = jnp.where(flip, image[:, ::-1], image)
    if pad:
      top, left = jax.random.randint(shift_key, (2,), 0, 2 * pad + 1, dtype=jnp.int32)
      padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=_MODES[padding])
      image = jax.lax.dynamic_slice(padded, (top, left, jnp.int32(0)), image.shape)
    return image

  return jax.vmap(one)(images, picture)


def jitter_light_mirror(
  images: jax.Array, key: jax.Array, picture: jax.Array, *, jitter: float = 0.4, lighting: float = 0.1
) -> jax.Array:
  """ImageNet's augmentation as published, but for the crop.

  Brightness, contrast and saturation, in an order drawn for each picture, each a blend of the picture with black, with
  its mean grey value, with its grey picture, by a factor uniform in [1 - jitter, 1 + jitter] (nothing is clipped);
  then along each principal component of colour a multiple of its deviation, N(0, lighting); then mirrored with
  probability 1/2. A picture's draws depend on the key and its number alone, as in `mirror_and_shift`.

  Args:
    images: uint8 [batch, height, width, 3].
    key: one for each training step.
    picture: int32 [batch], the pictures' numbers in the data set.
    jitter, lighting: strengths; 0: none.

  Returns:
    float32 [batch, height, width, 3], of the scale of the pixels (0 to 255), not yet normalised.
  """

  def one(image: jax.Array, number: jax.Array) -> jax.Array:
    keys = jax.random.split(jax.random.fold_in(key, number), 4)
    factors = 1 + jax.random.uniform(keys[0], (3,), jnp.float32, -jitter, jitter)
    order = jax.random.permutation(keys[1], 3)
    multiples = lighting * jax.random.normal(keys[2], (3,), jnp.float32)
    flip = jax.random.bits(keys[3], dtype=jnp.uint32) >> 31 == 1
    # Mirrored first, in bytes: nothing else here depends on the place.
    image = jnp.where(flip, image[:, ::-1], image).astype(jnp.float32)
    return jittered(image, factors, order) + 255 * light(multiples)

  return jax.vmap(one)(images, picture)


def jittered(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
  """Blends one picture [height, width, 3] with black, its mean grey value and its grey picture.

  Args:
    image: any scale.
    factors: [3], how much of the picture is in each blend: of brightness, contrast, saturation.
    order: int [3], a permutation: which comes first, second, third.
  """
  # A sum over an axis of three takes the CPU back end five times as long.
  grey = sum(weight * image[..., channel : channel + 1] for channel, weight in enumerate(_GREY))
  mean = jnp.mean(grey)
  # Whatever the order, what comes out is a * picture + b * grey + c, whose own grey picture is (a + b) * grey + c.
  a, b, c = jnp.ones((), image.dtype), jnp.zeros((), image.dtype), jnp.zeros((), image.dtype)
  for place in range(3):
    kind = order[place]
    f = factors[kind]
    of_grey = jnp.where(kind == 2, (1 - f) * (a + b), 0)
    constant = jnp.select([kind == 1, kind == 2], [(1 - f) * ((a + b) * mean + c), (1 - f) * c], 0)
    a, b, c = f * a, f * b + of_grey, f * c + constant
  return a * image + b * grey + c


def light(multiples: jax.Array) -> jax.Array:
  """What is added to red, green and blue (of 0 to 1) for multiples [3] of the principal components' deviations."""
  along = multiples * jnp.asarray(_LIGHT_DEVIATIONS, jnp.float32)
  return jnp.sum(jnp.asarray(_LIGHT_DIRECTIONS, jnp.float32) * along, axis=1)


def epoch_order(key: jax.Array, epoch: jax.Array | int, count: int) -> jax.Array:
  """int32 [count]: the order in which an epoch, counted from 0, takes the training pictures."""
  return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(count, dtype=jnp.int32))
