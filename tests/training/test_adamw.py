"""AdamW and its schedule against records of PyTorch and timm (tests/fixtures/optimizer)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import FIXTURES

from dn_jax.config.schema import OptimizerConfig
from dn_jax.training import optimizer

PUBLISHED = OptimizerConfig(1e-3, 0.9, False, 0.05, "cosine", name="adamw", beta2=0.999, decay="kernels")


def nested(record, prefix):
  """A record's tensors as Flax has parameters."""
  tree = {}
  for name in record:
    if name.startswith(f"{prefix}/"):
      *path, last = name.removeprefix(f"{prefix}/").split(".")
      inner = tree
      for part in path:
        inner = inner.setdefault(part, {})
      inner[last] = jnp.asarray(record[name])
  return tree


@pytest.fixture(scope="module")
def torchs():
  with np.load(FIXTURES / "optimizer" / "adamw.npz") as file:
    return dict(file)


@pytest.mark.parametrize("decay", ["kernels", "all"])
def test_adamw_is_torchs_with_timms_groups_of_parameters(torchs, decay):
  with jax.enable_x64(True):
    rates, betas = jnp.asarray(torchs["rates"]), torchs["betas"].tolist()
    config = OptimizerConfig(None, betas[0], False, float(torchs["weight_decay"]), name="adamw", beta2=betas[1])
    config = dataclasses.replace(config, decay=None if decay == "all" else decay)
    rule = optimizer.make(config, lambda step: rates[step])
    params = nested(torchs, "initial")
    state = rule.init(params)
    for n in range(len(rates)):
      updates, state = rule.update(nested(torchs, f"gradient{n}"), state, params)
      params = optax.apply_updates(params, updates)
      for found, expected in zip(*map(jax.tree.leaves, (params, nested(torchs, f"{decay}{n}"))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_decay_of_kernels_is_of_what_has_two_dimensions_and_is_no_bias():
  params = {
    "stem": {"conv": {"kernel": jnp.ones((4, 4, 3, 8)), "bias": jnp.ones(8)}, "norm": {"scale": jnp.ones(8)}},
    "block1": {"layer1": {"mix": {"kernel": jnp.ones((7, 7, 1, 8))}, "layer_scale": jnp.ones(8)}},
    "classifier": {"kernel": jnp.ones((8, 5)), "bias": jnp.ones((1, 5))},
  }
  assert optimizer.kernels(params) == {
    "stem": {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False}},
    "block1": {"layer1": {"mix": {"kernel": True}, "layer_scale": False}},
    "classifier": {"kernel": True, "bias": False},
  }


def test_sgd_decays_kernels_alone_on_request():
  config = OptimizerConfig(0.1, 0.0, False, 0.5, "steps", (), 1.0, decay="kernels")
  params = {"conv": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}}
  rule = optimizer.make(config, optax.constant_schedule(0.1))
  updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
  np.testing.assert_allclose(updates["conv"]["kernel"], -0.1 * 0.5 * 3, rtol=1e-6)
  assert not updates["conv"]["bias"].any()


def test_frozen_parts_the_classifiers_rate_and_the_average_are_adamws_too():
  params = {
    "block1": {"layer1": {"kernel": jnp.ones((2, 2))}, "layer10": {"kernel": jnp.ones((2, 2))}},
    "classifier": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
  }
  schedule = optax.constant_schedule(0.1)
  all_flags = dataclasses.replace(PUBLISHED, classifier_rate=10.0, average=0.9)
  ours = optimizer.make(all_flags, schedule, ("block1/layer1",))
  plain = optimizer.make(PUBLISHED, schedule)
  a, b, rng, kept = params, params, np.random.RandomState(0), [ours.init(params), plain.init(params)]
  for n in range(3):
    gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.randn(*leaf.shape), jnp.float32), params)
    found, kept[0] = ours.update(gradients, kept[0], a)
    expected, kept[1] = plain.update(gradients, kept[1], a)
    assert not found["block1"]["layer1"]["kernel"].any()
    np.testing.assert_allclose(found["block1"]["layer10"]["kernel"], expected["block1"]["layer10"]["kernel"], rtol=1e-6)
    for name in ("kernel", "bias"):
      np.testing.assert_allclose(found["classifier"][name], 10 * expected["classifier"][name], rtol=1e-6)
    a = optax.apply_updates(a, found)
    d = min(0.9, (2 + n) / (11 + n))
    b = jax.tree.map(lambda mean, now, d=d: d * mean + (1 - d) * now, b, a)
  for found, expected in zip(*map(jax.tree.leaves, (optimizer.tested(a, kept[0]), b)), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["rdnet", "short"])
def test_the_rate_is_timms_where_an_epoch_begins(name):
  with np.load(FIXTURES / "optimizer" / "cosine.npz") as file:
    expected, (epochs, rate, last, warmup, first) = file[name], file[f"{name}_how"].tolist()
  config = dataclasses.replace(PUBLISHED, learning_rate=rate, final_rate=last, warmup_epochs=warmup, warmup_rate=first)
  steps = 10
  with jax.enable_x64(True):
    ours = optimizer.learning_rate(config, int(epochs), steps)
    for epoch, timms in enumerate(expected):
      # The rise begins in step 0 with the first rate, the cosine ends in the last step with the last one.
      step = epoch * steps if epoch < warmup else epoch * steps - 1
      assert float(ours(step)) == pytest.approx(timms, rel=1e-9) or epoch == warmup, epoch
    # timm's rate falls from the whole one to the cosine's where the warm-up ends.
    assert float(ours(int(warmup) * steps)) < expected[int(warmup)] < rate
    assert float(ours(int(epochs) * steps - 1)) == pytest.approx(last, rel=1e-9)


def test_all_rates_are_scaled_for_another_batch_and_the_first_steps_have_a_tenth():
  config = dataclasses.replace(PUBLISHED, final_rate=1e-4, warmup_epochs=2.0, warmup_rate=2e-4, rate_batch=512)
  once = optimizer.learning_rate(config, 4, 5, batch_size=512)
  twice = optimizer.learning_rate(config, 4, 5, batch_size=1024)
  for step in range(20):
    assert float(twice(step)) == pytest.approx(2 * float(once(step)), rel=1e-5)
  slow = optimizer.learning_rate(dataclasses.replace(config, warmup_steps=3), 4, 5, batch_size=512)
  shares = [float(slow(step)) / float(once(step)) for step in range(20)]
  assert shares == pytest.approx([0.1] * 3 + [1.0] * 17, rel=1e-5)
