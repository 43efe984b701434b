"""RandAugment's operations against timm's on Pillow, and its draws by counting."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FIXTURES

from dn_jax.data import rand_augment
from dn_jax.data.rand_augment import OPERATIONS, Operation

FILL = (125, 123, 114)
# Where float32 and float64 round a value to other neighbours.
ROUNDED = {"autocontrast", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
ROUNDED |= {"colour", "contrast", "brightness", "sharpness"}

applied = jax.jit(rand_augment.applied)


@functools.cache
def recorded():
  with np.load(FIXTURES / "augmentation" / "timm.npz") as file:
    return dict(file)


def operation(number, magnitude=0.0, negative=False):
  return Operation(jnp.int32(number), jnp.float32(magnitude), jnp.bool_(negative))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kind", "nothing"), [("colours", set()), ("dull", set()), ("grey", {"autocontrast", "colour"})]
)
def test_each_operation_is_timms(kind, nothing):
  image, seen, changed = recorded()[f"image/{kind}"], set(), set()
  for name, expected in recorded().items():
    if not name.startswith("rand/") or not name.endswith(f"/{kind}"):
      continue
    _, which, magnitude, negative, _ = name.split("/")
    fill = jnp.asarray(FILL[: image.shape[-1]], jnp.uint8)
    found = applied(jnp.asarray(image), operation(OPERATIONS.index(which), float(magnitude), negative == "1"), fill)
    assert found.dtype == jnp.uint8
    apart = np.abs(np.asarray(found, int) - expected)
    assert apart.max() <= (which in ROUNDED), name
    assert np.mean(apart > 0) < 0.005, name
    seen.add(which)
    changed |= {which} if not np.array_equal(image, expected) else set()
  assert seen == set(OPERATIONS)
  assert seen - changed == nothing


def test_no_operation_leaves_an_image_as_it_is():
  image = jnp.asarray(recorded()["image/colours"])
  np.testing.assert_array_equal(applied(image, operation(-1, 9.0), jnp.zeros(3, jnp.uint8)), image)


def test_an_image_of_one_value_keeps_it_where_there_is_nothing_to_stretch():
  image, fill = jnp.full((6, 5, 3), 77, jnp.uint8), jnp.zeros(3, jnp.uint8)
  for name in ("autocontrast", "equalize", "contrast", "colour", "sharpness"):
    np.testing.assert_array_equal(applied(image, operation(OPERATIONS.index(name), 9.0), fill), image)


def test_images_smaller_than_a_filter_are_not_smoothed():
  image = jnp.asarray(recorded()["image/colours"])[:2, :2]
  number = OPERATIONS.index("sharpness")
  np.testing.assert_array_equal(applied(image, operation(number, 9.0), jnp.zeros(3, jnp.uint8)), image)


@pytest.mark.slow
def test_draws_are_even_over_operations_and_normal_in_magnitude():
  count, keys = 9000, jax.random.split(jax.random.key(0), 9000)
  drawn = jax.jit(jax.vmap(functools.partial(rand_augment.draw, magnitude=9.0, deviation=0.5)))(keys)
  numbers, magnitudes = np.asarray(drawn.number), np.asarray(drawn.magnitude)
  assert numbers.shape == (count, 2)
  assert abs(np.mean(numbers == -1) - 0.5) < 0.015
  counts = np.bincount(numbers[numbers >= 0], minlength=15)
  expected = counts.sum() / 15
  # Chi-squared with 14 degrees of freedom: above 36.1 once in a thousand seeds.
  assert len(counts) == 15
  assert np.sum((counts - expected) ** 2 / expected) < 36.1
  # Both places are drawn by themselves, and with replacement.
  both = (numbers >= 0).all(axis=1)
  assert abs(both.mean() - 0.25) < 0.02
  assert abs(np.mean(numbers[both, 0] == numbers[both, 1]) - 1 / 15) < 0.02
  # Of N(9, 0.5), of which 10 is two deviations above the mean.
  assert abs(np.mean(magnitudes == 10) - 0.0228) < 0.005
  assert abs(np.median(magnitudes) - 9) < 0.02
  assert abs(np.quantile(magnitudes, 0.1587) - 8.5) < 0.03
  assert abs(np.mean(np.asarray(drawn.negative)) - 0.5) < 0.015
  same = rand_augment.draw(keys[0], 12.0, 0.0)
  assert np.asarray(same.magnitude).tolist() == [10, 10]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_an_images_changes_are_its_own_wherever_it_stands(channels):
  rng = np.random.RandomState(0)
  images = jnp.asarray(rng.randint(0, 256, (12, 8, 8, channels)), jnp.uint8)
  numbers = jnp.arange(12, dtype=jnp.int32)
  change = jax.jit(
    functools.partial(rand_augment.rand_augment, magnitude=9.0, deviation=0.5, fill=FILL[:channels]),
  )
  key = jax.random.key(3)
  together = np.asarray(change(images, key, numbers))
  np.testing.assert_array_equal(change(images[::-1], key, numbers[::-1])[::-1], together)
  # By hand: two operations, one after another.
  keys = [jax.random.fold_in(jax.random.fold_in(key, 2**31 + 3), number) for number in range(12)]
  fill = jnp.asarray(FILL[:channels], jnp.uint8)
  for image, key, found in zip(images, keys, together, strict=True):
    drawn = rand_augment.draw(key, 9.0, 0.5)
    for number, magnitude, negative in zip(*map(np.asarray, drawn), strict=True):
      image = applied(image, operation(number, magnitude, negative), fill)
    np.testing.assert_array_equal(image, found)
  # Another step changes them otherwise.
  assert not np.array_equal(change(images, jax.random.key(4), numbers), together)
  # Alike images of other numbers are changed otherwise.
  alike = np.asarray(change(jnp.repeat(images[:1], 12, axis=0), jax.random.key(3), numbers))
  assert sum(not np.array_equal(a, b) for a, b in itertools.combinations(alike, 2)) > 30
