"""Dropout whose draws depend on an image's place in the batch, not on the devices that share the batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models.batch_stats import BatchCut
from dn_jax.models.cpu import threefry_2x32


class Dropout(nn.Module):
  """In training, zeroes a share of all values and scales the others up; draws from the rng `dropout`.

  The draw of a value depends on the key, on its image's row in the batch and on its place in the image.

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
    bits, _ = threefry_2x32((key[0], key[1]), (row, place))
    keep = (bits >= jnp.uint32(round(self.rate * 2**32))).reshape(x.shape)
    return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))
