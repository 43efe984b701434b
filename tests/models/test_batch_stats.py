"""Statistics taken once are the same function as ordinary batch norms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative
from flax_peer import OrdinaryDenseNet
from variables import variables_of

from dn_jax.models import batch_stats
from dn_jax.models.batch_stats import BatchNorm, FeatureMap, _about_shift, batch_moments
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


@pytest.fixture
def on_a_gpu(monkeypatch):
  """Programs that are traced now compute as on a GPU."""
  monkeypatch.setattr(batch_stats.jax.lax, "platform_dependent", lambda *operands, cuda, **_: cuda(*operands))


@pytest.fixture(params=["here", "gpu"])
def back_end(request):
  if request.param == "gpu":
    request.getfixturevalue("on_a_gpu")


def far_values(mean=10_000.0, deviation=0.05):
  """[8, 16, 16, 3] float32: the first two channels far from 0, the third around it."""
  values = np.random.RandomState(0).randn(8, 16, 16, 3)
  return (values * [deviation, 10 * deviation, 1] + [mean, -mean, 0]).astype(np.float32)


def assert_close(found, values):
  mean, variance = found
  wide = values.astype(np.float64)
  assert relative(mean, wide.mean((0, 1, 2))) < 1e-6
  assert np.all(np.abs(variance / wide.var((0, 1, 2)) - 1) < 1e-3)


@pytest.mark.parametrize("shift", [0.0, 9_000.0, 9_999.9, 1e6])
@pytest.mark.usefixtures("back_end")
def test_variance_of_a_channel_far_from_the_shift_keeps_its_digits_in_float32(shift):
  values = far_values()
  shifts = jnp.asarray([shift, -shift, 0], jnp.float32)
  assert_close(jax.jit(lambda *each: batch_moments(*each))(values, shifts), values)


@pytest.mark.usefixtures("back_end")
def test_variance_is_exact_with_several_groups():
  # One group needs the second pass, the other does not.
  groups = np.stack([far_values(), far_values(0)])
  moments = jax.vmap(lambda *each: batch_moments(*each), (0, None))
  means, variances = jax.jit(moments)(groups, jnp.zeros(3, jnp.float32))
  for group, mean, variance in zip(groups, means, variances, strict=True):
    wide = group.astype(np.float64)
    assert np.allclose(mean, wide.mean((0, 1, 2)), rtol=1e-6, atol=1e-3)
    assert np.all(np.abs(variance / wide.var((0, 1, 2)) - 1) < 1e-3)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_variance_is_exact_on_several_devices(eight_devices, platform):
  # The parts differ: only the first two devices need the second pass.
  parts = np.concatenate([far_values()[:4], far_values(0)[4:]])
  assert_close(map(np.asarray, eight_devices.case("moments", parts.tolist(), 4, platform)), parts)


@pytest.mark.usefixtures("back_end")
@pytest.mark.parametrize("level", [0.0, 1.0, 10_000.0, 1e15])
def test_variance_of_a_constant_channel_is_never_negative(level):
  values = np.full((4, 8, 8, 1), level, np.float32)
  for shift in (0.0, level, level / 3):
    _, variance = jax.jit(lambda *each: batch_moments(*each))(values, jnp.full((1,), shift, jnp.float32))
    assert 0 <= variance <= (2e-7 * level) ** 2


def test_second_pass_stands_in_a_branch_and_the_other_branch_computes_nothing():
  program = jax.jit(functools.partial(_about_shift, dtype=jnp.float32))
  text = program.lower(far_values(), jnp.zeros(3, jnp.float32)).as_text()
  kept, second_pass = text[text.index("stablehlo.case") :].split("}, {")[:2]
  assert "reduce" not in kept
  assert "reduce" in second_pass


def test_a_gpu_takes_one_reduction_without_a_branch():
  traced = jax.jit(batch_moments).trace(far_values(), jnp.zeros(3, jnp.float32))
  for platform, branches, reductions in (("tpu", True, None), ("cuda", False, 1), ("rocm", False, 1)):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.or" in text) == branches, platform  # Of `any`, by which the branch is taken.
    assert reductions in (None, text.count("stablehlo.reduce(")), platform


@pytest.mark.usefixtures("on_a_gpu")
def test_variance_keeps_its_digits_where_a_gpu_looks_at_an_outlier():
  values = 1e-3 * np.random.RandomState(0).randn(65_536, 3)
  for sevenths, channel in ((1, 0), (3, 1), (5, 2)):
    values[len(values) * sevenths // 7, channel] = 1
  values = values.reshape(64, 32, 32, 3).astype(np.float32)
  _, variance = jax.jit(lambda values: batch_moments(values, jnp.zeros(3)))(values)
  assert np.all(np.abs(variance / values.astype(np.float64).var((0, 1, 2)) - 1) < 1e-3)


@pytest.mark.usefixtures("back_end")
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_gradient_of_the_moments_is_that_of_their_definition(far):
  def by_definition(values):
    mean = jnp.mean(values, axis=(0, 1, 2))
    return mean, jnp.mean(jnp.square(values - mean), axis=(0, 1, 2))

  with jax.enable_x64(True):
    values = jnp.asarray(np.random.RandomState(1).randn(4, 5, 5, 2) + far)
    tangent = jnp.asarray(np.random.RandomState(2).randn(4, 5, 5, 2))
    ours = lambda values: batch_moments(values, jnp.zeros(2))
    expected, pull_back = jax.vjp(by_definition, values)
    found, our_pull_back = jax.vjp(ours, values)
    assert relative(jnp.stack(found), jnp.stack(expected)) < 1e-12
    assert relative(our_pull_back(expected)[0], pull_back(expected)[0]) < 1e-12
    assert (
      relative(jax.jvp(ours, (values,), (tangent,))[1][1], jax.jvp(by_definition, (values,), (tangent,))[1][1]) < 1e-11
    )


def test_moments_of_bfloat16_are_summed_in_float32():
  values = jnp.ones((64, 32, 32, 2), jnp.bfloat16)
  mean, variance = batch_moments(values, jnp.zeros(2, jnp.float32))
  assert mean.dtype == jnp.float32
  assert np.all(mean == 1)
  assert np.all(variance == 0)


def test_the_backward_pass_of_a_norm_does_not_read_its_scale():
  with jax.enable_x64(True):
    rng = np.random.RandomState(0)
    values, scale, bias, mean = (jnp.asarray(rng.randn(*shape)) for shape in ((2, 3, 3, 4), (4,), (4,), (4,)))
    variance = jnp.asarray(rng.rand(4) + 0.1)
    norm = BatchNorm(1e-3, jnp.float64, jnp.float64)

    def ours(scale, values, mean, variance):
      return norm.apply({"params": {"scale": scale, "bias": bias}}, FeatureMap(values, mean, variance))

    def by_hand(scale, values, mean, variance):
      return (values - mean) * (scale * jax.lax.rsqrt(variance + 1e-3)) + bias

    read = (scale, values, mean, variance)
    (_, pull_back), (_, expected) = jax.vjp(ours, *read), jax.vjp(by_hand, *read)
    assert not any(np.array_equal(kept, scale) for kept in jax.tree.leaves(pull_back))
    assert any(np.array_equal(kept, scale) for kept in jax.tree.leaves(expected))
    gradient = jnp.asarray(rng.randn(*values.shape))
    for one, other in zip(pull_back(gradient), expected(gradient), strict=True):
      assert relative(one, other) < 1e-12
