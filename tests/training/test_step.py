"""Totals of a batch, and what a step makes small, by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative
from sklearn.metrics import confusion_matrix
from sklearn.utils.class_weight import compute_class_weight
from variables import variables_of

from dn_jax.models.densenet import DenseNet
from dn_jax.training.step import Batch, Evaluated, Objective, Totals, evaluated_of, make_loss
from dn_jax.training.step import totals_of as totals_of_a_batch

totals_of = jax.jit(totals_of_a_batch)


def batch(labels, weights=None):
  labels = jnp.asarray(labels)
  return Batch(
    jnp.zeros((len(labels), 1, 1, 1)), labels, jnp.ones(len(labels)) if weights is None else jnp.asarray(weights)
  )


def test_totals_are_counted_by_hand():
  logits = jnp.asarray([[5, 1, 0, 0, 0, 0, 0], [6, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6]], jnp.float32)
  # Right at once; fifth place; sixth place.
  totals = totals_of(logits, batch([0, 4, 1]))
  assert (int(totals.count), int(totals.top1_errors), int(totals.top5_errors)) == (3, 2, 1)
  expected = sum(
    math.log(np.exp(row).sum()) - row[label] for row, label in zip(np.asarray(logits), (0, 4, 1), strict=True)
  )
  assert float(totals.loss) == pytest.approx(expected, rel=1e-6)


def test_pictures_that_fill_up_a_batch_do_not_count():
  logits = jnp.asarray([[1, 0], [1, 0], [jnp.nan, 0]], jnp.float32)
  totals = totals_of(logits, batch([1, 0, 0], [1.0, 1.0, 0.0]))
  assert (int(totals.count), int(totals.top1_errors)) == (2, 1)
  assert math.isfinite(float(totals.loss))


def test_a_logit_that_is_no_number_is_an_error_and_no_hit():
  totals = totals_of(jnp.asarray([[jnp.nan, 0.0, 0.0]]), batch([0]))
  assert int(totals.top1_errors) == 1


def test_means_are_fractions():
  totals = Totals(jnp.int32(8), jnp.float32(4), jnp.int32(2), jnp.int32(1)) + Totals.zero()
  assert totals.means() == {"loss": 0.5, "error": 0.25, "top5_error": 0.125}


def test_of_equal_logits_the_first_class_ranks_first():
  """So a network that says the same of every class is right by chance alone."""
  for value in (0.0, jnp.inf):
    totals = totals_of(jnp.full((20, 10), value), batch([n % 10 for n in range(20)]))
    assert (int(totals.top1_errors), int(totals.top5_errors)) == (18, 10)


def test_ranks_are_those_of_argsort():
  rng = np.random.RandomState(0)
  logits = rng.randint(0, 6, (200, 8)).astype(np.float32)  # Many ties.
  labels = rng.randint(0, 8, 200)
  order = np.argsort(-logits, axis=1, kind="stable")
  totals = totals_of(jnp.asarray(logits), batch(labels))
  assert int(totals.top1_errors) == np.sum(order[:, 0] != labels)
  assert int(totals.top5_errors) == np.sum(~(order[:, :5] == labels[:, None]).any(axis=1))


def test_who_is_taken_for_whom_is_counted_as_scikit_learn_does():
  rng = np.random.RandomState(0)
  logits, labels = rng.randn(300, 7).astype(np.float32), rng.randint(0, 6, 300)  # None of the last class.
  weights = (rng.rand(300) < 0.9).astype(np.float32)
  logits[5, 3] = np.nan
  found = evaluated_of(jnp.asarray(logits), batch(labels, weights), True)
  counted = (weights > 0) & ~np.isnan(logits).any(axis=1)
  expected = confusion_matrix(labels[counted], logits[counted].argmax(axis=1), labels=range(7))
  np.testing.assert_array_equal(found.confusion, expected)
  assert int(found.count) == counted.sum() + 1  # What is no number counts, and is wrong.
  assert int(found.top1_errors) == counted.sum() - expected.trace() + 1
  recalls = expected.diagonal()[:6] / expected.sum(axis=1)[:6]
  assert found.class_errors() == (*map(pytest.approx, 1 - recalls), None)


def test_batches_of_a_test_add_up():
  pair = Evaluated.none_yet(2, jnp.zeros(()).sharding) + evaluated_of(jnp.asarray([[0.0, 1.0]]), batch([0]), True)
  pair += evaluated_of(jnp.asarray([[0.0, 1.0]]), batch([1]), True)
  np.testing.assert_array_equal(pair.confusion, [[0, 1], [0, 1]])
  assert (
    Evaluated.none_yet(0, jnp.zeros(()).sharding) + evaluated_of(jnp.zeros((1, 2)), batch([0]), False)
  ).confusion is None


NETWORK = DenseNet((1, 1), 4, 5, 8, dropout_rate=0.3)
IMAGES = jnp.asarray(np.random.RandomState(0).randn(6, 8, 8, 3), jnp.float32)
LABELS = np.array([0, 1, 2, 3, 4, 0])


BATCH = Batch(IMAGES, jnp.asarray(LABELS), jnp.ones(6))


@functools.cache
def variables():
  return variables_of(NETWORK, size=8)


@pytest.mark.slow
def test_smoothed_labels_are_spread_over_all_classes():
  arguments = (variables()["params"], variables()["batch_stats"], BATCH, jax.random.key(1))
  losses = make_loss(NETWORK), make_loss(NETWORK, Objective(label_smoothing=0.1))
  (plain, (logits, _)), (smoothed, (again, _)) = jax.jit(lambda *each: [loss(*each) for loss in losses])(*arguments)
  np.testing.assert_allclose(logits, again, rtol=1e-6)
  logits = np.asarray(logits, np.float64)
  logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  labels = np.full((6, 5), 0.1 / 5)
  labels[np.arange(6), LABELS] += 0.9
  assert float(plain) == pytest.approx(-logs[np.arange(6), LABELS].mean(), rel=1e-5)
  assert float(smoothed) == pytest.approx(-(labels * logs).sum(axis=1).mean(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_each_image_has_the_weight_of_its_class_in_the_loss(smoothing):
  training = [0] * 50 + [1] * 20 + [2] * 20 + [3] * 8 + [4] * 2
  weights = compute_class_weight("balanced", classes=np.arange(5), y=training)
  loss = make_loss(NETWORK, Objective(smoothing, class_weights=tuple(weights.tolist())))
  found, (logits, _) = jax.jit(loss)(variables()["params"], variables()["batch_stats"], BATCH, jax.random.key(1))
  logits = np.asarray(logits, np.float64)
  logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  targets = np.full((6, 5), smoothing / 5)
  targets[np.arange(6), LABELS] += 1 - smoothing
  assert float(found) == pytest.approx((weights[LABELS] * -(targets * logs).sum(axis=1)).mean(), rel=1e-5)


@functools.cache
def by_hand():
  """Statistics, and with these the loss and its gradients."""
  stats = jax.tree.map(lambda leaf: leaf + 0.3, variables()["batch_stats"])

  def loss(params):
    logits = NETWORK.clone(remat="none").apply({"params": params, "batch_stats": stats}, IMAGES, False)
    return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(6), LABELS])

  return stats, *jax.jit(jax.value_and_grad(loss))(variables()["params"])


@pytest.mark.slow
@pytest.mark.parametrize("policy", [pytest.param("none", marks=pytest.mark.thorough), "dense_layer", "layer_by_layer"])
def test_frozen_statistics_are_used_and_stay(policy):
  stats, expected, theirs = by_hand()
  loss = make_loss(NETWORK.clone(remat=policy), Objective(freeze_statistics=True))
  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (found, (_, kept)), gradients = step(variables()["params"], stats, BATCH, jax.random.key(1))
  assert float(found) == pytest.approx(float(expected), rel=1e-6)
  jax.tree.map(np.testing.assert_array_equal, kept, stats)
  for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(theirs), strict=True):
    assert relative(a, b) < 1e-4
