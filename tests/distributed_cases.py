"""Steps on many virtual devices beside a reference on one; run by test_distributed.py, prints JSON.

The reference knows nothing of layouts: each statistics group is an ordinary gradient of the network on that group
alone, and the means of groups are taken with numpy.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dn_jax import processes as processes_
from dn_jax.configuration import DistributedConfig, ModelConfig, OptimizerConfig
from dn_jax.distributed import AXIS, Layout, place_state, placed, replicate
from dn_jax.models import build
from dn_jax.models.densenet import DenseNet
from dn_jax.models.resnet import ResNet
from dn_jax.planner import compile_step
from dn_jax.targets import target
from dn_jax.training import epoch, optimizer, step
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.loop import Begun

CONFIG = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 0.1)
SGD = optimizer.sgd(CONFIG, optimizer.learning_rate(CONFIG, 1, 1))
POLICIES = ("none", "dense_layer", "bottleneck", "block", "layer_by_layer")
SHAPE = (8, 8, 3)


def pictures(count: int) -> epoch.DeviceSplit:
  rng = np.random.RandomState(0)
  return epoch.DeviceSplit(
    jnp.asarray(rng.randint(0, 256, (count, *SHAPE)), jnp.uint8), jnp.asarray(rng.randint(0, 5, count), jnp.int32)
  )


def prepare(dtype):
  """Noise of the picture's own number and the step's key, so that a wrong number or key shows."""

  def one(image, key, number):
    noise = jax.random.randint(jax.random.fold_in(key, number), image.shape, -32, 32, jnp.int32)
    return (image.astype(dtype) - 127.5 + noise.astype(dtype)) / 64

  return lambda images, key, numbers: jax.vmap(one, (0, None, 0))(images, key, numbers)


@functools.cache
def keys():
  return jax.random.split(jax.random.key(5), 2)


def train(network, layout, dtype, steps, batch, accumulation=1):
  state, totals = go_on(network, layout, dtype, range(steps), steps, batch, accumulation=accumulation)
  return jax.tree.map(np.asarray, (state.params, state.batch_stats, state.opt_state, totals))


def go_on(network, layout, dtype, numbers, steps, batch, state=None, totals=None, accumulation=1):
  """Some of a run's steps, from its start or from what is given."""
  split = pictures(steps * batch)
  fresh = step.create_state(network, SGD, jax.random.key(0), SHAPE)
  specs = step.specs_of(fresh, layout)
  train_step = step.make_train_step(network, SGD, layout, accumulation, specs.params)
  advance = epoch.make_advance(train_step, prepare(dtype), layout, *keys(), steps_per_dispatch=1, specs=specs)
  order = np.random.RandomState(1).permutation(steps * batch).astype(np.int32)
  split, order = replicate((split, order), layout.mesh)
  if state is None:
    state, totals = place_state(fresh, specs, layout.mesh), replicate(step.Totals.zero(), layout.mesh)
  for number in numbers:
    state, totals, _ = advance(state, totals, split, order, np.int32(number * batch), np.int32(1), batch_size=batch)
  return state, totals


def reference(network, groups, dtype, steps, batch):
  split = pictures(steps * batch)
  state = step.create_state(network, SGD, jax.random.key(0), SHAPE)
  order = np.random.RandomState(1).permutation(steps * batch)
  params, stats, opt_state, totals = state.params, state.batch_stats, state.opt_state, np.zeros(4)

  @jax.jit
  def of_group(params, stats, images, labels, rngs):
    def loss(params):
      variables = {"params": params, "batch_stats": stats}
      logits, updated = network.apply(variables, images, True, mutable=["batch_stats"], rngs=rngs)
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), (updated["batch_stats"], losses, logits)

    return jax.grad(loss, has_aux=True)(params)

  make = jax.jit(prepare(dtype))
  for number in range(steps):
    augmentation, dropout = (jax.random.fold_in(key, number) for key in keys())
    found = []
    for group in range(groups):
      size = batch // groups
      numbers = order[number * batch + group * size :][:size]
      images = make(split.images[numbers], augmentation, jnp.asarray(numbers, jnp.int32))
      rngs = {"dropout": dropout if groups == 1 else jax.random.fold_in(dropout, group), "depth": dropout}
      gradients, (updated, losses, logits) = of_group(params, stats, images, split.labels[numbers], rngs)
      found.append(jax.tree.map(np.asarray, (gradients, updated)))
      right = np.asarray(logits)[np.arange(size), split.labels[numbers]]
      rank = (np.asarray(logits) > right[:, None]).sum(1)
      totals += [size, float(losses.sum()), (rank >= 1).sum(), (rank >= 5).sum()]
    gradients, stats = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *found)
    updates, opt_state = SGD.update(gradients, opt_state, params)
    params = optax.apply_updates(params, updates)
  return jax.tree.map(np.asarray, (params, stats, opt_state, step.Totals(*totals)))


def distance(ours, theirs) -> float:
  pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
  return max(float(np.linalg.norm(np.subtract(a, b, dtype=float)) / (np.linalg.norm(b) or 1)) for a, b in pairs)


def densenet(policy, dtype):
  blocks, growth_rate, classes, initial = (1, 2), 4, 5, 8
  return DenseNet(blocks, growth_rate, classes, initial, dropout_rate=0.2, remat=policy, dtype=dtype, param_dtype=dtype)


def steps(groups: int) -> dict:
  found = {}
  expected = reference(densenet("none", jnp.float64), groups, jnp.float64, 10, 16)

  def case(name, policy, count, parallel="jit", accumulation=1, shard=False):
    layout = Layout(tuple(jax.devices()[:count]), groups, parallel, shard)
    ours = train(densenet(policy, jnp.float64), layout, jnp.float64, 10, 16, accumulation)
    found[f"{policy} on {count}{name}"] = distance(ours, expected)

  for policy in POLICIES:
    case("", policy, 8)
  for count in (1, 2):
    case("", "layer_by_layer", count)
  case(" by pmap", "layer_by_layer", 8, "pmap")
  case(" with its state cut", "layer_by_layer", 8, shard=True)
  if groups > 1:
    case(" in pieces of a group", "layer_by_layer", 1, accumulation=groups)
    case(" in two pieces", "dense_layer", 1, accumulation=2)
    case(" by pmap in pieces", "layer_by_layer", 2, "pmap", accumulation=groups // 2)
  return found


def resumed() -> dict:
  """Five steps on some devices, a checkpoint, five more on others."""
  found, network = {}, densenet("layer_by_layer", jnp.float64)
  for groups, before, after in ((1, 8, 1), (4, 2, 8), (4, 8, 3)):
    first, second = (Layout(tuple(jax.devices()[:count]), groups, shard=count == 8) for count in (before, after))
    state, totals = go_on(network, first, jnp.float64, range(5), 10, 48)
    with tempfile.TemporaryDirectory() as folder:
      with Checkpoints(pathlib.Path(folder) / "c", 2, print) as checkpoints:
        checkpoints.save(5, state, [], Begun(5, 1.0), totals)
      fresh = jax.eval_shape(lambda: step.create_state(network, SGD, jax.random.key(0), SHAPE))
      template = placed(fresh, step.specs_of(fresh, second), second.mesh)
      with Checkpoints(pathlib.Path(folder) / "c", 2, print) as checkpoints:
        state, _, _, totals = checkpoints.restore(template)
    state, totals = go_on(network, second, jnp.float64, range(5, 10), 10, 48, state, totals)
    ours = jax.tree.map(np.asarray, (state.params, state.batch_stats, state.opt_state, totals))
    expected = reference(densenet("none", jnp.float64), groups, jnp.float64, 10, 48)
    found[f"{groups} groups from {before} to {after}"] = distance(ours, expected)
  return found


def float32() -> dict:
  found = {}
  for groups in (1, 4, 8):
    expected = reference(densenet("none", jnp.float32), groups, jnp.float32, 1, 32)
    for policy in POLICIES:
      layout = Layout(tuple(jax.devices()), groups)
      found[f"{policy} {groups}"] = distance(
        train(densenet(policy, jnp.float32), layout, jnp.float32, 1, 32)[:2], expected[:2]
      )
  return found


def uneven() -> dict:
  found = {}
  for groups in (1, 4, 8):
    expected = reference(densenet("none", jnp.float64), groups, jnp.float64, 3, 96)
    for parallel in ("jit", "pmap"):
      layout = Layout(tuple(jax.devices()), groups, parallel)
      found[f"{groups} by {parallel}"] = distance(
        train(densenet("layer_by_layer", jnp.float64), layout, jnp.float64, 3, 96), expected
      )
  return found


def resnet() -> dict:
  found = {}
  for name, make in {
    "stochastic depth": lambda: ResNet("resnet", 1, 5, survival=0.5, dtype=jnp.float64, param_dtype=jnp.float64),
    "wide": lambda: ResNet("wide", 1, 5, 2, dropout_rate=0.3, dtype=jnp.float64, param_dtype=jnp.float64),
  }.items():
    for groups in (1, 4):
      expected = reference(make(), groups, jnp.float64, 3, 16)
      for count in (1, 8):
        layout = Layout(tuple(jax.devices())[:count], groups)
        found[f"{name} {groups} on {count}"] = distance(train(make(), layout, jnp.float64, 3, 16), expected)
  return found


def collectives(name: str) -> dict:
  found, where = {}, target(name)
  for policy in ("none", "dense_layer", "layer_by_layer"):
    network = build.build(build.complete(ModelConfig(depth=16, growth_rate=4, remat=policy)), 10)
    for groups in (1, len(where.devices)):
      found[f"{policy} {groups}"] = compile_step(network, (32, 32, 3), 128, where, groups).collectives
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
  for name in ("params", "batch_stats"):
    found[name] = sum(leaf.size for leaf in jax.tree.leaves(variables[name]))
  return found


def processes(port: int, count: int, number: int) -> dict:
  """One of several processes; the first says how far all are from the reference."""
  processes_.join(DistributedConfig(f"localhost:{port}", count, number, heartbeat=10))
  found = {}
  for groups, parallel in ((1, "jit"), (count, "jit"), (1, "pmap")):
    layout = Layout(tuple(jax.devices()), groups, parallel)
    ours = train(densenet("layer_by_layer", jnp.float64), layout, jnp.float64, 10, 16)
    if number == 0:
      expected = reference(densenet("none", jnp.float64), groups, jnp.float64, 10, 16)
      found[f"{groups} groups on {len(layout.devices)} devices by {parallel}"] = distance(ours, expected)
  return found


def connected(port: int, count: int, number: int, groups: int) -> dict:
  """One of several processes that connect, and then exchange in all ways that a step may; Gloo says on standard output
  which connections it makes."""
  processes_.join(DistributedConfig(f"localhost:{port}", count, number, heartbeat=10))
  processes_.agree({})
  layout = Layout(tuple(jax.devices()), groups)
  layout.connect()
  print("connected", flush=True)
  x = replicate(np.ones(8 * len(layout.devices)), layout.mesh)

  def exchange(x):
    x = layout.cut.sum(x) + layout.cut.gather(x)[0]
    kept = jax.lax.psum_scatter(x, AXIS, tiled=True)
    return jax.lax.psum(x, AXIS) + jax.lax.all_gather(kept, AXIS, tiled=True)

  for parallel in ("jit", "pmap"):
    jax.block_until_ready(dataclasses.replace(layout, parallel=parallel).everywhere(exchange)(x))
  return {}


if __name__ == "__main__":
  case, *arguments = sys.argv[1:]
  jax.config.update("jax_enable_x64", case not in ("collectives", "float32"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  print(json.dumps(globals()[case](*(int(each) if each.isdigit() else each for each in arguments))))
