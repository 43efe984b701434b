"""Normalises and augments images on the device, from the seed alone.

Small images follow the order of the authors' Torch code: normalise, mirror, pad (zeros are the mean), crop. ImageNet's,
which are cropped on the host, follow fb.resnet.torch, on which the authors' code is built: colour jitter, lighting,
normalise, mirror. Of later recipes RandAugment comes before all that, Cutout and random erasing after it.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from dn_jax.config.datasets import LUMA
from dn_jax.data import erasing
from dn_jax.data.rand_augment import rand_augment

if TYPE_CHECKING:
  from dn_jax.config.schema import DataConfig
  from dn_jax.data import catalog

# ImageNet's principal components of colour: standard deviations, and a direction in each column (Krizhevsky et al.
# 2012; the numbers of fb.resnet.torch).
_LIGHT_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_LIGHT_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))

# Of `padding`, in numpy's words.
_MODES = {"zero": "constant", "reflect": "reflect"}


# (images, a step's key, the images' numbers) -> images
Change = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def prepared(config: "DataConfig", dataset: "catalog.Dataset") -> Change:
  """Normalises and augments training images: (uint8 images, a step's key, the images' numbers) -> input.

  An image is padded after it is normalised, as in the authors' Torch code: the border of a shifted image is the mean.
  RandAugment takes the place of the jitter of colours and lighting, as in timm.
  """
  before, published, after = _of_bytes(config, dataset), _published(config, dataset), _of_input(config)
  if not before and not after:
    return published

  def prepare(images: jax.Array, key: jax.Array, numbers: jax.Array) -> jax.Array:
    for change in before:
      images = change(images, key, numbers)
    images = published(images, key, numbers)
    for change in after:
      images = change(images, key, numbers)
    return images

  return prepare


def _published(config: "DataConfig", dataset: "catalog.Dataset") -> Change:
  """Normalises, and augments as `--data.augment` says."""
  plain, info = normalised(config, dataset), dataset.info
  if not config.augment:
    return lambda images, key, numbers: plain(images)
  if info.streamed:
    jitter = (
      functools.partial(jitter_light_mirror, jitter=0.0, lighting=0.0) if config.rand_augment else jitter_light_mirror
    )
    return lambda images, key, numbers: plain(jitter(images, key, numbers))
  shift = functools.partial(mirror_and_shift, mirror=info.mirror, pad=info.pad, padding=config.padding)
  return lambda images, key, numbers: shift(plain(images), key, numbers)


def _of_bytes(config: "DataConfig", dataset: "catalog.Dataset") -> tuple[Change, ...]:
  if not config.rand_augment:
    return ()
  fill = tuple(min(255, round(value)) for value in dataset.info.mean)
  deviation = config.rand_augment_deviation or 0.0
  return (functools.partial(rand_augment, magnitude=config.rand_augment, deviation=deviation, fill=fill),)


def _of_input(config: "DataConfig") -> tuple[Change, ...]:
  changes = ()
  if config.cutout:
    changes += (functools.partial(erasing.cut_out, side=config.cutout),)
  if config.erasing:
    changes += (functools.partial(erasing.erase, chance=config.erasing),)
  return changes


def normalised(config: "DataConfig", dataset: "catalog.Dataset") -> Callable[[jax.Array], jax.Array]:
  """uint8 images -> the network's input, without augmentation."""
  from dn_jax.data import catalog  # It reads files, which the rest of this module does without.

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
  """The paper's "+": each image mirrored with probability 1/2, padded, and cropped back at random.

  An image's draws depend on the key and its number, not on its place in the batch or the number of devices. They are
  integers of fixed types, so that a float64 test sees the same images.

  Args:
    images: [batch, height, width, channels], normalised.
    key: one for each training step.
    picture: int32 [batch], the images' numbers in the data set.
    mirror: whether to mirror.
    pad: pixels added on every side before the crop; all (2 * pad + 1)^2 crops are equally likely.
    padding: zeros, or a reflection that does not repeat the outermost pixels (Wide ResNet's code).

  Returns:
    Images of the same shape.
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
  """ImageNet's augmentation as published, except the crop.

  Brightness, contrast and saturation, in an order drawn for each image, blend the image with black, with its mean grey
  value and with its grey image, by a factor uniform in [1 - jitter, 1 + jitter] (nothing is clipped). Lighting adds
  along each principal component of colour N(0, lighting) times its standard deviation. Mirroring has probability 1/2.
  An image's draws depend on the key and its number alone, as in `mirror_and_shift`. A grey image becomes the grey image
  of what its colours would have become.

  Args:
    images: uint8 [batch, height, width, channels].
    key: one for each training step.
    picture: int32 [batch], the images' numbers in the data set.
    jitter, lighting: strengths; 0: none.

  Returns:
    float32 [batch, height, width, channels], scaled as the pixels (0 to 255), not normalised.
  """

  def one(image: jax.Array, number: jax.Array) -> jax.Array:
    keys = jax.random.split(jax.random.fold_in(key, number), 4)
    factors = 1 + jax.random.uniform(keys[0], (3,), jnp.float32, -jitter, jitter)
    order = jax.random.permutation(keys[1], 3)
    multiples = lighting * jax.random.normal(keys[2], (3,), jnp.float32)
    flip = jax.random.bits(keys[3], dtype=jnp.uint32) >> 31 == 1
    # Mirroring comes first, in bytes: nothing else here depends on a pixel's place.
    image = jnp.where(flip, image[:, ::-1], image).astype(jnp.float32)
    colour = light(multiples)
    colour = colour if image.shape[-1] == 3 else jnp.sum(colour * jnp.asarray(LUMA, jnp.float32), keepdims=True)
    return jittered(image, factors, order) + 255 * colour

  return jax.vmap(one)(images, picture)


def jittered(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
  """Blends one image [height, width, channels] of any scale with black, its mean grey value and its grey image.

  Args:
    image: the image.
    factors: [3], the image's share in each blend: brightness, contrast, saturation.
    order: int [3], the permutation in which they are applied.
  """
  # The CPU back end takes five times as long for a sum over an axis of three.
  shares = LUMA if image.shape[-1] == 3 else (1.0,)
  grey = sum(weight * image[..., channel : channel + 1] for channel, weight in enumerate(shares))
  mean = jnp.mean(grey)
  # In any order the result is a * image + b * grey + c, whose grey image is (a + b) * grey + c.
  a, b, c = jnp.ones((), image.dtype), jnp.zeros((), image.dtype), jnp.zeros((), image.dtype)
  for place in range(3):
    kind = order[place]
    f = factors[kind]
    of_grey = jnp.where(kind == 2, (1 - f) * (a + b), 0)
    constant = jnp.select([kind == 1, kind == 2], [(1 - f) * ((a + b) * mean + c), (1 - f) * c], 0)
    a, b, c = f * a, f * b + of_grey, f * c + constant
  return a * image + b * grey + c


def light(multiples: jax.Array) -> jax.Array:
  """[3], added to red, green and blue (0 to 1) for multiples [3] of the components' standard deviations."""
  along = multiples * jnp.asarray(_LIGHT_DEVIATIONS, jnp.float32)
  return jnp.sum(jnp.asarray(_LIGHT_DIRECTIONS, jnp.float32) * along, axis=1)


def epoch_order(key: jax.Array, epoch: jax.Array | int, count: int) -> jax.Array:
  """int32 [count]: the numbers of the training images in the order of an epoch, counted from 0."""
  return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(count, dtype=jnp.int32))
