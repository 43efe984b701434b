"""The baselines, against exact counts and networks of Flax's own layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative
from variables import variables_of

from dn_jax.config.families import units_of_depth
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.models import build
from dn_jax.models.batch_stats import BatchNorm, MeasureMap
from dn_jax.models.layers import Dropout, factories
from dn_jax.models.resnet import OriginalUnit, PreactivationUnit, ResNet


class Ordinary(nn.Module):
  """The same networks, written from the papers with Flax's own batch norm."""

  kind: str
  units: int

  @nn.compact
  def __call__(self, x, train):
    norm = functools.partial(
      nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False,
      dtype=x.dtype, param_dtype=x.dtype,
    )  # fmt: skip
    conv = lambda x, channels, size, stride, name: nn.Conv(
      channels, (size, size), (stride, stride), ((size // 2, size // 2),) * 2, use_bias=False, dtype=x.dtype,
      param_dtype=x.dtype, name=name,
    )(x)  # fmt: skip
    x = conv(x, 16, 3, 1, "stem")
    if self.kind == "resnet":
      x = nn.relu(norm(name="norm")(x))
    for stage in range(3):
      for unit in range(self.units):
        stride = 2 if stage and not unit else 1
        at = f"stage{stage + 1}_unit{unit + 1}/"
        channels = 16 * 2**stage * {"resnet": 1, "preactivation": 4, "wide": 2}[self.kind]
        if self.kind == "resnet":
          y = nn.relu(norm(name=at + "branch/norm1")(conv(x, channels, 3, stride, at + "branch/conv1")))
          y = norm(name=at + "branch/norm2")(conv(y, channels, 3, 1, at + "branch/conv2"))
          x = nn.relu(y + jnp.concatenate([x[:, ::stride, ::stride], jnp.zeros(y.shape)[..., x.shape[-1] :]], axis=-1))
          continue
        first = nn.relu(norm(name=at + "norm1")(x))
        shortcut = x if x.shape[-1] == channels else conv(first, channels, 1, stride, at + "shortcut")
        if self.kind == "wide":
          y = conv(first, channels, 3, stride, at + "conv1")
          y = conv(nn.relu(norm(name=at + "norm2")(y)), channels, 3, 1, at + "conv2")
        else:
          y = conv(first, channels // 4, 1, stride, at + "conv1")
          y = conv(nn.relu(norm(name=at + "norm2")(y)), channels // 4, 3, 1, at + "conv2")
          y = conv(nn.relu(norm(name=at + "norm3")(y)), channels, 1, 1, at + "conv3")
        x = shortcut + y
    if self.kind != "resnet":
      x = nn.relu(norm(name="norm")(x))
    return nn.Dense(5, dtype=x.dtype, param_dtype=x.dtype, name="classifier")(x.mean((1, 2)))


def flat(params, prefix=""):
  """{"stage1_unit1/conv1": {"kernel": ...}}: our parameters under the names above."""
  result = {}
  for name, value in params.items():
    if isinstance(next(iter(value.values())), dict):
      result |= flat(value, f"{prefix}{name}/")
    else:
      result[prefix + name] = value
  return result


def both(kind, units):
  """Ours and one of ordinary layers: each as (parameters in its own names) -> loss; and ours' parameters."""
  ours = ResNet(kind, units, 5, 2 if kind == "wide" else 1, dtype=jnp.float64, param_dtype=jnp.float64)
  theirs = Ordinary(kind, units)
  rng = np.random.RandomState(0)
  x = jnp.asarray(rng.randn(4, 12, 8, 3))
  variables = jax.tree.map(np.float64, variables_of(ours, size=8))
  shapes = jax.eval_shape(lambda: theirs.init(jax.random.key(0), x, False))["batch_stats"]
  stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)  # Not read in training.

  def loss(network, stats):
    apply = lambda params: network.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
    return lambda params: jnp.sum(jnp.sin(apply(params)[0]))

  return loss(ours, variables["batch_stats"]), loss(theirs, stats), variables["params"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "preactivation", "wide"])
def test_networks_equal_ones_of_ordinary_layers_in_float64(kind):
  with jax.enable_x64(True):
    ours, theirs, params = both(kind, 2)
    assert relative(jax.jit(ours)(params), jax.jit(theirs)(flat(params))) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kind", "units"),
  [
    ("resnet", 1),
    *(pytest.param(kind, 2, marks=pytest.mark.thorough) for kind in ("resnet", "preactivation", "wide")),
  ],
)
def test_gradients_of_networks_are_those_of_ordinary_layers_in_float64(kind, units):
  with jax.enable_x64(True):
    ours, theirs, params = both(kind, units)
    my_grads, other_grads = jax.jit(jax.grad(ours))(params), jax.jit(jax.grad(theirs))(flat(params))
  for name, value in flat(my_grads).items():
    for part in value:
      assert relative(value[part], other_grads[name][part]) < 1e-9, (name, part)


def unit(survival, stride=1, average=True):
  conv = functools.partial(nn.Conv, padding=((1, 1), (1, 1)), use_bias=False)
  return OriginalUnit(8, stride, survival, average, conv, BatchNorm, MeasureMap)


def test_a_dropped_branch_leaves_the_shortcut_and_its_statistics_alone_and_gets_no_gradient():
  x = jnp.asarray(np.random.RandomState(0).randn(4, 6, 6, 8), jnp.float32)
  variables = jax.jit(lambda: unit(0.5).init(jax.random.key(0), x, False))()

  @jax.jit
  def apply(params, survives):
    return unit(0.5).apply(
      {"params": params, "batch_stats": variables["batch_stats"]}, x, True, survives, mutable=["batch_stats"]
    )

  out, updated = apply(variables["params"], False)
  assert np.array_equal(out, nn.relu(x))
  assert all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves({"batch_stats": variables["batch_stats"]}), strict=True)
  )
  gradients = jax.jit(jax.grad(lambda params: jnp.sum(apply(params, False)[0])))(variables["params"])
  assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients))
  kept, kept_stats = apply(variables["params"], True)
  plain, plain_stats = jax.jit(lambda: unit(1.0).apply(variables, x, True, mutable=["batch_stats"]))()
  assert relative(kept, plain) < 1e-6
  assert relative(jax.tree.leaves(kept_stats)[0], jax.tree.leaves(plain_stats)[0]) < 1e-6


def test_evaluation_scales_the_branch_by_its_survival_probability():
  x = jnp.asarray(np.random.RandomState(0).randn(4, 6, 6, 4), jnp.float32)
  variables = jax.jit(lambda: unit(0.7, 2).init(jax.random.key(0), x, False))()
  scaled = jax.jit(lambda variables: unit(0.7, 2).apply(variables, x, False))
  whole, part = jax.jit(lambda: unit(1.0, 2).apply(variables, x, False))(), scaled(variables)
  shortcut = jnp.pad(x.reshape(4, 3, 2, 3, 2, 4).mean((2, 4)), ((0, 0), (0, 0), (0, 0), (0, 4)))
  zeroed = jax.tree.map_with_path(lambda path, leaf: 0 * leaf if path[-1].key in ("scale", "bias") else leaf, variables)
  assert relative(scaled(zeroed), nn.relu(shortcut)) < 1e-6
  positive = (np.asarray(whole) > 0) & (np.asarray(part) > 0)
  ratio = (np.asarray(part) - shortcut)[positive] / np.asarray(whole - shortcut)[positive]
  big = np.abs(np.asarray(whole - shortcut)[positive]) > 0.05
  assert big.sum() > 100
  assert ratio[big] == pytest.approx(0.7, rel=1e-4)


def units_of(network, train=False):
  """(survival, averages) of each unit, as the network makes them."""
  found = []

  def watch(call, args, kwargs, context):
    if isinstance(context.module, OriginalUnit) and context.method_name == "__call__":
      found.append((context.module.survival, context.module.average_shortcut))
    return call(*args, **kwargs)

  with nn.intercept_methods(watch):
    jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train))
  return found


def test_a_networks_branches_are_scaled_by_their_own_probabilities_and_shortcuts_are_as_asked():
  # p_l = 1 - l / L (1 - p_L), the stochastic-depth paper's equation 4.
  found = units_of(ResNet("resnet", 1, 3, survival=0.4, average_shortcut=True, remat="none"))
  assert [survival for survival, _ in found] == pytest.approx([0.8, 0.6, 0.4])
  assert [average for _, average in found] == [True] * 3
  assert units_of(ResNet("resnet", 1, 3, remat="none")) == [(1.0, False)] * 3


def test_both_networks_of_the_stochastic_depth_code_average_in_their_shortcuts_and_he_et_als_does_not():
  average = lambda name: build.build(complete_model(ModelConfig(name=name)), 10).average_shortcut
  assert average("resnet-110-stochastic-depth")
  assert average("resnet-110-constant-depth")
  assert not average("resnet-110")


def test_a_wide_units_dropout_is_between_its_convolutions():
  network = ResNet("wide", 1, 3, 2, dropout_rate=0.5, remat="none")
  x = jnp.asarray(np.random.RandomState(0).randn(4, 8, 8, 3), jnp.float32)
  variables, names = variables_of(network, size=8), []

  @jax.jit
  def inputs_and_outputs():
    found = []

    def watch(call, args, kwargs, context):
      output = call(*args, **kwargs)
      if isinstance(context.module, nn.Conv | Dropout):
        names.append("dropout" if isinstance(context.module, Dropout) else context.module.name)
        found.append((args[0], output))
      return output

    with nn.intercept_methods(watch):
      network.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
    return found

  found = inputs_and_outputs()
  assert not any(name == "dropout" and np.array_equal(*pair) for name, pair in zip(names, found, strict=True))
  unit = ["conv1", "dropout", "conv2"]
  assert names == ["stem", "shortcut", *unit, "shortcut", *unit, "shortcut", *unit]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_later_residual_units_branch_is_scaled_image_by_image(bottleneck):
  conv, norm, measure, dropout = factories(ResNet("wide", 1, 3), padding=((1, 1), (1, 1)))
  unit = PreactivationUnit(8, 1, bottleneck, conv, norm, measure, dropout)
  x = jnp.asarray(np.random.RandomState(0).randn(3, 4, 4, 8), jnp.float32)
  variables = unit.init(jax.random.key(0), x, False)
  plain, scaled = unit.apply(variables, x, False), unit.apply(variables, x, False, jnp.asarray([0.0, 1.0, 3.0]))
  np.testing.assert_allclose(scaled, x + np.asarray([0, 1, 3]).reshape(3, 1, 1, 1) * (plain - x), atol=1e-5)


def test_a_later_residual_networks_last_units_are_dropped_most():
  network = ResNet("preactivation", 1, 3, survival=0.4, remat="none")
  x, factors = jnp.zeros((64, 8, 8, 3)), []

  def watch(call, args, kwargs, context):
    if isinstance(context.module, PreactivationUnit):
      factors.append(args[2])
    return call(*args, **kwargs)

  @jax.jit
  def drawn():
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables_of(network, size=8))
    with nn.intercept_methods(watch):
      network.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
    return factors

  # p_l of 1, 0.7 and 0.4; within four deviations of 64 draws.
  np.testing.assert_allclose(np.mean(np.stack(drawn()) == 0, axis=1), [0, 0.3, 0.6], atol=4 * 0.5 / 8)


@pytest.mark.slow
def test_survival_falls_linearly_with_depth():
  network = ResNet("resnet", 1, 3, survival=0.5)
  x = jnp.asarray(np.random.RandomState(0).randn(2, 8, 8, 3), jnp.float32)
  variables = variables_of(network, size=8)
  of_branch = lambda stats, n: stats[f"stage{n}_unit1"]["branch"]["output"]["var"]
  moved = lambda stats, n: jnp.any(of_branch(stats, n) != of_branch(variables["batch_stats"], n))

  @jax.jit
  def alive(key):
    _, updated = network.apply(variables, x, True, mutable=["batch_stats"], rngs={"depth": key})
    stats = updated["batch_stats"]
    return jnp.stack([moved(stats, n) for n in (1, 2, 3)])

  keys = jax.random.split(jax.random.key(0), 600)
  draws = np.stack([alive(key) for key in keys])
  # p_l = 1 - l / 3 * 0.5, each within four standard deviations of 600 draws.
  for share, expected in zip(draws.mean(0), (5 / 6, 4 / 6, 3 / 6), strict=True):
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 600)


def test_a_depth_that_does_not_fit_is_refused_with_the_two_nearest():
  assert (units_of_depth(110, "resnet"), units_of_depth(1001, "preactivation"), units_of_depth(28, "wide")) == (
    18,
    111,
    4,
  )
  with pytest.raises(ValueError, match="the nearest are 164 and 173"):
    units_of_depth(165, "preactivation")
