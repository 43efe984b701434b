"""Keys of draws beside those of `dn_jax.data.augment.mirror_and_shift`, where images' numbers make keys of a step's."""

import enum

import jax


class Stream(enum.IntEnum):
  """What is drawn. No image has such a number: these are below 2^31."""

  MIXING = 2**31
  ERASING = 2**31 + 1
  CUTOUT = 2**31 + 2
  RAND_AUGMENT = 2**31 + 3


def key_of(key: jax.Array, stream: Stream) -> jax.Array:
  """The key of a stream in a step, from the step's augmentation key."""
  return jax.random.fold_in(key, int(stream))


def keys_of(key: jax.Array, stream: Stream, picture: jax.Array) -> jax.Array:
  """A key for each image [batch], from its number alone and not from its place in the batch or on a device."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key_of(key, stream), picture)
