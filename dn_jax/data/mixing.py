"""Mixes each image of a batch with another one: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

As timm's `Mixup` in mode `batch`: one draw per step for the whole batch, and the partner is the batch reversed. The
caller finds the partners, which may lie on other devices, and mixes the losses by the share that is returned here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mix(NamedTuple):
  """A step's draw, of fixed types, so that a float64 test sees the same images.

  share:  float32, lambda: an image's own share; of CutMix before its box is clipped
  cut:    bool: CutMix, not mixup
  centre: int32 [2], row and column of the box's centre
  """

  share: jax.Array
  cut: jax.Array
  centre: jax.Array


def draw(key: jax.Array, size: tuple[int, int], mixup: float, cutmix: float) -> Mix:
  """Draws lambda from Beta(alpha, alpha), and a centre uniform over pixels.

  Args:
    key: of the step.
    size: height and width of the images.
    mixup, cutmix: their alphas; 0: without. Where both are given each is taken with probability 1/2.
  """
  kind, share, centre = jax.random.split(key, 3)
  cut = jnp.bool_(cutmix > 0)
  if mixup > 0 and cutmix > 0:
    cut = jax.random.bits(kind, dtype=jnp.uint32) >> 31 == 1
  alpha = jnp.where(cut, jnp.float32(cutmix), jnp.float32(mixup))
  place = jax.random.randint(centre, (2,), 0, jnp.asarray(size, jnp.int32), dtype=jnp.int32)
  return Mix(jax.random.beta(share, alpha, alpha, dtype=jnp.float32), cut, place)


def own_shares(mix: Mix, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
  """An image's own share at each pixel, float32 [height, width, 1], and in the loss, float32.

  Under CutMix the box has sides sqrt(1 - lambda) times the image's, rounded down. The image's border clips it, and
  the share in the loss is that of the pixels left.
  """
  height, width = size
  ratio = jnp.sqrt(1 - mix.share)
  inside = []
  for length, centre in ((height, mix.centre[0]), (width, mix.centre[1])):
    side = (length * ratio).astype(jnp.int32)
    places = jnp.arange(length, dtype=jnp.int32)
    inside.append((places >= centre - side // 2) & (places < centre + (side + 1) // 2))
  outside = 1 - (inside[0][:, None] & inside[1]).astype(jnp.float32)
  # Counted in whole numbers, since a mean may round.
  area = jnp.sum(inside[0], dtype=jnp.int32) * jnp.sum(inside[1], dtype=jnp.int32)
  pixels = jnp.where(mix.cut, outside, mix.share)
  return pixels[..., None], jnp.where(mix.cut, 1 - area / jnp.float32(height * width), mix.share)


def mixed(images: jax.Array, partners: jax.Array, pixels: jax.Array) -> jax.Array:
  """own * image + (1 - own) * partner, for the shares of `own_shares`.

  Args:
    images, partners: [batch, height, width, channels], normalised.
    pixels: [height, width, 1].
  """
  own = pixels.astype(images.dtype)
  return own * images + (1 - own) * partners
