"""Networks in other hands: as a backbone, with another classifier, in NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative
from flax import nnx

from dn_jax.models.densenet import DenseNet
from dn_jax.models.transfer import block_features, reset_classifier

NETWORK = DenseNet((1, 2), 4, 10, 8)
IMAGES = jnp.asarray(np.random.RandomState(0).randn(3, 12, 8, 3), jnp.float32)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(lambda: NETWORK.init(jax.random.key(0), IMAGES, False))()


def test_init_makes_no_more_than_parameters_and_statistics(variables):
  assert set(variables) == {"params", "batch_stats"}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["none", "dense_layer", "block"])
def test_block_features_are_the_blocks_maps_and_lead_to_the_logits(variables, policy):
  network = NETWORK.clone(remat=policy)
  first, last = block_features(network, variables, IMAGES)
  # 8 channels from the stem, 4 a layer; half of 12 go through the transition.
  assert (first.shape, last.shape) == ((3, 12, 8, 12), (3, 6, 4, 14))
  # The rest of the network, by its formula: norm with fresh statistics, ReLU, pool, classifier.
  pooled = np.maximum(0, np.asarray(last) / np.sqrt(1 + 1e-5)).mean((1, 2))
  logits = pooled @ variables["params"]["classifier"]["kernel"] + variables["params"]["classifier"]["bias"]
  assert relative(network.apply(variables, IMAGES, False), logits) < 1e-5


def test_a_new_classifier_leaves_the_rest_alone(variables):
  network, changed = reset_classifier(NETWORK, variables, 3, jax.random.key(1))
  assert network.apply(changed, IMAGES, False).shape == (3, 3)
  kernel = changed["params"]["classifier"]["kernel"]
  assert float(jnp.abs(kernel).max()) <= 1 / np.sqrt(14)
  assert float(jnp.abs(kernel).max()) > 0
  for a, b in zip(block_features(network, changed, IMAGES), block_features(NETWORK, variables, IMAGES), strict=True):
    assert np.array_equal(a, b)
  with pytest.raises(ValueError, match="num_classes 0"):
    reset_classifier(NETWORK, variables, 0, jax.random.key(1))


@pytest.mark.slow
def test_the_network_works_as_an_nnx_module_in_evaluation_and_training():
  module = nnx.bridge.ToNNX(NETWORK, rngs=nnx.Rngs(0)).lazy_init(IMAGES, False)

  def variables():
    _, params, stats, _ = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    return {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(stats)}

  before = variables()
  assert relative(module(IMAGES, False), NETWORK.apply(before, IMAGES, False)) < 1e-6
  expected, updated = NETWORK.apply(before, IMAGES, True, mutable=["batch_stats"])
  assert relative(module(IMAGES, True, mutable=["batch_stats"]), expected) < 1e-6
  for a, b in zip(jax.tree.leaves(variables()["batch_stats"]), jax.tree.leaves(updated["batch_stats"]), strict=True):
    assert relative(a, b) < 1e-6
