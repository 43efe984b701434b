"""The architecture, against the paper's figures and independent formulas."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative
from variables import variables_of

from dn_jax.models import remat
from dn_jax.models.batch_stats import BatchNorm, FeatureMap, MeasureMap
from dn_jax.models.densenet import DenseLayer, DenseNet, Transition, blocks_of_depth
from dn_jax.models.layers import Dropout, convolve

SMALL = {"blocks": (2, 2), "growth_rate": 4, "num_classes": 10, "initial_channels": 8}


def test_a_depth_that_does_not_fit_is_refused_with_the_two_nearest():
  assert blocks_of_depth(40, False) == (12, 12, 12)
  assert blocks_of_depth(100, True) == (16, 16, 16)
  with pytest.raises(ValueError, match="the nearest are 40 and 43"):
    blocks_of_depth(41, False)
  with pytest.raises(ValueError, match="the nearest are 94 and 100"):
    blocks_of_depth(99, True)
  with pytest.raises(ValueError, match="the nearest are 7 and 10"):
    blocks_of_depth(4, False)


@pytest.mark.parametrize(("compression", "kept"), [(0.5, 5), (0.3, 3), (0.99, 10), (1.0, 11)])
def test_a_transition_keeps_the_floor_of_its_share(compression, kept):
  # Section 3, "Compression": floor(theta * m); of 8 channels and one layer's 3.
  network = DenseNet((1, 1), 3, 10, 8, compression=compression)
  shapes = jax.eval_shape(lambda key: network.init(key, jnp.zeros((1, 8, 8, 3)), False), jax.random.key(0))["params"]
  assert shapes["transition1"]["conv"]["kernel"].shape == (1, 1, 11, kept)
  assert shapes["block2"]["layer1"]["norm1"]["scale"].shape == (kept,)


@functools.cache
def loss_and_gradients(policy, dropout, bottleneck_width=4):
  """A loss, statistics after it and gradients, in float64."""
  wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
  with jax.enable_x64(True):
    network = DenseNet((1, 2), 4, 10, 8, bottleneck_width, remat=policy, dropout_rate=dropout, **wide)
    network = network.clone(survival=0.5 if dropout else 1.0)
    x = jnp.asarray(np.random.RandomState(0).randn(4, 8, 8, 3))
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables_of(network, size=8))

    def loss(params):
      logits, updated = network.apply(
        {"params": params, "batch_stats": variables["batch_stats"]},
        x,
        True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(7)},
      )
      return jnp.sum(jnp.sin(logits)), updated

    return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]))


@pytest.mark.slow
@pytest.mark.parametrize("policy", [policy for policy in remat.POLICIES if policy != "none"])
# Without dropout the records of PyTorch say the same of the policies.
@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.thorough), 0.2])
def test_every_remat_policy_is_the_same_function(policy, dropout):
  (plain, plain_stats), plain_grads = loss_and_gradients("none", dropout)
  (loss, stats), grads = loss_and_gradients(policy, dropout)
  assert relative(loss, plain) < 1e-12
  for a, b in zip(jax.tree.leaves((stats, grads)), jax.tree.leaves((plain_stats, plain_grads)), strict=True):
    assert relative(a, b) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(
  ("platform", "policy", "width"),
  [("cuda", "bottleneck", 4), ("cuda", "layer_by_layer", 4), ("cuda", "layer_by_layer", 0), ("tpu", "bottleneck", 4)],
)
def test_what_other_devices_run_instead_of_a_cpus_programs_is_the_same_function(platform, policy, width, monkeypatch):
  # Outside of a CPU: one reduction for statistics on a GPU, 1x1 convolutions on a TPU, maps that are read one by one.
  other = lambda *arguments, default, **of: of.get(platform, default)(*arguments)
  (plain, plain_stats), plain_grads = loss_and_gradients("none", 0.2, width)
  monkeypatch.setattr(jax.lax, "platform_dependent", other)
  (loss, stats), grads = loss_and_gradients.__wrapped__(policy, 0.2, width)
  assert relative(loss, plain) < 1e-12
  for a, b in zip(jax.tree.leaves((stats, grads)), jax.tree.leaves((plain_stats, plain_grads)), strict=True):
    assert relative(a, b) < 1e-10


def test_stochastic_depth_drops_the_maps_of_dense_layers():
  network = DenseNet(**SMALL, survival=0.5, remat="none")
  variables, x = variables_of(network, size=8), jnp.asarray(np.random.RandomState(0).randn(64, 8, 8, 3), jnp.float32)
  found = []

  def watch(call, args, kwargs, context):
    output = call(*args, **kwargs)
    if isinstance(context.module, DenseLayer) and context.method_name == "__call__":
      found.append((args[2], output.values))
    return output

  @jax.jit
  def maps():
    found.clear()
    with nn.intercept_methods(watch):
      network.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
    return found

  dropped = []
  for factor, values in maps():
    np.testing.assert_array_equal(np.any(values != 0, axis=(1, 2, 3)), np.asarray(factor) > 0)
    dropped.append(np.mean(np.asarray(factor) == 0))
  # Chances of 0, 1/6, 2/6 and 3/6; within four deviations of 64 draws.
  assert len(dropped) == 4
  assert dropped[0] == 0
  np.testing.assert_allclose(dropped, np.arange(4) / 6, atol=4 * 0.5 / 8)


@functools.cache
def compiled(layers, policy):
  """The gradients of a network of one block."""
  network, x = DenseNet((layers,), 8, 10, 16, remat=policy), jnp.zeros((16, 16, 16, 3))
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), x, False))

  def loss(params, batch_stats):
    logits, _ = network.apply({"params": params, "batch_stats": batch_stats}, x, True, mutable=["batch_stats"])
    return jnp.sum(logits)

  return jax.jit(jax.grad(loss)).lower(variables["params"], variables["batch_stats"]).compile()


def temporaries(layers, policy):
  return compiled(layers, policy).memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_rematerialised_layers_need_much_less_memory():
  size = {policy: temporaries(6, policy) for policy in ("none", "bottleneck", "dense_layer")}
  assert size["dense_layer"] < 0.5 * size["none"]
  assert size["dense_layer"] < size["bottleneck"] < size["none"]


@pytest.mark.slow
def test_memory_of_layer_by_layer_grows_no_faster_than_depth():
  assert temporaries(6, "layer_by_layer") < 2 * temporaries(3, "layer_by_layer")


def convolutions(policy):
  network = DenseNet(**SMALL, remat=policy)
  x = jnp.zeros((2, 8, 8, 3))
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), x, False))
  loss = lambda params, stats: jnp.sum(network.apply({"params": params, "batch_stats": stats}, x, True))
  return jax.jit(jax.grad(loss)).lower(variables["params"], variables["batch_stats"]).as_text().count("convolution(")


@pytest.mark.slow
def test_a_rematerialised_layer_does_not_run_its_last_convolution_again():
  # The stem's forward and weight gradient (nobody asks for that of the images), and three for each of four layers.
  assert convolutions("dense_layer") == convolutions("none") == 2 + 3 * sum(SMALL["blocks"])


@pytest.mark.slow
def test_where_bottlenecks_are_kept_no_convolution_is_computed_twice():
  flops = {policy: compiled(6, policy).cost_analysis()["flops"] for policy in ("none", "bottleneck", "layer_by_layer")}
  assert flops["bottleneck"] < 1.03 * flops["none"]
  assert flops["layer_by_layer"] > 1.06 * flops["none"]


@functools.cache
def loss_along(policy):
  """A loss as a function of images, some images, and a direction in which they change; in float64."""
  network = DenseNet((1,), 4, 10, 8, remat=policy, dtype=jnp.float64, param_dtype=jnp.float64)
  variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables_of(network, size=8))
  x, direction = np.random.RandomState(0).randn(2, 4, 8, 8, 3)
  return lambda x: jnp.sum(network.apply(variables, x, True) ** 2), jnp.asarray(x), jnp.asarray(direction)


@functools.cache
def slope_in_reverse():
  loss, x, direction = loss_along("none")
  return np.vdot(jax.jit(jax.grad(loss))(x), direction)


@pytest.mark.parametrize("policy", remat.POLICIES)
def test_forward_mode_is_for_the_policies_without_gradients_written_by_hand(policy):
  with jax.enable_x64(True):
    loss, x, direction = loss_along(policy)
    if policy in remat.BY_HAND:
      with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (x,), (direction,))
      return
    _, along = jax.jit(lambda: jax.jvp(loss, (x,), (direction,)))()
    assert relative(along, slope_in_reverse()) < 1e-9


def test_bottleneck_policy_is_refused_where_there_is_no_bottleneck():
  network = DenseNet(**SMALL, bottleneck_width=0, remat="bottleneck")
  with pytest.raises(ValueError, match="no bottleneck to keep"):
    network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), False)


@pytest.mark.slow
def test_initialisation_is_the_published_one():
  network = DenseNet((1, 1), 32, 1000, 64)
  params = jax.jit(lambda: network.init(jax.random.key(3), jnp.zeros((1, 8, 8, 3)), False))()["params"]
  for path, leaf in jax.tree.leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if "conv" in name:
      height, width, _, out = leaf.shape
      std = math.sqrt(2 / (height * width * out))
      assert abs(float(leaf.std()) / std - 1) < 5 / math.sqrt(leaf.size), name
      assert float(jnp.abs(leaf).max()) > 2.5 * std, name  # Normal, not truncated at two standard deviations.
    elif "scale" in name:
      assert np.all(leaf == 1)
    elif "bias" in name:
      assert np.all(leaf == 0)
  kernel = params["classifier"]["kernel"]
  bound = 1 / math.sqrt(kernel.shape[0])
  assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
  assert abs(float(kernel.std()) / (bound / math.sqrt(3)) - 1) < 0.02


def test_the_other_initialisations_are_those_of_caffe():
  network = DenseNet((1,), 32, 1000, 64, convolution_init="fan_in", classifier_init="xavier")
  params = jax.jit(lambda: network.init(jax.random.key(3), jnp.zeros((1, 8, 8, 3)), False))()["params"]
  for path, leaf in jax.tree.leaves_with_path(params):
    if "conv" in jax.tree_util.keystr(path):
      # "msra": by inputs.
      std = math.sqrt(2 / math.prod(leaf.shape[:3]))
      assert abs(float(leaf.std()) / std - 1) < 5 / math.sqrt(leaf.size), path
  kernel = params["classifier"]["kernel"]
  # "xavier": uniform, variance 1 / inputs.
  bound = math.sqrt(3 / kernel.shape[0])
  assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
  assert abs(float(kernel.std()) * math.sqrt(kernel.shape[0]) - 1) < 0.02


def dropped(network, train):
  """(layer, channels) of every dropout that zeroed anything, asserting that it zeroed a fifth."""
  x = jnp.asarray(np.random.RandomState(0).randn(8, 16, 16, 3), jnp.float32)
  variables, places = variables_of(network, size=16), []

  @jax.jit
  def inputs_and_outputs():
    found = []

    def watch(call, args, kwargs, context):
      output = call(*args, **kwargs)
      if isinstance(context.module, Dropout):
        places.append(("/".join(context.module.path[:-1]), output.shape[-1]))
        found.append((args[0], output))
      return output

    with nn.intercept_methods(watch):
      network.apply(variables, x, train, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    return found

  found, that_drop = inputs_and_outputs(), []
  for place, (before, output) in zip(places, found, strict=True):
    if not np.array_equal(output, before):
      assert abs(float(np.mean(output == 0)) - 0.2) < 0.02
      assert np.allclose(np.where(output == 0, 0, output), np.where(output == 0, 0, before / 0.8))
      that_drop.append(place)
  return that_drop


@pytest.mark.slow
def test_dropout_comes_after_every_convolution_but_the_first():
  layers = ["block1/layer1", "block1/layer2", "block2/layer1", "block2/layer2"]
  bottlenecks = [(layer, channels) for layer in layers for channels in (16, 4)]
  assert dropped(DenseNet(**SMALL, remat="none", dropout_rate=0.2), True) == [
    *bottlenecks[:4],
    ("transition1", 8),
    *bottlenecks[4:],
  ]
  plain = DenseNet(**SMALL, remat="none", bottleneck_width=0, dropout_rate=0.2)
  assert dropped(plain, True) == [(layers[0], 4), (layers[1], 4), ("transition1", 8), (layers[2], 4), (layers[3], 4)]
  assert dropped(DenseNet(**SMALL, remat="none", dropout_rate=0.2), False) == []
  assert dropped(DenseNet(**SMALL, remat="none"), True) == []


def test_pooling_before_a_transitions_convolution_changes_nothing():
  """At a dropout rate too small to drop anything, the published order runs; without, the cheap one."""
  conv = functools.partial(nn.Conv, use_bias=False, conv_general_dilated=convolve)
  make = lambda rate: Transition(6, conv, BatchNorm, MeasureMap, functools.partial(Dropout, rate))
  values = jnp.asarray(np.random.RandomState(0).randn(2, 7, 6, 8), jnp.float32)
  features = (FeatureMap(values, values.mean((0, 1, 2)), values.var((0, 1, 2))),)
  variables = jax.jit(lambda: make(0.0).init(jax.random.key(0), features, False))()

  @functools.partial(jax.jit, static_argnums=0)
  def run(rate):
    out, _ = make(rate).apply(variables, features, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
    return out.values

  assert run(0.0).shape == (2, 3, 3, 6)
  assert relative(run(1e-9), run(0.0)) < 1e-6


@pytest.mark.slow
def test_bfloat16_activations_leave_parameters_and_statistics_in_float32():
  x = jnp.asarray(np.random.RandomState(0).randn(8, 16, 16, 3), jnp.float32)
  full, half = DenseNet(**SMALL), DenseNet(**SMALL, dtype=jnp.bfloat16)
  variables = jax.jit(lambda: half.init(jax.random.key(0), x, False))()
  apply = lambda network: jax.jit(lambda: network.apply(variables, x, True, mutable=["batch_stats"]))()
  logits, updated = apply(half)
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated, logits))} == {jnp.dtype("float32")}
  expected, _ = apply(full)
  assert 1e-4 < relative(logits, expected) < 0.1  # bfloat16 keeps eight bits: close, but not the same.


@pytest.mark.parametrize(("images", "wide"), [(64, True), (3 * 2**8 + 1, False)])
def test_a_bfloat16_blocks_gradient_is_added_up_in_float32_where_a_tpu_has_room_for_it(images, wide):
  network = DenseNet(**SMALL, dtype=jnp.bfloat16, remat="bottleneck")
  x = jax.ShapeDtypeStruct((images, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))

  def gradient(variables, x):
    logits = lambda params: network.apply(variables | {"params": params}, x, True, mutable=["batch_stats"])[0].sum()
    return jax.grad(logits)(variables["params"])

  text = jax.jit(gradient).lower(variables, x).as_text()
  # The first block's, of 8 + 4 + 4 channels: written so by a barrier, and still so a layer later, beside the gradients
  # of its maps' statistics.
  written = re.search(rf"optimization_barrier %\w+ : tensor<{images}x32x32x16xf32>", text)
  (rest,) = set(re.findall(rf"tensor<{images}x32x32x12x(\w+)>, tensor<12xf32>, tensor<12xf32>", text))
  assert (bool(written), rest) == ((True, "f32") if wide else (False, "bf16"))


@pytest.mark.parametrize(("stem", "size"), [("cifar", 3), ("imagenet", 28)])
def test_images_that_shrink_to_nothing_are_refused(stem, size):
  # 7x7 of stride 2 and a max pool of stride 2 leave a quarter, rounded up; then each pool a half, rounded down.
  network = DenseNet((1, 1, 1) if stem == "cifar" else (1, 1, 1, 1), 4, 10, 8, stem=stem)
  init = lambda size: jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, 2 * size, 3)), False))
  with pytest.raises(ValueError, match=f"images of {size}x{2 * size} pixels shrink to nothing"):
    init(size)
  init({"cifar": 4, "imagenet": 29}[stem])


@pytest.mark.parametrize("shape", [(32, 32, 3), (40, 24, 3), (8, 8, 1)])
def test_any_image_size_is_pooled(shape):
  network = DenseNet(**SMALL)
  init = lambda: network.init(jax.random.key(0), jnp.zeros((1, *shape)), False)
  logits = jax.eval_shape(lambda: network.apply(init(), jnp.zeros((2, *shape)), False))
  assert logits.shape == (2, 10)
