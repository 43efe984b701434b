"""What happens to a picture between the data set and the network: on the device, from the seed alone.

Order of the authors' Torch code: normalise, mirror, pad (with zeros: the border is the mean picture), crop.
"""

from typing import Literal

import jax
import jax.numpy as jnp

# numpy's names.
_MODES = {"zero": "constant", "reflect": "reflect"}


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


def epoch_order(key: jax.Array, epoch: jax.Array | int, count: int) -> jax.Array:
  """int32 [count]: the order in which an epoch, counted from 0, takes the training pictures."""
  return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(count, dtype=jnp.int32))
