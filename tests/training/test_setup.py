"""The parts of a run, put together as the protocol says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dn_jax.config import datasets
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.data import augment, catalog
from dn_jax.data.augment import prepared
from dn_jax.errors import ConfigurationError
from dn_jax.training import setup


def grey(name, value=200):
  """A data set of one grey."""
  split = catalog.Split(np.full((8, 32, 32, 3), value, np.uint8), np.zeros(8, np.int32))
  return catalog.Dataset(datasets.info_of(DataConfig(name)), split, None, split)


@pytest.mark.slow
def test_pictures_are_normalised_then_padded_so_that_a_border_is_the_mean():
  config = resolve(RunConfig(DataConfig("cifar10", augment=True)))
  prepare = jax.jit(prepared(config.data, grey("cifar10")))
  out = np.asarray(prepare(jnp.full((64, 32, 32, 3), 200, jnp.uint8), jax.random.key(0), jnp.arange(64)))
  expected = (200 - np.array([125.3, 123.0, 113.9])) / [63.0, 62.1, 66.7]
  inside = out[:, 4:-4, 4:-4]
  assert inside == pytest.approx(np.broadcast_to(expected, inside.shape), rel=1e-5)
  outside = out[np.abs(out - expected).max(axis=-1) > 1e-3]
  assert len(outside) > 1000
  assert np.all(outside == 0)


def test_pictures_that_are_not_augmented_are_only_normalised():
  config = resolve(RunConfig(DataConfig("svhn_cropped")))
  out = prepared(config.data, grey("svhn_cropped"))(jnp.full((2, 32, 32, 3), 51, jnp.uint8), None, None)
  assert np.asarray(out) == pytest.approx(0.2)


@pytest.mark.slow
def test_a_runs_padding_and_normalisation_reach_its_pictures():
  split = catalog.Split(
    np.random.RandomState(0).randint(0, 256, (8, 32, 32, 3)).astype(np.uint8), np.zeros(8, np.int32)
  )
  data = catalog.Dataset(datasets.info_of(DataConfig("cifar10")), split, None, split)
  images, numbers = jnp.asarray(split.images), jnp.arange(8)

  def input_of(**flags):
    return np.asarray(
      prepared(resolve(RunConfig(DataConfig("cifar10", **flags))).data, data)(images, jax.random.key(0), numbers)
    )

  mean = split.images.mean(axis=0)
  assert input_of(normalise="mean") == pytest.approx(split.images - mean, abs=1e-4)
  assert input_of(normalise="pixel") == pytest.approx((split.images - mean) / split.images.std(), abs=1e-5)
  # The border is zeros, or pixels of the picture.
  shifted = {padding: input_of(augment=True, padding=padding) for padding in ("zero", "reflect")}
  assert (shifted["zero"] == 0).all(axis=-1).sum() > 100
  assert not (shifted["reflect"] == 0).all(axis=-1).any()


def test_order_augmentation_and_dropout_are_new_every_epoch_and_step():
  config = resolve(RunConfig(DataConfig("digits", augment=True), ModelConfig(depth=10, growth_rate=4, dropout=0.5)))
  parts = setup.assemble(config, catalog.load(config.data))
  orders = [np.asarray(parts.order_of(epoch)) for epoch in (0, 1, 0)]
  assert np.array_equal(orders[0], orders[2])
  assert not np.array_equal(orders[0], orders[1])


def test_a_group_of_one_pixel_is_refused():
  model = ModelConfig(blocks=(1, 1, 1, 1), growth_rate=4)  # Digits of 8x8 pixels end as one.
  with pytest.raises(ConfigurationError, match="single pixel; at least 2 for each of 8 groups"):
    resolve(RunConfig(DataConfig("digits"), model, batch_size=8, statistics_groups=8))
  resolve(RunConfig(DataConfig("digits"), model, batch_size=16, statistics_groups=8))


def test_images_are_hidden_after_they_were_shifted_and_normalised():
  images = jnp.full((200, 32, 32, 3), 200, jnp.uint8)
  white = (200 - np.array([125.3, 123.0, 113.9])) / [63.0, 62.1, 66.7]

  def input_of(**flags):
    config = resolve(RunConfig(DataConfig("cifar10", **flags)))
    return np.asarray(prepared(config.data, grey("cifar10"))(images, jax.random.key(0), jnp.arange(200)))

  cut = input_of(cutout=8)
  hidden = (cut == 0).all(axis=-1)
  assert hidden.sum(axis=(1, 2)).max() == 64
  np.testing.assert_allclose(cut[~hidden], np.broadcast_to(white, cut[~hidden].shape), rtol=1e-5)
  noise = np.abs(input_of(erasing=0.5) - white).max(axis=-1) > 1e-3
  assert 0.35 < noise.any(axis=(1, 2)).mean() < 0.65  # Nine in ten thousand seeds are beyond.
  assert noise.mean() > 0.05
  # A shifted image's border is the mean; noise lies over it.
  both = input_of(augment=True, erasing=1.0)
  border = (both[:, 0] == 0).all(axis=-1)  # [images, width], of the top row.
  of_noise = ~border & (np.abs(both[:, 0] - white).max(axis=-1) > 1e-3)
  assert (border.any(axis=1) & of_noise.any(axis=1)).sum() > 5


def test_images_that_are_read_one_by_one_keep_their_colours_under_random_operations(monkeypatch):
  monkeypatch.setattr(augment, "rand_augment", lambda images, key, numbers, **how: images)
  images = jnp.asarray(np.random.RandomState(0).randint(0, 256, (8, 5, 5, 3)), jnp.uint8)

  def input_of(**flags):
    config = resolve(RunConfig(DataConfig("imagenet2012", size=32, augment=True, **flags), ModelConfig(blocks=(1,))))
    dataset = catalog.Dataset(datasets.info_of(DataConfig("imagenet2012")), None, None, None)
    info = dataset.info
    found = prepared(config.data, dataset)(images, jax.random.key(0), jnp.arange(8))
    return np.asarray(found) * np.array(info.std) + np.array(info.mean)

  for plain, image in zip(input_of(rand_augment=9.0), np.asarray(images), strict=True):
    assert min(np.abs(plain - each).max() for each in (image, image[:, ::-1])) < 1e-3
  assert min(np.abs(input_of() - each).max() for each in (images, images[:, :, ::-1])) > 1
