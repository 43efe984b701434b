"""SGD against Torch's formula, written out; schedules against the published epochs."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dn_jax.configuration import OptimizerConfig
from dn_jax.training import optimizer

PUBLISHED = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (0.5, 0.75), 0.1)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_is_torchs(nesterov, momentum):
  config = dataclasses.replace(PUBLISHED, nesterov=nesterov, momentum=momentum)
  sgd = optimizer.sgd(config, optimizer.learning_rate(config, 4, 2))
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
