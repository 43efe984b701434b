"""The folded network against the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import variables_of

from dn_jax.inference import folding
from dn_jax.models.densenet import DenseNet

NETWORKS = {
  "bc": DenseNet((2, 3), 4, 10, 8),
  "plain": DenseNet((2, 3), 4, 10, 16, bottleneck_width=0, compression=1.0),
  "imagenet": DenseNet((1, 2, 1, 2), 4, 7, 8, stem="imagenet", epsilon=1.001e-5),
}


def pictures(size, count=3):
  return np.random.RandomState(1).randn(count, size, size + 9, 3)


def found_and_expected(network, variables, images):
  folded = folding.fold(network, variables)
  found = lambda images: folding.logits(folded, folding.feature_maps(network, folded, images))
  return jax.jit(lambda images: (found(images), network.apply(variables, images, False)))(images)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_folding_changes_no_logit(kind):
  network = NETWORKS[kind].clone(dtype=jnp.float64, param_dtype=jnp.float64)
  with jax.enable_x64(True):
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables_of(NETWORKS[kind], size=64))
    images = pictures(61)
    found, expected = found_and_expected(network, variables, images)
  assert np.ptp(expected, axis=0).max() > 1e-3
  np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_what_folds_is_folded():
  folded = folding.fold(NETWORKS["imagenet"], variables_of(NETWORKS["imagenet"], size=64))
  assert set(folded["stem"]) == {"kernel", "bias"}
  assert set(folded["block1"][0]["bottleneck"]) == {"kernel", "bias"}
  assert set(folded["block1"][0]) == {"norm", "bottleneck", "kernel"}


def test_a_class_activation_maps_mean_is_the_classs_logit():
  network = NETWORKS["bc"]
  folded = folding.fold(network, variables_of(network))
  maps = jax.jit(lambda x: folding.feature_maps(network, folded, x))(jnp.asarray(pictures(32), jnp.float32))
  classes = np.array([3, 0, 9])
  activation = folding.class_activation(folded, maps, classes)
  assert activation.shape == maps.shape[:3]
  assert np.ptp(activation[0]) > 1e-3
  logits = folding.logits(folded, maps)[np.arange(3), classes]
  np.testing.assert_allclose(jnp.mean(activation, axis=(1, 2)), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_activations_are_the_networks():
  network = NETWORKS["bc"].clone(dtype=jnp.bfloat16)
  variables = variables_of(network)
  images = jnp.asarray(pictures(32), jnp.float32)
  folded = folding.fold(network, variables)
  assert jax.eval_shape(lambda: folding.feature_maps(network, folded, images)).dtype == jnp.bfloat16
  found, expected = found_and_expected(network, variables, images)
  np.testing.assert_allclose(found, expected, atol=0.05 * float(jnp.abs(expected).max()))
