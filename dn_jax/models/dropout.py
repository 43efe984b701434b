"""Dropout whose random bits are made where they are used.

`jax.random` draws from Threefry as a loop over whole arrays on the CPU back end: its bits pass through memory
twenty times, and every draw compiles for a third of a second; a DenseNet has two a layer. Written out, the
same generator is one fused loop with the multiplication that it is for.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models.batch_stats import BatchCut

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry_2x32(
  key: tuple[jax.Array, jax.Array], counter: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

  Args:
    key: two uint32 scalars.
    counter: two uint32 arrays of one shape.

  Returns:
    Two uint32 arrays of that shape: the words that `jax.extend.random.threefry_2x32` gives.
  """
  keys = (*key, key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
  first, second = counter[0] + keys[0], counter[1] + keys[1]
  for round_ in range(5):
    for rotation in _ROTATIONS[round_ % 2]:
      first = first + second
      second = first ^ ((second << jnp.uint32(rotation)) | (second >> jnp.uint32(32 - rotation)))
    first = first + keys[(round_ + 1) % 3]
    second = second + keys[(round_ + 2) % 3] + jnp.uint32(round_ + 1)
  return first, second


class Dropout(nn.Module):
  """Zeroes a share of all values in training and scales the rest up; draws from the rng `dropout`.

  A value's draw depends on the key, its picture's row in the batch and its place in the picture.

  Attributes:
    rate: the share that is zeroed.
    cut: where the rest of the batch is, if it lies on several devices; rows count through all of it.
  """

  rate: float
  cut: BatchCut | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """x: [batch, height, width, channels]."""
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
