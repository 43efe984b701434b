"""Convolutions against `jax.lax` in float64; dropout and stochastic depth against their definitions."""

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative

from dn_jax.models import cpu
from dn_jax.models.cpu import threefry_2x32
from dn_jax.models.densenet import DenseNet
from dn_jax.models.layers import Dropout, convolve, depth_factors, scaled


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize(("own_gradient", "pieces"), [(False, 1), (True, 1), (True, 2), (True, 3)])
def test_convolution_and_its_gradients_are_those_of_lax(kernel, strides, own_gradient, pieces, monkeypatch):
  monkeypatch.setattr(cpu, "_PIECE", 7 * 6 * -(-5 // pieces))
  with jax.enable_x64(True):
    rng = np.random.RandomState(0)
    x, w = jnp.asarray(rng.randn(5, 7, 6, 5)), jnp.asarray(rng.randn(*kernel, 5, 4))
    rest = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    ours = lambda x, w: jnp.sum(jnp.sin(convolve(x, w, strides, "SAME", own_gradient=own_gradient, **rest)))
    theirs = lambda x, w: jnp.sum(jnp.sin(jax.lax.conv_general_dilated(x, w, strides, "SAME", **rest)))
    for a, b in zip(jax.grad(ours, (0, 1))(x, w), jax.grad(theirs, (0, 1))(x, w), strict=True):
      assert relative(a, b) < 1e-12
    assert relative(ours(x, w), theirs(x, w)) < 1e-12


@pytest.mark.parametrize(
  ("platform", "kind"), [("tpu", "convolution"), ("cpu", "dot_general"), ("cuda", "dot_general")]
)
def test_a_1x1_convolution_is_a_product_but_on_a_tpu_with_its_gradients(platform, kind):
  x, w = jnp.ones((2, 4, 4, 3)), jnp.ones((1, 1, 3, 5))
  loss = lambda x, w: jnp.sum(jnp.sin(convolve(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))))
  text = jax.jit(jax.grad(loss, (0, 1))).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
  found = {each: text.count(f"stablehlo.{each}") for each in ("convolution", "dot_general")}
  assert found == {"convolution": 0, "dot_general": 0} | {kind: 3}


def test_the_generator_is_jaxs_word_for_word():
  rng = np.random.RandomState(0)
  for _ in range(20):
    key, counter = (jnp.asarray(rng.randint(0, 2**32, size, np.uint32)) for size in (2, 10))
    ours = jnp.concatenate(threefry_2x32((key[0], key[1]), (counter[:5], counter[5:])))
    assert np.array_equal(ours, jax.extend.random.threefry_2x32(key, counter))


def drop(rate, x, seed=0, train=True):
  return np.asarray(Dropout(rate).apply({}, x, train, rngs={"dropout": jax.random.key(seed)}))


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_share_is_zeroed_and_the_rest_scaled_so_that_the_mean_stays(rate):
  x = jnp.ones((64, 16, 16, 12))
  out = drop(rate, x)
  n = x.size
  assert set(np.unique(out)) == {0.0, np.float32(1 / (1 - rate))}
  assert abs(np.mean(out == 0) - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
  # No pattern along images, rows, columns or channels: every marginal share is within five standard deviations.
  for axis in range(4):
    others = tuple(a for a in range(4) if a != axis)
    shares = np.mean(out == 0, axis=others)
    assert np.abs(shares - rate).max() < 5 * np.sqrt(rate * (1 - rate) * x.shape[axis] / n)


def test_draws_differ_by_key_and_repeat_with_it():
  x = jnp.ones((2, 4, 4, 8))
  assert np.array_equal(drop(0.5, x), drop(0.5, x))
  assert not np.array_equal(drop(0.5, x), drop(0.5, x, seed=1))


def test_nothing_is_dropped_in_evaluation_or_at_rate_0():
  x = jnp.asarray(np.random.RandomState(0).randn(2, 3, 3, 4), jnp.bfloat16)
  assert np.array_equal(drop(0.5, x, train=False), x)
  assert np.array_equal(drop(0.0, x), x)
  assert drop(0.5, x).dtype == jnp.bfloat16


def test_gradients_pass_through_what_is_kept():
  x = jnp.asarray(np.random.RandomState(0).randn(4, 4, 4, 4), jnp.float32)
  apply = lambda x: Dropout(0.25).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
  gradient = np.asarray(jax.grad(lambda x: jnp.sum(apply(x)))(x))
  assert np.array_equal(gradient, np.where(np.asarray(apply(x)) == 0, 0, np.float32(1 / 0.75)))


NETWORK = DenseNet((2, 3), 4, 5, 8, survival=0.6).bind({}, rngs={"dropout": jax.random.key(0)})


def test_layers_are_dropped_image_by_image_by_the_chances_of_a_line():
  factors = np.stack(depth_factors(NETWORK, 5, 20_000, True))
  chances = 1 - 0.4 * np.arange(5) / 4
  assert factors.shape == (5, 20_000)
  for of_layer, chance in zip(factors, chances, strict=True):
    np.testing.assert_allclose(of_layer[of_layer != 0], 1 / chance, rtol=1e-6)
  # Five deviations of a share of 20,000 images.
  np.testing.assert_allclose((factors > 0).mean(1), chances, atol=5 * 0.5 / np.sqrt(20_000))
  assert abs(np.corrcoef(factors[3], factors[4])[0, 1]) < 0.05


def test_no_layer_is_dropped_in_evaluation_nor_without_stochastic_depth():
  plain = DenseNet((2, 3), 4, 5, 8).bind({}, rngs={"dropout": jax.random.key(0)})
  assert depth_factors(NETWORK, 5, 4, False) == depth_factors(plain, 5, 4, True) == [None] * 5


def test_an_images_factor_is_its_own():
  x = jnp.asarray(np.random.RandomState(0).randn(3, 2, 2, 4), jnp.bfloat16)
  found = scaled(x, jnp.asarray([0.0, 1.0, 2.0]))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, np.asarray(x) * np.asarray([0, 1, 2], x.dtype).reshape(3, 1, 1, 1))
