"""The published augmentation, against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dn_jax.data import augment

# Every pixel of every picture is different and none is 0, so that a crop tells where it came from.
IMAGES = jnp.arange(1, 1 + 6 * 5 * 4 * 2, dtype=jnp.float32).reshape(6, 5, 4, 2)

# Compiled, as training has them: by itself each of their operations would be.
mirror_and_shift = jax.jit(augment.mirror_and_shift, static_argnames=("mirror", "pad", "padding"))
jitter_light_mirror = jax.jit(augment.jitter_light_mirror)
epoch_order = jax.jit(augment.epoch_order, static_argnames="count")


def shifts(image, original, pad):
  """Which (mirrored, top, left) make `image` out of `original`; computed in numpy, by trying them all."""
  found = []
  for mirrored in (False, True):
    source = np.asarray(original)[:, ::-1] if mirrored else np.asarray(original)
    padded = np.pad(source, ((pad, pad), (pad, pad), (0, 0)))
    for top in range(2 * pad + 1):
      for left in range(2 * pad + 1):
        if np.array_equal(padded[top : top + image.shape[0], left : left + image.shape[1]], image):
          found.append((mirrored, top, left))
  return found


def test_every_mirror_and_shift_is_drawn_equally_often():
  pad, draws = 1, 3600
  make = jax.jit(lambda key: augment.mirror_and_shift(IMAGES[:1], key, jnp.zeros(1, jnp.int32), mirror=True, pad=pad))
  drawn = np.asarray(jax.vmap(make)(jax.random.split(jax.random.key(0), draws)))[:, 0]
  known = functools.cache(
    lambda content: shifts(np.frombuffer(content, drawn.dtype).reshape(drawn[0].shape), IMAGES[0], pad)
  )
  counts = {}
  for image in drawn:
    (one,) = known(image.tobytes())
    counts[one] = counts.get(one, 0) + 1
  assert len(counts) == 2 * 9
  expected = draws / 18
  # Chi-squared with 17 degrees of freedom: above 40.8 once in a thousand seeds.
  assert sum((count - expected) ** 2 / expected for count in counts.values()) < 40.8


def test_reflected_borders_are_the_picture_mirrored_at_its_outermost_pixels():
  keys = jax.random.split(jax.random.key(0), 50)
  draw = lambda key: mirror_and_shift(IMAGES[:1], key, jnp.zeros(1, jnp.int32), mirror=False, pad=2, padding="reflect")
  # Written out by index: the outermost pixel is the mirror and is not repeated.
  rows, columns = [2, 1, 0, 1, 2, 3, 4, 3, 2], [2, 1, 0, 1, 2, 3, 2, 1]
  padded = np.asarray(IMAGES[0])[rows][:, columns]
  crops = {padded[top : top + 5, left : left + 4].tobytes() for top in range(5) for left in range(5)}
  drawn = {image.tobytes() for image in np.asarray(jax.vmap(draw)(keys))[:, 0]}
  assert drawn <= crops
  assert len(drawn) > 12


def test_a_pictures_draws_do_not_depend_on_its_place_in_the_batch():
  key, numbers = jax.random.key(5), jnp.arange(6, dtype=jnp.int32)
  together = mirror_and_shift(IMAGES, key, numbers, mirror=True, pad=2)
  backwards = mirror_and_shift(IMAGES[::-1], key, numbers[::-1], mirror=True, pad=2)[::-1]
  alone = jnp.concatenate(
    [mirror_and_shift(IMAGES[n : n + 1], key, numbers[n : n + 1], mirror=True, pad=2) for n in range(6)]
  )
  assert np.array_equal(together, backwards)
  assert np.array_equal(together, alone)


@pytest.mark.slow
def test_every_picture_of_a_step_has_draws_of_its_own():
  numbers = jnp.arange(40, dtype=jnp.int32)
  alike = jnp.repeat(IMAGES[:1], 40, axis=0)
  shifted = jax.jit(lambda key: augment.mirror_and_shift(alike, key, numbers, mirror=True, pad=2))(jax.random.key(3))
  # Of 2 * 25 possible ones.
  assert len({np.asarray(image).tobytes() for image in shifted}) > 20
  grey = jnp.full((40, 2, 2, 3), 100, jnp.uint8)
  jittered = jax.jit(lambda key: augment.jitter_light_mirror(grey, key, numbers))(jax.random.key(3))
  assert len({np.asarray(image).tobytes() for image in jittered}) == 40


@pytest.mark.slow
def test_float64_sees_the_same_pictures():
  draw = lambda dtype: np.asarray(
    mirror_and_shift(IMAGES.astype(dtype), jax.random.key(1), jnp.arange(6, dtype=jnp.int32), mirror=True, pad=4)
  )
  order = lambda: np.asarray(epoch_order(jax.random.key(1), 3, 100))
  narrow, narrow_order = draw(jnp.float32), order()
  with jax.enable_x64(True):
    assert np.array_equal(draw(jnp.float64), narrow)
    assert np.array_equal(order(), narrow_order)


def test_no_mirror_and_no_pad_leave_a_picture_alone():
  same = mirror_and_shift(IMAGES, jax.random.key(0), jnp.arange(6, dtype=jnp.int32), mirror=False, pad=0)
  assert np.array_equal(same, IMAGES)


def test_normalise_is_the_formula():
  images = np.random.RandomState(0).randint(0, 256, (2, 3, 3, 3)).astype(np.uint8)
  mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
  expected = (images.astype(np.float64) - mean) / std
  assert np.asarray(augment.normalise(jnp.asarray(images), mean, std)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_an_epochs_order_has_every_picture_once_and_is_its_own():
  key = jax.random.key(0)
  orders = [np.asarray(epoch_order(key, epoch, 50)) for epoch in range(3)]
  assert all(sorted(order) == list(range(50)) for order in orders)
  assert not np.array_equal(orders[0], orders[1])
  assert not np.array_equal(orders[0], np.asarray(epoch_order(jax.random.key(1), 0, 50)))
  assert np.array_equal(orders[2], np.asarray(epoch_order(key, 2, 50)))


def grey(image):
  return 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_colours_are_jittered_by_blends_with_black_mean_grey_and_grey(order):
  image = np.random.RandomState(0).uniform(size=(5, 4, 3))
  factors = np.array([1.3, 0.7, 1.2])
  expected = image
  for kind in order:
    shades = grey(expected)[..., None]
    other = [np.zeros_like(shades), np.full_like(shades, shades.mean()), shades][kind]
    expected = factors[kind] * expected + (1 - factors[kind]) * other
  with jax.enable_x64(True):
    found = jax.jit(augment.jittered)(jnp.asarray(image), jnp.asarray(factors), jnp.asarray(order))
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_lighting_adds_multiples_of_the_principal_components():
  deviations = np.array([0.2175, 0.0188, 0.0045])
  vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
  # The table is of unit vectors that stand upright on each other: a number mistyped would show here.
  np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-4)
  multiples = np.array([0.3, -1.1, 2.0])
  np.testing.assert_allclose(augment.light(jnp.asarray(multiples)), vectors @ (multiples * deviations), rtol=1e-5)


@pytest.mark.slow
def test_a_grey_image_is_augmented_to_the_grey_image_of_its_colours():
  images = np.random.RandomState(0).randint(0, 256, (8, 6, 5, 3)).astype(np.uint8)
  draw = jax.jit(lambda images: augment.jitter_light_mirror(images, jax.random.key(4), jnp.arange(8, dtype=jnp.int32)))
  # Grey values are whole numbers here, so that none is rounded.
  images[..., 1], images[..., 2] = images[..., 0], images[..., 0]
  found = np.asarray(draw(images[..., :1]))
  assert found.shape == (8, 6, 5, 1)
  np.testing.assert_allclose(found[..., 0], grey(np.asarray(draw(images), np.float64)), rtol=1e-4, atol=1e-3)


def test_colours_and_their_grey_image_are_jittered_alike():
  image = np.random.RandomState(0).uniform(size=(5, 4, 3))
  factors, order = jnp.asarray([1.3, 0.7, 1.2]), jnp.asarray([2, 0, 1])
  with jax.enable_x64(True):
    of_grey = augment.jittered(jnp.asarray(grey(image)[..., None]), factors, order)
    of_colours = augment.jittered(jnp.asarray(image), factors, order)
  np.testing.assert_allclose(np.asarray(of_grey)[..., 0], grey(np.asarray(of_colours)), rtol=1e-6)


@pytest.mark.slow
def test_draws_of_jitter_lighting_and_mirror_are_as_published():
  # Of a constant grey picture, brightness alone changes the mean; of black, lighting alone.
  count = 4000
  numbers = jnp.arange(count, dtype=jnp.int32)
  key, shape = jax.random.key(1), (count, 1, 2, 3)
  assert augment.jitter_light_mirror.__kwdefaults__ == {"jitter": 0.4, "lighting": 0.1}
  draw = lambda images, key, numbers, jitter=0.4, lighting=0.1: np.asarray(
    jitter_light_mirror(images, key, numbers, jitter=jitter, lighting=lighting)
  )
  factors = draw(jnp.full(shape, 100, jnp.uint8), key, numbers, lighting=0.0)[:, 0, 0, 0] / 100
  assert 0.6 <= factors.min() < 0.61
  assert 1.39 < factors.max() <= 1.4
  counts, _ = np.histogram(factors, 10, (0.6, 1.4))
  assert sum((n - count / 10) ** 2 / (count / 10) for n in counts) < 27.9  # Chi-squared, 9 degrees: once in a thousand.
  shifts = draw(jnp.zeros(shape, jnp.uint8), key, numbers)[:, 0, 0] / 255
  vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
  np.testing.assert_allclose((shifts @ vectors).std(axis=0), 0.1 * np.array([0.2175, 0.0188, 0.0045]), rtol=0.06)
  halves = jnp.zeros(shape, jnp.uint8).at[:, :, 0].set(255)
  mirrored = draw(halves, key, numbers, jitter=0.0, lighting=0.0)[:, 0, 0, 0] == 0
  assert abs(mirrored.mean() - 0.5) < 0.03
  # A picture's draws are its own, wherever it stands.
  together = draw(halves, jax.random.key(2), numbers)
  backwards = draw(halves, jax.random.key(2), numbers[::-1])[::-1]
  np.testing.assert_array_equal(together, backwards)
