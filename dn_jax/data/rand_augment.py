"""RandAugment (Cubuk et al. 2020) on the device, as timm's `rand-mM-mstdS-inc1`: on bytes, before they are normalised.

Under `vmap` a switch computes all its branches. So an operation is three parts, of which two do nothing: an affine
map of the image, a table of new values, and a blend with another image. Each part is computed once for an image.
Results are those of Pillow, except where a number that float64 rounds differently decides between two neighbouring
values.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dn_jax.data.draws import Stream, keys_of

# timm's set of operations whose effect increases with the magnitude.
OPERATIONS = (
  *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
  *("colour", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
LAYERS = 2
_MOST = 10.0
# Pillow's shares of red, green and blue in grey, of 2^16.
_SHARES = (19595, 38470, 7471)


class Operation(NamedTuple):
  """One operation on one image.

  number:    int32, of `OPERATIONS`; -1: none
  magnitude: float32, 0 to 10
  negative:  bool: towards the other side, for operations that have two
  """

  number: jax.Array
  magnitude: jax.Array
  negative: jax.Array


def draw(key: jax.Array, magnitude: float, deviation: float) -> Operation:
  """Two operations [2] for one image, each of any kind and applied with probability 1/2.

  Args:
    key: of the image.
    magnitude, deviation: of the normal distribution from which each magnitude comes, clipped to 0 and 10.
  """
  keys, shape = jax.random.split(key, 4), (LAYERS,)
  kinds = jax.random.randint(keys[0], shape, 0, len(OPERATIONS), dtype=jnp.int32)
  applied = jax.random.bits(keys[1], shape, jnp.uint32) >> 31 == 1
  noise = jnp.float32(deviation) * jax.random.normal(keys[2], shape, jnp.float32)
  negative = jax.random.bits(keys[3], shape, jnp.uint32) >> 31 == 1
  return Operation(jnp.where(applied, kinds, -1), jnp.clip(magnitude + noise, 0, _MOST), negative)


def applied(image: jax.Array, operation: Operation, fill: jax.Array) -> jax.Array:
  """One image [height, width, channels] of bytes after one operation.

  Args:
    image: uint8, of one or three channels.
    operation: see `Operation`.
    fill: uint8 [channels], where an affine map has no pixel.
  """
  grey = _grey(image)
  # Of one operation, so that the parts need not see each other's results.
  tables = _tables(image, grey, operation)  # [256, channels]
  image = _apart(_mapped(image, _matrix(operation, image.shape[:2]), fill))
  image = jnp.take_along_axis(tables, image.reshape(-1, image.shape[-1]).astype(jnp.int32), axis=0).reshape(image.shape)
  return _apart(_blended(_apart(image), grey, operation))


def rand_augment(
  images: jax.Array, key: jax.Array, picture: jax.Array, *, magnitude: float, deviation: float, fill: tuple[int, ...]
) -> jax.Array:
  """Two random operations on each image; its draws are of the step's key and its number.

  Args:
    images: uint8 [batch, height, width, channels], of one or three channels.
    key: one for each training step.
    picture: int32 [batch], the images' numbers in the data set.
    magnitude, deviation: see `draw`.
    fill: of each channel, for pixels that an affine map has not; the data set's mean colour.

  Returns:
    Images of the same shape and type.
  """
  colour = jnp.asarray(fill, jnp.uint8)

  def one(image: jax.Array, key: jax.Array) -> jax.Array:
    operations = draw(key, magnitude, deviation)
    for layer in range(LAYERS):
      image = applied(image, jax.tree.map(lambda leaf, layer=layer: leaf[layer], operations), colour)
    return image

  return jax.vmap(one)(images, keys_of(key, Stream.RAND_AUGMENT, picture))


def _apart(image: jax.Array) -> jax.Array:
  """Keeps a compiler from computing a part anew for each pixel that the next one reads of it."""
  return jax.lax.optimization_barrier(image)


def _is(operation: Operation, name: str) -> jax.Array:
  return operation.number == OPERATIONS.index(name)


def _signed(operation: Operation, most: float) -> jax.Array:
  """Up to `most` at the largest magnitude, to either side."""
  return jnp.where(operation.negative, -1, 1) * most / _MOST * operation.magnitude


def _enhanced(operation: Operation) -> jax.Array:
  """The share of the image in a blend: 1 at magnitude 0, and 0.1 or 1.9 at the largest."""
  return jnp.maximum(0.1, 1 + _signed(operation, 0.9))


def _matrix(operation: Operation, size: tuple[int, int]) -> jax.Array:
  """float32 [2, 3]: from a place (x, y, 1) in the result to one in the image, pixels' centres at halves."""
  height, width = size
  of = functools.partial(_signed, operation)
  angle = jnp.where(_is(operation, "rotate"), -of(30) * jnp.pi / 180, 0)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  x, y = width / 2, height / 2
  shear_x, shear_y = (jnp.where(_is(operation, name), of(0.3), 0) for name in ("shear_x", "shear_y"))
  right, down = (
    jnp.where(_is(operation, name), of(0.45) * length, 0)
    for name, length in (("translate_x", width), ("translate_y", height))
  )
  # Around the centre; without a turn exactly the identity.
  turned = [[cos, sin, x - (x * cos + y * sin)], [-sin, cos, y - (y * cos - x * sin)]]
  return jnp.asarray(turned, jnp.float32) + jnp.asarray([[0, shear_x, right], [shear_y, 0, down]], jnp.float32)


def _mapped(image: jax.Array, matrix: jax.Array, fill: jax.Array) -> jax.Array:
  """An image by an inverse affine map, bilinear, rounded down; neighbours beyond the border are the border's."""
  height, width, channels = image.shape
  x, y = jnp.arange(width, dtype=jnp.float32) + 0.5, (jnp.arange(height, dtype=jnp.float32) + 0.5)[:, None]
  column, row = (each[0] * x + each[1] * y + each[2] for each in matrix)
  inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
  first, shares = [], []
  for place in (row - 0.5, column - 0.5):
    whole = jnp.floor(place)
    first.append(whole.astype(jnp.int32))
    shares.append((place - whole)[..., None])
  flat = image.reshape(-1, channels)

  def pixel(down: int, right: int) -> jax.Array:
    at = jnp.clip(first[0] + down, 0, height - 1) * width + jnp.clip(first[1] + right, 0, width - 1)
    return flat[at].astype(jnp.float32)

  upper, lower = ((left := pixel(down, 0)) + (pixel(down, 1) - left) * shares[1] for down in (0, 1))
  found = (upper + (lower - upper) * shares[0]).astype(jnp.uint8)
  return jnp.where(inside[..., None], found, fill)


def _grey(image: jax.Array) -> jax.Array:
  """int32 [height, width, 1]: as Pillow rounds it."""
  whole = image.astype(jnp.int32)
  if image.shape[-1] == 1:
    return whole
  total = sum(share * whole[..., channel : channel + 1] for channel, share in enumerate(_SHARES))
  return (total + (1 << 15)) >> 16


def _tables(image: jax.Array, grey: jax.Array, operation: Operation) -> jax.Array:
  """uint8 [256, channels]: the new value of each."""
  values = jnp.arange(256, dtype=jnp.int32)[:, None]
  channels = image.shape[-1]
  flat = image.reshape(-1, channels).astype(jnp.int32)
  counts = jnp.zeros((256, channels), jnp.int32).at[flat, jnp.arange(channels)].add(1)
  keep = jnp.clip(4 - (operation.magnitude / _MOST * 4).astype(jnp.int32), 0, 8)
  threshold = 256 - jnp.minimum(256, (operation.magnitude / _MOST * 256).astype(jnp.int32))
  more = jnp.minimum(128, (operation.magnitude / _MOST * 110).astype(jnp.int32))
  # The mean of the image is rounded before the blend, as Pillow's.
  mean = (jnp.mean(grey.astype(jnp.float32)) + 0.5).astype(jnp.int32)
  tables = {
    "autocontrast": _stretched(counts, values),
    "equalize": _equalized(counts, values),
    "invert": 255 - values,
    "posterize": values & ~((1 << (8 - keep)) - 1),
    "solarize": jnp.where(values < threshold, values, 255 - values),
    "solarize_add": jnp.where(values < 128, jnp.minimum(255, values + more), values),
    "contrast": _blend(mean, values, operation),
    "brightness": _blend(0, values, operation),
  }
  found = jnp.broadcast_to(values, (256, channels))
  for name, table in tables.items():
    found = jnp.where(_is(operation, name), table, found)
  return found.astype(jnp.uint8)


def _stretched(counts: jax.Array, values: jax.Array) -> jax.Array:
  """From the lowest value of a channel to its highest: from 0 to 255."""
  there = counts > 0
  low, high = jnp.argmax(there, axis=0), 255 - jnp.argmax(there[::-1], axis=0)
  stretched = 255 * (values - low) // jnp.maximum(1, high - low)
  return jnp.where(high > low, jnp.clip(stretched, 0, 255), values)


def _equalized(counts: jax.Array, values: jax.Array) -> jax.Array:
  """So that the values of a channel are about equally frequent."""
  highest = 255 - jnp.argmax(counts[::-1] > 0, axis=0)
  step = (jnp.sum(counts, axis=0) - jnp.take_along_axis(counts, highest[None], axis=0)[0]) // 255
  below = jnp.cumsum(counts, axis=0) - counts
  found = jnp.clip((step // 2 + below) // jnp.maximum(1, step), 0, 255)
  return jnp.where((step > 0) & (jnp.sum(counts > 0, axis=0) > 1), found, values)


def _blend(other: jax.typing.ArrayLike, image: jax.Array, operation: Operation) -> jax.Array:
  """int32: other + share * (image - other), rounded towards 0 and clipped."""
  other, image = jnp.asarray(other, jnp.float32), image.astype(jnp.float32)
  return jnp.clip(other + _enhanced(operation) * (image - other), 0, 255).astype(jnp.int32)


def _blended(image: jax.Array, grey: jax.Array, operation: Operation) -> jax.Array:
  """An image blended with its grey image or a smoothed one, or as it is."""
  colour, sharpness = _is(operation, "colour"), _is(operation, "sharpness")
  other = jnp.where(colour, grey, _smoothed(image))
  return jnp.where(colour | sharpness, _blend(other, image, operation), image).astype(jnp.uint8)


def _smoothed(image: jax.Array) -> jax.Array:
  """int32: Pillow's filter of 3x3 pixels, of which the middle one has 5 of 13 shares; the border stays."""
  whole = image.astype(jnp.int32)
  height, width = image.shape[:2]
  if min(height, width) < 3:
    return whole
  total = 4 * whole[1:-1, 1:-1]
  for down in range(3):
    for right in range(3):
      total += whole[down : height - 2 + down, right : width - 2 + right]
  # To the nearest; 13 is odd, so that no number lies between two.
  return whole.at[1:-1, 1:-1].set((2 * total + 13) // 26)
