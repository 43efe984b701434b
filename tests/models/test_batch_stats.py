"""Statistics taken once are the same function as ordinary batch norms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative
from flax_peer import OrdinaryDenseNet
from variables import variables_of

from dn_jax.models.batch_stats import batch_moments
from dn_jax.models.densenet import DenseNet

MOMENTUM, STEPS = 0.9, 3


def ordinary_tree(params):
  """Our parameters under the names above."""
  tree = {"stem": params["stem"]["conv"], "lastnorm": params["last"]["norm"], "classifier": params["classifier"]}
  for name, part in params.items():
    if name.startswith("block"):
      for layer, own in part.items():
        for unit, value in own.items():
          tree[f"b{name[5:]}l{layer[5:]}{unit}"] = value
    elif name.startswith("transition"):
      tree |= {f"t{name[10:]}norm": part["norm"], f"t{name[10:]}conv": part["conv"]}
  return tree


def fresh_statistics(network, x):
  """In float64: flax starts its running averages in float32, whose 0.9 is off in the eighth digit."""
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), x, False))["batch_stats"]
  return jax.tree.map_with_path(lambda path, leaf: np.full(leaf.shape, float(path[-1].key == "var")), shapes)


@pytest.mark.slow
@pytest.mark.parametrize(
  "kind",
  [
    {"bottleneck": True, "compression": 0.5},
    pytest.param({"bottleneck": True, "compression": 1.0}, marks=pytest.mark.thorough),
    pytest.param({"bottleneck": False, "compression": 0.5}, marks=pytest.mark.thorough),
    {"bottleneck": False, "compression": 1.0},
  ],
  ids=["BC", "B", "C", "plain"],
)
def test_network_equals_one_of_ordinary_batch_norms_in_float64(kind):
  with jax.enable_x64(True):
    ours = DenseNet(
      (1, 2),
      4,
      5,
      6,
      bottleneck_width=4 if kind["bottleneck"] else 0,
      compression=kind["compression"],
      dtype=jnp.float64,
      param_dtype=jnp.float64,
    )
    theirs = OrdinaryDenseNet((1, 2), 4, 6, 5, **kind)
    rng = np.random.RandomState(0)
    x = jnp.asarray(rng.randn(6, 9, 8, 3) + 2)
    ours_stats, theirs_stats = fresh_statistics(ours, x), fresh_statistics(theirs, x)
    # Scales and biases away from 1 and 0, so that every one of them matters.
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.randn(*leaf.shape), variables_of(ours, size=8)["params"])
    weights = jnp.asarray(rng.randn(6, 5))

    def loss(network, params, batch_stats):
      logits, updated = network.apply({"params": params, "batch_stats": batch_stats}, x, True, mutable=["batch_stats"])
      return jnp.sum(jnp.sin(logits) * weights), (logits, updated["batch_stats"])

    ours_step = jax.jit(jax.grad(lambda params, stats: loss(ours, params, stats), has_aux=True))
    theirs_step = jax.jit(jax.grad(lambda params, stats: loss(theirs, params, stats), has_aux=True))
    for _ in range(STEPS):
      ours_grad, (ours_logits, ours_stats) = ours_step(params, ours_stats)
      theirs_grad, (theirs_logits, theirs_stats) = theirs_step(ordinary_tree(params), theirs_stats)

    assert relative(ours_logits, theirs_logits) < 1e-10
    for (path, a), (_, b) in zip(
      jax.tree.leaves_with_path(ordinary_tree(ours_grad)), jax.tree.leaves_with_path(theirs_grad), strict=True
    ):
      assert relative(a, b) < 1e-10, path
    # flax keeps the biased variance. From 1 at the start, it and the unbiased one have the same share of 1 left.
    left = MOMENTUM**STEPS
    maps = {
      "b2l2norm1": [("transition1", "output"), ("block2", "layer1", "output")],
      "lastnorm": [("transition1", "output"), *(("block2", f"layer{n}", "output") for n in (1, 2))],
    }
    if kind["bottleneck"]:
      maps["b1l1norm2"] = [("block1", "layer1", "bottleneck")]
    for reader, paths in maps.items():
      count = 6 * 9 * 8 if reader.startswith("b1") else 6 * 4 * 4
      found = [functools.reduce(lambda tree, name: tree[name], path, ours_stats) for path in paths]
      assert relative(np.concatenate([f["mean"] for f in found]), theirs_stats[reader]["mean"]) < 1e-10
      unbiased = left + (theirs_stats[reader]["var"] - left) * count / (count - 1)
      assert relative(np.concatenate([f["var"] for f in found]), unbiased) < 1e-10


def test_moments_of_a_map_far_from_zero_keep_their_digits_in_float32():
  rng = np.random.RandomState(0)
  values = (1000 + rng.randn(8, 16, 16, 3)).astype(np.float32)
  mean, variance = batch_moments(jnp.asarray(values))
  assert relative(mean, values.astype(np.float64).mean((0, 1, 2))) < 1e-6
  assert relative(variance, values.astype(np.float64).var((0, 1, 2))) < 1e-4


def test_moments_of_bfloat16_are_summed_in_float32():
  values = jnp.ones((64, 32, 32, 2), jnp.bfloat16)
  mean, variance = batch_moments(values)
  assert mean.dtype == jnp.float32
  assert np.all(mean == 1)
  assert np.all(variance == 0)
