"""Initial weights are Flax's, drawn another way."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dn_jax.models import initial
from dn_jax.models.densenet import DenseNet
from dn_jax.models.resnet import ResNet

NETWORKS = {
  "bc": DenseNet((1, 2), 4, 5, 8),
  "plain, caffe": DenseNet(
    (2, 1), 4, 5, 16, 0, 1.0, convolution_init="fan_in", classifier_init="xavier", remat="layer_by_layer"
  ),
  "imagenet stem": DenseNet((1, 1, 1, 1), 4, 5, 8, stem="imagenet", remat="block"),
  "resnet": ResNet("resnet", 1, 5),
  "preactivation": ResNet("preactivation", 1, 5, remat="dense_layer"),
  "wide": ResNet("wide", 1, 5, widen_factor=2, convolution_init="fan_in"),
  "stochastic depth": ResNet("resnet", 1, 5, survival=0.5),
}


# Units of other kinds: what is drawn depends on no kind.
RARE = ("resnet", "preactivation", "stochastic depth")


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=[pytest.mark.thorough] if name in RARE else []) for name in NETWORKS]
)
def test_variables_are_those_of_the_networks_own_init(name):
  network, key = NETWORKS[name], jax.random.key(7)
  expected = jax.jit(lambda key: network.init(key, jnp.zeros((1, 32, 32, 3)), False))(key)
  found = initial.variables(network, key, (32, 32, 3))
  assert jax.tree.structure(found) == jax.tree.structure(dict(expected))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7, atol=1e-9), found, dict(expected))


@pytest.mark.parametrize("shape", [(1, 1, 33, 48), (3, 3, 16, 12), (3, 10)])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_a_draw_is_the_one_of_flaxs_initializer(shape, mode, distribution):
  key, scales = jax.random.key(1), (2.0, 1 / 3)
  drawn = lambda library, key: [
    library.variance_scaling(scale, mode, distribution)(key, shape, jnp.float32) for scale in scales
  ]
  expected, inside = jax.jit(lambda key: (drawn(nn.initializers, key), drawn(initial, key)))(key)
  for own, traced, flax in zip(drawn(initial, key), inside, expected, strict=True):
    np.testing.assert_allclose(own, flax, rtol=3e-7, atol=1e-9)
    np.testing.assert_allclose(traced, own, rtol=3e-7, atol=1e-9)
