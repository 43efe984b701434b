"""RDNet, against the paper's sizes and its own layers written plainly; timm's logits are in tests/weights."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative
from variables import variables_of

from dn_jax.config import size
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.models import build, initial, summary
from dn_jax.models.layers import depth_factors
from dn_jax.models.rdnet import POLICIES, RDNet

SMALL = RDNet((2, 1, 2), (4, 8, 6), 5, 8, (1,), patch_size=2, compression=0.7)
DOUBLE = SMALL.clone(dtype=jnp.float64, param_dtype=jnp.float64)


def plain(network, params, images, factors):
  """The network in numpy's words, from the paper: `factors` by block and layer, [batch] each."""
  norm = lambda x, p: (
    (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]
  )

  def conv(x, p, stride=1, pad=0, groups=1):
    y = jax.lax.conv_general_dilated(
      x, p["kernel"], (stride,) * 2, ((pad, pad),) * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
    return y + p["bias"]

  x = norm(conv(images, params["stem"]["conv"], network.patch_size), params["stem"]["norm"])
  for b, layers in enumerate(network.blocks, start=1):
    for n in range(1, layers + 1):
      p = params[f"block{b}"][f"layer{n}"]
      y = norm(conv(x, p["mix"], 1, 3, x.shape[-1]), p["norm"])
      assert p["expand"]["kernel"].shape[-1] == x.shape[-1] * 4 // 8 * 8
      y = conv(jax.scipy.stats.norm.cdf(h := conv(y, p["expand"])) * h, p["project"])
      if b >= 3:
        y = y * jnp.clip(conv(y.mean((1, 2), keepdims=True), p["excite"]) / 6 + 0.5, 0, 1)
      else:
        assert "excite" not in p
      x = jnp.concatenate([x, y * p["layer_scale"] * factors[b, n][:, None, None, None]], axis=-1)
    if b < len(network.blocks):
      p, stride = params[f"transition{b}"], 2 if b in network.downsample else 1
      assert p["conv"]["kernel"].shape == (stride, stride, x.shape[-1], int(network.compression * x.shape[-1] / 8) * 8)
      x = conv(norm(x, p["norm"]), p["conv"], stride)
  x = norm(x.mean((1, 2)), params["last"]["norm"])
  return x @ params["classifier"]["kernel"] + params["classifier"]["bias"]


@pytest.fixture(scope="module")
def case():
  """Random parameters, images, and the gradient of a loss under every policy, with layers dropped."""
  with jax.enable_x64(True):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables_of(DOUBLE, size=12)["params"])
    images = np.random.RandomState(1).randn(6, 12, 12, 3)
    network = DOUBLE.clone(survival=0.5)

    def loss(params, policy):
      rngs = {"dropout": jax.random.key(3)}
      return jnp.sum(jnp.sin(network.clone(remat=policy).apply({"params": params}, images, True, rngs=rngs)))

    found = {policy: jax.jit(jax.value_and_grad(functools.partial(loss, policy=policy)))(params) for policy in POLICIES}
    yield params, images, jax.tree.map(np.asarray, found)


def test_evaluation_is_the_papers_function(case):
  params, images, _ = case
  with jax.enable_x64(True):
    ones = {(b, n): np.ones(6) for b in (1, 2, 3) for n in (1, 2)}
    theirs = plain(DOUBLE, params, images, ones)
    ours = DOUBLE.clone(survival=0.5).apply({"params": params}, images, False)
  assert relative(ours, theirs) < 1e-12


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_has_the_gradients_of_the_papers_function(case, policy):
  params, images, found = case
  network = DOUBLE.clone(survival=0.5)
  with jax.enable_x64(True):
    drawn = iter(depth_factors(network.bind({}, rngs={"dropout": jax.random.key(3)}), sum(network.blocks), 6, True))
    factors = {(b, n): next(drawn) for b, layers in enumerate(network.blocks, 1) for n in range(1, layers + 1)}
    assert 0 in np.asarray(factors[3, 2])  # A layer is dropped, and some are not.
    loss = lambda params: jnp.sum(jnp.sin(plain(network, params, images, factors)))
    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
  assert relative(found[policy][0], value) < 1e-12
  worst = jax.tree.map(relative, found[policy][1], gradients)
  assert max(jax.tree.leaves(worst)) < 1e-9, worst


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_initial_variables_are_those_of_init(dtype):
  network = SMALL.clone(dtype=dtype)
  ours = initial.variables(network, jax.random.key(5), (8, 8, 3))
  theirs = network.init(jax.random.key(5), jnp.zeros((1, 8, 8, 3)), False)
  jax.tree.map(np.testing.assert_array_equal, ours, dict(theirs))


def test_initial_weights_are_torchs():
  """Kaiming's normal by inputs, biases uniform within 1/sqrt(inputs), the layer scale a millionth."""
  network = RDNet((1, 1), (256, 8), 10, 256, ())
  params = initial.variables(network, jax.random.key(0), (32, 32, 3))["params"]
  layer = params["block1"]["layer1"]
  for kernel, fan_in in ((layer["expand"], 256), (layer["mix"], 49), (params["stem"]["conv"], 48)):
    assert kernel["kernel"].std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.03)
    bound = 1 / np.sqrt(fan_in)
    assert 0.95 * bound < abs(kernel["bias"]).max() <= bound
    assert kernel["bias"].std() == pytest.approx(bound / np.sqrt(3), rel=0.15)
  np.testing.assert_array_equal(layer["layer_scale"], np.float32(1e-6))
  np.testing.assert_array_equal(params["classifier"]["bias"], 0)
  np.testing.assert_array_equal(layer["norm"]["scale"], 1)


def test_the_summary_counts_every_parameter():
  config = complete_model(
    ModelConfig(family="rdnet", growth_rates=(16, 24, 8), downsample=(2,), initial_channels=24, patch_size=2)
  )
  rows = summary.layers(build.build(config, 7), (36, 20, 1))
  network = build.build(config, 7)
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 36, 20, 1)), False))
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert sum(row.parameters for row in rows) == count == size.of(config, 7, (36, 20, 1)).parameters
  assert sum(row.flops for row in rows) == size.of(config, 7, (36, 20, 1)).flops
  assert next(row for row in rows if row.path == "block1/layer1").parameters == 16


def test_an_image_too_small_and_a_policy_of_others_are_refused():
  network = SMALL.clone(remat="bottleneck")
  with pytest.raises(ValueError, match="none, dense_layer, layer_by_layer"):
    network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), False)
  with pytest.raises(ValueError, match="3x8 pixels shrink to nothing"):
    SMALL.init(jax.random.key(0), jnp.zeros((1, 3, 8, 3)), False)


def test_a_step_computes_in_bfloat16_and_answers_in_float32():
  network = SMALL.clone(dtype=jnp.bfloat16)
  variables = variables_of(network, size=8)
  logits, captured = network.apply(
    variables, jnp.ones((2, 8, 8, 3)), False, capture_intermediates=lambda module, _: isinstance(module, nn.Conv)
  )
  assert logits.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(captured)} == {jnp.dtype(jnp.bfloat16)}
