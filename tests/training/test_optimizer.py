"""SGD against Torch's formula, written out; schedules against the published epochs."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dn_jax.config.schema import OptimizerConfig
from dn_jax.training import optimizer

PUBLISHED = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (0.5, 0.75), 0.1)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_is_torchs(nesterov, momentum):
  config = dataclasses.replace(PUBLISHED, nesterov=nesterov, momentum=momentum)
  sgd = optimizer.make(config, optimizer.learning_rate(config, 4, 2))
  rng = np.random.RandomState(0)
  weight = rng.randn(5)
  ours, state = jnp.asarray(weight, jnp.float32), sgd.init(jnp.asarray(weight, jnp.float32))
  buffer = np.zeros(5)
  for step, rate in enumerate([0.1] * 4 + [0.01] * 2 + [0.001] * 2):
    gradient = rng.randn(5)
    # torch.optim.SGD's documentation, dampening 0.
    d = gradient + 1e-4 * weight
    buffer = momentum * buffer + d
    weight = weight - rate * (d + momentum * buffer if nesterov else buffer)
    updates, state = sgd.update(jnp.asarray(gradient, jnp.float32), state, ours)
    ours = optax.apply_updates(ours, updates)
    assert np.asarray(ours) == pytest.approx(weight, rel=1e-5, abs=1e-6), step


@pytest.mark.parametrize(
  ("epochs", "drops", "first_lower"),
  [
    (300, (0.5, 0.75), [150, 225]),
    (40, (0.5, 0.75), [20, 30]),
    (10, (0.5, 0.75), [5, 8]),
    (30, (0.1, 0.9), [3, 27]),
    (200, (0.3, 0.6, 0.8), [60, 120, 160]),
    (90, (1 / 3, 2 / 3), [30, 60]),
    (1, (0.5, 0.75), [1, 1]),
  ],
)
def test_the_rate_drops_on_the_first_epoch_past_its_share(epochs, drops, first_lower):
  config = dataclasses.replace(PUBLISHED, drops=drops)
  rate, steps = optimizer.learning_rate(config, epochs, 7), 7
  for epoch in range(epochs):
    expected = 0.1 * 0.1 ** sum(epoch >= first for first in first_lower)
    for step in (epoch * steps, epoch * steps + steps - 1):
      assert float(rate(step)) == pytest.approx(expected, rel=1e-5), epoch


def test_the_cosine_counts_from_one_and_ends_at_zero():
  config = dataclasses.replace(PUBLISHED, schedule="cosine")
  rate = optimizer.learning_rate(config, 5, 4)
  for step in range(20):
    assert float(rate(step)) == pytest.approx(0.05 * (1 + math.cos(math.pi * (step + 1) / 20)), abs=1e-7)
  assert float(rate(19)) == pytest.approx(0, abs=1e-9)


def test_a_rate_for_another_batch_is_scaled_and_rises_to_that():
  config = dataclasses.replace(PUBLISHED, rate_batch=256, warmup_epochs=5, drops=(1 / 3, 2 / 3))
  rate = optimizer.learning_rate(config, 90, 10, batch_size=1024)
  # Goyal et al. 2017: from 0.1 in equal steps to 0.4 over five epochs, then the published drops.
  for step, expected in [(0, 0.1), (25, 0.25), (50, 0.4), (299, 0.4), (300, 0.04), (600, 0.004)]:
    assert float(rate(step)) == pytest.approx(expected, rel=1e-5), step
  smaller = optimizer.learning_rate(dataclasses.replace(config, warmup_epochs=0), 90, 10, batch_size=64)
  assert float(smaller(0)) == pytest.approx(0.025)
  unscaled = optimizer.learning_rate(dataclasses.replace(config, rate_batch=None), 90, 10, batch_size=64)
  assert [float(unscaled(step)) for step in (0, 25, 50)] == pytest.approx([0.01, 0.055, 0.1])


PARAMS = {
  "block1": {"layer1": {"kernel": jnp.ones(2)}, "layer10": {"kernel": jnp.ones(2)}},
  "classifier": {"bias": jnp.ones(2)},
}


def test_frozen_parts_stay_and_the_classifier_has_a_rate_of_its_own():
  config = dataclasses.replace(PUBLISHED, classifier_rate=10.0, weight_decay=0.5)
  sgd = optimizer.make(config, optax.constant_schedule(0.1), ("block1/layer1",))
  plain = optimizer.make(dataclasses.replace(config, classifier_rate=1.0), optax.constant_schedule(0.1))
  gradients = {
    "block1": {"layer1": {"kernel": jnp.full(2, 3.0)}, "layer10": {"kernel": jnp.full(2, 2.0)}},
    "classifier": {"bias": jnp.full(2, -1.0)},
  }
  ours, theirs = (sgd, sgd.init(PARAMS)), (plain, plain.init(PARAMS))
  for _ in range(3):
    (found, state), (expected, other) = (each.update(gradients, kept, PARAMS) for each, kept in (ours, theirs))
    ours, theirs = (sgd, state), (plain, other)
    assert not found["block1"]["layer1"]["kernel"].any()
    np.testing.assert_array_equal(found["block1"]["layer10"]["kernel"], expected["block1"]["layer10"]["kernel"])
    np.testing.assert_allclose(found["classifier"]["bias"], 10 * expected["classifier"]["bias"], rtol=1e-6)


def test_a_moving_average_is_that_of_the_parameters_after_each_step():
  config = dataclasses.replace(PUBLISHED, average=0.9)
  sgd = optimizer.make(config, optax.constant_schedule(0.1))
  plain = optimizer.make(PUBLISHED, optax.constant_schedule(0.1))
  params = other = jnp.asarray([1.0, -2.0])
  state, kept, average = sgd.init(params), plain.init(params), np.asarray(params, np.float64)
  rng = np.random.RandomState(0)
  for t in range(1, 120):
    gradient = jnp.asarray(rng.randn(2), jnp.float32)
    updates, state = sgd.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    same, kept = plain.update(gradient, kept, other)
    other = optax.apply_updates(other, same)
    d = min(0.9, (1 + t) / (10 + t))
    average = d * average + (1 - d) * np.asarray(params)
  np.testing.assert_array_equal(params, other)
  np.testing.assert_allclose(optimizer.tested(params, state), average, rtol=1e-5)
  np.testing.assert_array_equal(optimizer.tested(params, kept), params)
