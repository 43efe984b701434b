"""Random erasing against timm's draw by draw, and Cutout against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FIXTURES

from dn_jax.data import erasing

random_box = jax.jit(erasing.random_box, static_argnums=(1, 2))
NUMBERS = jnp.arange(3000, dtype=jnp.int32)


def test_the_first_box_that_fits_is_timms():
  with np.load(FIXTURES / "augmentation" / "timm.npz") as file:
    size, draws, boxes = tuple(file["erase/size"].tolist()), file["erase/draws"], file["erase/box"]
  area, aspect = size[0] * size[1] * draws[..., 0], np.exp(draws[..., 1])
  found = np.asarray(jax.vmap(lambda *each: erasing.sides(*each, size))(jnp.asarray(area), jnp.asarray(aspect)))
  expected = np.stack([boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]], axis=1)
  np.testing.assert_array_equal(found, expected)
  assert len(np.unique(expected, axis=0)) > 50
  # Some have tried more than once.
  assert np.mean(np.any(np.round(np.sqrt(area * aspect))[:, :1] != expected[:, :1], axis=1)) > 0.02


def test_where_no_box_fits_nothing_is_lost():
  area, aspect = jnp.full((10,), 30.0), jnp.full((10,), 1.0)
  assert erasing.sides(area, aspect, (5, 5)).tolist() == [0, 0]
  assert erasing.sides(area.at[9].set(12.0), aspect, (5, 5)).tolist() == [3, 3]


@pytest.mark.slow
def test_boxes_are_of_the_published_areas_aspects_and_chance():
  size = (40, 40)
  boxes = np.asarray(jax.vmap(lambda key: random_box(key, size, 0.25))(jax.random.split(jax.random.key(0), 8000)))
  heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
  assert (boxes >= 0).all()
  assert (boxes <= 40).all()
  lost = heights > 0
  assert abs(lost.mean() - 0.25) < 0.02
  shares = (heights * widths)[lost] / 1600
  assert 0.015 < shares.min() < 0.03
  assert 0.3 < shares.max() < 0.35
  # Uniform, but for the largest of extreme aspects, which do not fit.
  assert abs(np.median(shares) - (0.02 + 1 / 3) / 2) < 0.015
  logs = np.log(heights[lost] / widths[lost])
  assert abs(np.median(logs)) < 0.08
  assert abs(np.quantile(np.abs(logs), 0.5) - 0.5 * np.log(1 / 0.3)) < 0.06
  # The place is uniform among all.
  free = 40 - heights[lost]
  assert abs(np.mean(boxes[lost, 0] / free) - 0.5) < 0.03
  assert (boxes[lost, 0] == 0).any()
  assert (boxes[lost, 1] == 40).any()


@pytest.mark.slow
def test_what_is_lost_becomes_normal_noise_and_nothing_else_changes():
  count = 400
  images = jnp.full((count, 16, 12, 3), 100.0)
  erase = jax.jit(functools.partial(erasing.erase, chance=1.0))
  found = np.asarray(erase(images, jax.random.key(1), NUMBERS[:count]))
  lost = found != 100
  assert lost.any(axis=(1, 2, 3)).all()  # One of ten tries fits, where the first one often does not.
  keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 2**31 + 1), number) for number in range(20)]
  for image, key in zip(lost, keys, strict=False):
    top, bottom, left, right = random_box(jax.random.split(key)[0], (16, 12), 1.0).tolist()
    expected = np.zeros((16, 12, 3), bool)
    expected[top:bottom, left:right] = True
    np.testing.assert_array_equal(image, expected)
  noise = found[lost]
  assert abs(noise.mean()) < 0.02
  assert abs(noise.std() - 1) < 0.02
  assert len(np.unique(noise)) > 0.99 * len(noise)
  assert np.array_equal(erase(images, jax.random.key(1), NUMBERS[:count][::-1])[::-1], found)
  assert not np.array_equal(erase(images, jax.random.key(2), NUMBERS[:count]), found)
  never = jax.jit(functools.partial(erasing.erase, chance=0.0))
  assert np.array_equal(never(images, jax.random.key(1), NUMBERS[:count]), images)


@pytest.mark.parametrize("side", [1, 3, 4, 6])
def test_a_square_of_zeros_is_cut_out_with_its_centre_at_any_pixel_alike(side):
  height, width = 7, 6
  images = jnp.ones((len(NUMBERS), height, width, 2))
  cut_out = jax.jit(functools.partial(erasing.cut_out, side=side))
  found = np.asarray(cut_out(images, jax.random.key(0), NUMBERS))
  known = {}
  for y in range(height):
    for x in range(width):
      expected = np.ones((height, width, 2), np.float32)
      top, left = y - side // 2, x - side // 2
      expected[max(0, top) : top + side, max(0, left) : left + side] = 0
      known.setdefault(expected.tobytes(), []).append((y, x))
  counts = dict.fromkeys(known, 0)
  for image in found:
    counts[image.tobytes()] += 1  # Every image is one of these.
  chances = {content: len(NUMBERS) * len(places) / (height * width) for content, places in known.items()}
  # Chi-squared with at most 41 degrees of freedom: above 74.8 once in a thousand seeds.
  assert sum((counts[content] - chance) ** 2 / chance for content, chance in chances.items()) < 74.8
  assert np.array_equal(cut_out(images, jax.random.key(0), NUMBERS[::-1])[::-1], found)
