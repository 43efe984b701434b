"""The baselines, against exact counts and networks of Flax's own layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative

from dn_jax.configuration import ModelConfig
from dn_jax.models import build
from dn_jax.models.batch_stats import BatchNorm, MeasureMap
from dn_jax.models.dropout import Dropout
from dn_jax.models.resnet import OriginalUnit, ResNet, units_of_depth


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "preactivation", "wide"])
def test_networks_equal_ones_of_ordinary_layers_in_float64(kind):
  with jax.enable_x64(True):
    ours = ResNet(kind, 2, 5, 2 if kind == "wide" else 1, dtype=jnp.float64, param_dtype=jnp.float64)
    theirs = Ordinary(kind, 2)
    rng = np.random.RandomState(0)
    x = jnp.asarray(rng.randn(4, 12, 8, 3))
    variables = jax.jit(lambda: ours.init(jax.random.key(0), x, False))()
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.randn(*leaf.shape), variables["params"])
    stats = jax.jit(lambda: theirs.init(jax.random.key(0), x, False))()["batch_stats"]

    def loss(network, params, stats):
      logits, _ = network.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
      return jnp.sum(jnp.sin(logits))

    mine, my_grads = jax.jit(jax.value_and_grad(lambda p: loss(ours, p, variables["batch_stats"])))(params)
    other, other_grads = jax.jit(jax.value_and_grad(lambda p: loss(theirs, p, stats)))(flat(params))
  assert relative(mine, other) < 1e-10
  for name, value in flat(my_grads).items():
    for part in value:
      assert relative(value[part], other_grads[name][part]) < 1e-9, (name, part)


def unit(survival, stride=1, average=True):
  conv = functools.partial(nn.Conv, padding=((1, 1), (1, 1)), use_bias=False)
  return OriginalUnit(8, stride, survival, average, conv, BatchNorm, MeasureMap)


def test_a_dropped_branch_leaves_the_shortcut_and_its_statistics_alone_and_gets_no_gradient():
  x = jnp.asarray(np.random.RandomState(0).randn(4, 6, 6, 8), jnp.float32)
  variables = unit(0.5).init(jax.random.key(0), x, False)
  apply = lambda params, survives: unit(0.5).apply(
    {"params": params, "batch_stats": variables["batch_stats"]}, x, True, jnp.asarray(survives), mutable=["batch_stats"]
  )
  out, updated = apply(variables["params"], False)
  assert np.array_equal(out, nn.relu(x))
  assert all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves({"batch_stats": variables["batch_stats"]}), strict=True)
  )
  gradients = jax.grad(lambda params: jnp.sum(apply(params, False)[0]))(variables["params"])
  assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients))
  kept, kept_stats = apply(variables["params"], True)
  plain, plain_stats = unit(1.0).apply(variables, x, True, mutable=["batch_stats"])
  assert relative(kept, plain) < 1e-6
  assert relative(jax.tree.leaves(kept_stats)[0], jax.tree.leaves(plain_stats)[0]) < 1e-6


def test_evaluation_scales_the_branch_by_its_survival_probability():
  x = jnp.asarray(np.random.RandomState(0).randn(4, 6, 6, 4), jnp.float32)
  variables = unit(0.7, 2).init(jax.random.key(0), x, False)
  branch = lambda module, x: module.apply(variables, x, False)
  whole, part = branch(unit(1.0, 2), x), branch(unit(0.7, 2), x)
  shortcut = jnp.pad(x.reshape(4, 3, 2, 3, 2, 4).mean((2, 4)), ((0, 0), (0, 0), (0, 0), (0, 4)))
  zeroed = jax.tree.map_with_path(lambda path, leaf: 0 * leaf if path[-1].key in ("scale", "bias") else leaf, variables)
  assert relative(unit(0.7, 2).apply(zeroed, x, False), nn.relu(shortcut)) < 1e-6
  positive = (np.asarray(whole) > 0) & (np.asarray(part) > 0)
  scaled = (np.asarray(part) - shortcut)[positive] / np.asarray(whole - shortcut)[positive]
  big = np.abs(np.asarray(whole - shortcut)[positive]) > 0.05
  assert big.sum() > 100
  assert scaled[big] == pytest.approx(0.7, rel=1e-4)


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
  average = lambda name: build.build(build.complete(ModelConfig(name=name)), 10).average_shortcut
  assert average("resnet-110-stochastic-depth")
  assert average("resnet-110-constant-depth")
  assert not average("resnet-110")


def test_a_wide_units_dropout_is_between_its_convolutions():
  network = ResNet("wide", 1, 3, 2, dropout_rate=0.5, remat="none")
  x = jnp.asarray(np.random.RandomState(0).randn(4, 8, 8, 3), jnp.float32)
  variables = network.init(jax.random.key(0), x, False)
  order = []

  def watch(call, args, kwargs, context):
    output = call(*args, **kwargs)
    if isinstance(context.module, nn.Conv | Dropout):
      dropped = isinstance(context.module, Dropout) and not np.array_equal(output, args[0])
      order.append("dropout" if dropped else context.module.name)
    return output

  with nn.intercept_methods(watch):
    network.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
  unit = ["conv1", "dropout", "conv2"]
  assert order == ["stem", "shortcut", *unit, "shortcut", *unit, "shortcut", *unit]


@pytest.mark.slow
def test_survival_falls_linearly_with_depth():
  network = ResNet("resnet", 1, 3, survival=0.5)
  x = jnp.asarray(np.random.RandomState(0).randn(2, 8, 8, 3), jnp.float32)
  variables = network.init(jax.random.key(0), x, False)

  @jax.jit
  def alive(key):
    _, updated = network.apply(variables, x, True, mutable=["batch_stats"], rngs={"depth": key})
    stats = updated["batch_stats"]
    return jnp.stack([jnp.any(stats[f"stage{n}_unit1"]["branch"]["output"]["var"] != 1) for n in (1, 2, 3)])

  draws = np.stack([alive(jax.random.key(n)) for n in range(600)])
  # p_l = 1 - l / 3 * 0.5, each within four deviations of 600 draws.
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
