"""Hides a part of each image: random erasing (Zhong et al. 2020) and Cutout (DeVries and Taylor 2017).

An image's draws depend on the step's key and its number, as those of `dn_jax.data.augment.mirror_and_shift`, and are of
fixed types.
"""

import math

import jax
import jax.numpy as jnp

from dn_jax.data.draws import Stream, keys_of

# Of timm's RandomErasing: shares of the image's area, the box's height over its width, tries to find one that fits.
_AREA = (0.02, 1 / 3)
_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))
_TRIES = 10


def sides(area: jax.Array, aspect: jax.Array, size: tuple[int, int]) -> jax.Array:
  """int32 [2]: height and width of the first box that is smaller than the image in both; 0 and 0 where none is.

  Args:
    area, aspect: [tries], in pixels, and height over width.
    size: the image's height and width.
  """
  boxes = jnp.round(jnp.sqrt(jnp.stack([area * aspect, area / aspect], axis=1))).astype(jnp.int32)
  fits = jnp.all(boxes < jnp.asarray(size, jnp.int32), axis=1)
  first = jnp.argmax(fits)
  return jnp.where(fits[first], boxes[first], 0)


def random_box(key: jax.Array, size: tuple[int, int], chance: float) -> jax.Array:
  """int32 [4]: top, bottom, left and right of the box that one image loses; empty where it loses none.

  A box is of an area uniform in 2 to 33 % and an aspect whose logarithm is uniform in 0.3 to 1/0.3. The first of ten
  that fits is taken, at a place uniform among all; if none does, nothing is lost.

  Args:
    key: of the image.
    size: its height and width.
    chance: that it loses one.
  """
  of_area, of_aspect, of_chance, of_place = jax.random.split(key, 4)
  area = size[0] * size[1] * jax.random.uniform(of_area, (_TRIES,), jnp.float32, *_AREA)
  aspect = jnp.exp(jax.random.uniform(of_aspect, (_TRIES,), jnp.float32, *_LOG_ASPECT))
  loses = jax.random.uniform(of_chance, (), jnp.float32) < chance
  box = jnp.where(loses, sides(area, aspect, size), 0)
  start = jax.random.randint(of_place, (2,), 0, jnp.asarray(size, jnp.int32) - box + 1, dtype=jnp.int32)
  return jnp.stack([start, start + box], axis=1).reshape(-1)


def square(centre: jax.Array, side: int) -> jax.Array:
  """int32 [4]: top, bottom, left and right of a square around a pixel, int32 [2]; it may reach beyond the image."""
  start = centre - side // 2
  return jnp.stack([start, start + side], axis=1).reshape(-1)


def filled(image: jax.Array, box: jax.Array, filling: jax.typing.ArrayLike) -> jax.Array:
  """One image [height, width, channels] with what lies in a box (top, bottom, left, right) replaced."""
  rows, columns = (jnp.arange(length, dtype=jnp.int32) for length in image.shape[:2])
  inside = ((rows >= box[0]) & (rows < box[1]))[:, None] & (columns >= box[2]) & (columns < box[3])
  return jnp.where(inside[..., None], filling, image)


def erase(images: jax.Array, key: jax.Array, picture: jax.Array, *, chance: float) -> jax.Array:
  """Random erasing: a box of an image is replaced by normal noise, new for each of its values.

  Args:
    images: [batch, height, width, channels], normalised.
    key: one for each training step.
    picture: int32 [batch], the images' numbers in the data set.
    chance: that an image loses a box, 0 to 1.
  """

  def one(image: jax.Array, key: jax.Array) -> jax.Array:
    of_box, of_noise = jax.random.split(key)
    noise = jax.random.normal(of_noise, image.shape, jnp.float32).astype(image.dtype)
    return filled(image, random_box(of_box, image.shape[:2], chance), noise)

  return jax.vmap(one)(images, keys_of(key, Stream.ERASING, picture))


def cut_out(images: jax.Array, key: jax.Array, picture: jax.Array, *, side: int) -> jax.Array:
  """Cutout: a square of an image becomes zeros, the mean; its centre is uniform over pixels, the border clips it.

  Of an odd side the authors' code has one pixel less; here the square has the side that it is said to have.

  Args:
    images, key, picture: as of `erase`.
    side: in pixels.
  """

  def one(image: jax.Array, key: jax.Array) -> jax.Array:
    centre = jax.random.randint(key, (2,), 0, jnp.asarray(image.shape[:2], jnp.int32), dtype=jnp.int32)
    return filled(image, square(centre, side), jnp.zeros((), image.dtype))

  return jax.vmap(one)(images, keys_of(key, Stream.CUTOUT, picture))
