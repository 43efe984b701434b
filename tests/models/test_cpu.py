"""Programs written out for a CPU, against the compiler's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative

from dn_jax.models import cpu


@pytest.mark.parametrize("shape", [(3, 5, 8, 6), (1, 1, 2, 4)])
@pytest.mark.parametrize("side", [3, 7])
def test_depthwise_convolution_and_its_gradients(shape, side):
  rng = np.random.RandomState(0)
  with jax.enable_x64(True):
    inputs, kernel, weights = rng.randn(*shape), rng.randn(side, side, 1, shape[-1]), rng.randn(*shape)
    loss = lambda convolve: jax.value_and_grad(
      lambda inputs, kernel: jnp.sum(weights * convolve(inputs, kernel) ** 2), argnums=(0, 1)
    )
    ours = jax.jit(loss(cpu.convolve_depthwise))(inputs, kernel)
    theirs = jax.jit(loss(lambda inputs, kernel: cpu._plain_depthwise(inputs, kernel, None)))(inputs, kernel)
  for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert relative(one, other) < 1e-12


def test_depthwise_convolution_of_bfloat16_adds_up_in_float32():
  rng = np.random.RandomState(0)
  inputs, kernel = rng.randn(2, 6, 6, 4), rng.randn(7, 7, 1, 4)
  narrow = jnp.asarray(inputs, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
  found = cpu.convolve_depthwise(*narrow)
  exact = cpu.convolve_depthwise(*(each.astype(jnp.float32) for each in narrow))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
