"""Convolutions as the library writes them, against `jax.lax` in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative

from dn_jax.models import cpu
from dn_jax.models.layers import convolve


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
