"""Steps on many virtual devices beside a reference on one; for several_devices.py, and as a process of several.

The reference knows nothing of layouts: each statistics group is an ordinary gradient of the network on that group
alone, and the means of groups are taken with numpy.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from dn_jax.config.network import complete_model
from dn_jax.config.schema import DistributedConfig, ModelConfig, OptimizerConfig
from dn_jax.data import mixing
from dn_jax.distributed import processes as processes_
from dn_jax.distributed.layout import AXIS, Layout, place_state, placed, replicate
from dn_jax.models import batch_stats, build
from dn_jax.models.densenet import DenseNet
from dn_jax.models.rdnet import RDNet
from dn_jax.models.resnet import ResNet
from dn_jax.planner.plan import Question, compile_step
from dn_jax.planner.targets import target
from dn_jax.system import kept_programs
from dn_jax.training import optimizer, resident, step, streamed
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.loop import Begun

CONFIG = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 0.1)
SGD = optimizer.make(CONFIG, optimizer.learning_rate(CONFIG, 1, 1))
POLICIES = ("none", "dense_layer", "bottleneck", "block", "layer_by_layer")
SHAPE = (8, 8, 3)
# Of ten steps: divided by 8 and 6 devices and by 1, 4 and 8 groups.
STEPS, BATCH = 10, 48
NETWORKS = {
  "densenet": functools.partial(DenseNet, (1, 1), 4, 5, 8, dropout_rate=0.2, survival=0.5),
  "rdnet": functools.partial(RDNet, (1, 2), (4, 8), 5, 24, (1,), patch_size=2, survival=0.4),
  "stochastic depth": functools.partial(ResNet, "resnet", 1, 5, survival=0.5),
  "wide": functools.partial(ResNet, "wide", 1, 5, 2, dropout_rate=0.3, survival=0.5),
}


def made(name: str, dtype: str, **options):
  return NETWORKS[name](dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), **options)


def float64(case):
  """A case whose numbers are float64 everywhere."""

  @functools.wraps(case)
  def wide(*arguments):
    with jax.enable_x64(True):
      return case(*arguments)

  return wide


def pictures(count: int) -> resident.DeviceSplit:
  rng = np.random.RandomState(0)
  return resident.DeviceSplit(
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


def train(name, network, layout, steps, batch, accumulation=1, **options):
  state, totals = go_on(name, network, layout, range(steps), steps, batch, accumulation=accumulation, **options)
  return jax.tree.map(np.asarray, (state.params, state.batch_stats, state.opt_state, totals))


@functools.cache
def begun(name, dtype):
  """The state that all of a network's runs start from; of numpy, since a step takes its arrays' memory."""
  state = jax.jit(lambda key: step.create_state(made(name, dtype), SGD, key, SHAPE))(jax.random.key(0))
  return jax.tree.map(np.asarray, state)


def go_on(
  name, network, layout, numbers, steps, batch, state=None, totals=None, accumulation=1, weights=None, alphas=None
):
  """Some of a run's steps, from its start or from what is given; `alphas` are those of mixup and CutMix."""
  split, fresh = pictures(steps * batch), begun(name, str(jnp.dtype(network.dtype)))
  specs = step.specs_of(fresh, layout)
  objective = step.Objective(class_weights=weights)
  train_step = step.make_train_step(network, SGD, layout, accumulation, specs.params, objective)
  make = prepare(network.dtype)
  if alphas:
    make = step.PrepareAndMix(make, step.make_mix(layout, *alphas))
  advance = resident.make_advance(train_step, make, layout, *keys(), steps_per_dispatch=1, specs=specs)
  order = np.random.RandomState(1).permutation(steps * batch).astype(np.int32)
  split, order = replicate((split, order), layout.mesh)
  if state is None:
    state, totals = place_state(fresh, specs, layout.mesh), replicate(step.Totals.zero(), layout.mesh)
  for number in numbers:
    state, totals, _ = advance(state, totals, split, order, np.int32(number * batch), np.int32(1), batch_size=batch)
  return state, totals


def mixed_by_hand(images, key, alphas):
  """A batch mixed with itself backwards, and an image's own share of the loss."""
  drawn = mixing.draw(jax.random.fold_in(key, 2**31), SHAPE[:2], *alphas)
  share, result = float(drawn.share), images.copy()
  if not drawn.cut:
    return share * images + (1 - share) * images[::-1], share
  kept = np.ones(SHAPE[:2])
  (top, left), sides = drawn.centre.tolist(), [int(length * np.sqrt(1 - drawn.share)) for length in SHAPE[:2]]
  for row in range(top - sides[0] // 2, top - sides[0] // 2 + sides[0]):
    for column in range(left - sides[1] // 2, left - sides[1] // 2 + sides[1]):
      if 0 <= row < SHAPE[0] and 0 <= column < SHAPE[1]:
        kept[row, column] = 0
        result[:, row, column] = images[::-1][:, row, column]
  return result, kept.mean()


@functools.cache
def reference(name, dtype, groups, steps, batch, weights=(1.0,) * 5, alphas=None):
  network, split, state = made(name, dtype), pictures(steps * batch), begun(name, dtype)
  order = np.random.RandomState(1).permutation(steps * batch)
  params, stats, opt_state, totals = state.params, state.batch_stats, state.opt_state, np.zeros(4)

  @jax.jit
  def of_group(params, stats, images, labels, partners, share, rngs):
    def loss(params):
      variables = {"params": params, "batch_stats": stats}
      logits, updated = network.apply(variables, images, True, mutable=["batch_stats"], rngs=rngs)
      own, other = (optax.softmax_cross_entropy_with_integer_labels(logits, each) for each in (labels, partners))
      weighed = share * own * jnp.asarray(weights)[labels] + (1 - share) * other * jnp.asarray(weights)[partners]
      return weighed.mean(), (updated.get("batch_stats", {}), share * own + (1 - share) * other, logits)

    return jax.grad(loss, has_aux=True)(params)

  make = jax.jit(prepare(network.dtype))
  for number in range(steps):
    augmentation, dropout = (jax.random.fold_in(key, number) for key in keys())
    found, own = [], order[number * batch :][:batch]
    all_images, share = make(split.images[own], augmentation, jnp.asarray(own, jnp.int32)), 1.0
    if alphas:
      all_images, share = mixed_by_hand(np.asarray(all_images), augmentation, alphas)
    for group in range(groups):
      size = batch // groups
      numbers, partners = (each[group * size :][:size] for each in (own, own[::-1]))
      images = jnp.asarray(all_images[group * size :][:size])
      rngs = {"dropout": dropout if groups == 1 else jax.random.fold_in(dropout, group), "depth": dropout}
      gradients, (updated, losses, logits) = of_group(
        params, stats, images, split.labels[numbers], split.labels[partners], share, rngs
      )
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


@float64
def steps(policy: str, groups: int, count: int, parallel="jit", accumulation=1, shard=False) -> float:
  layout = Layout(tuple(jax.devices()[:count]), groups, parallel, shard)
  ours = train("densenet", made("densenet", "float64", remat=policy), layout, STEPS, BATCH, accumulation)
  return distance(ours, reference("densenet", "float64", groups, STEPS, BATCH))


@float64
def weighted(groups: int, count: int, parallel="jit", accumulation=1) -> float:
  """As `steps`, where the classes have weights, which logged sums have not."""
  layout, weights = Layout(tuple(jax.devices()[:count]), groups, parallel), (0.25, 0.5, 1.0, 1.5, 3.0)
  network = made("densenet", "float64", remat="none")
  ours = train("densenet", network, layout, 2, BATCH, accumulation, weights=weights)
  return distance(ours, reference("densenet", "float64", groups, 2, BATCH, weights))


@float64
def mixed(groups: int, count: int, parallel="jit", accumulation=1, shard=False) -> float:
  """As `steps`, with weighted classes, mixup and CutMix; the steps take both."""
  layout, weights, alphas = (
    Layout(tuple(jax.devices()[:count]), groups, parallel, shard),
    (0.5, 1.0, 1.0, 1.5, 2.0),
    (1, 1),
  )
  numbered = (jax.random.fold_in(jax.random.fold_in(keys()[0], number), 2**31) for number in range(6))
  assert {bool(mixing.draw(key, SHAPE[:2], *alphas).cut) for key in numbered} == {False, True}
  network = made("densenet", "float64", remat="none")
  ours = train("densenet", network, layout, 6, BATCH, accumulation, weights=weights, alphas=alphas)
  return distance(ours, reference("densenet", "float64", groups, 6, BATCH, weights, alphas))


def moments(values, devices: int, platform: str):
  """Mean and variance of each channel of values that devices hold together, computed as on a platform."""
  layout = Layout(tuple(jax.devices()[:devices]))
  of_part = lambda part, shift: batch_stats.batch_moments(part, shift, jnp.float32, layout.cut)
  program = jax.jit(layout.mapped(of_part, (PartitionSpec(AXIS), PartitionSpec())))
  values = np.asarray(values, np.float32)
  there = lambda *operands, default, **of: of.get(platform, default)(*operands)
  with mock.patch.object(jax.lax, "platform_dependent", there):
    found = program(values, jnp.zeros(values.shape[-1], jnp.float32))
  return [each.tolist() for each in found]


def confused() -> list:
  """A confusion matrix over all devices, of images on them and of a stream, and by counting; batches are padded."""
  rng, layout = np.random.RandomState(0), Layout(tuple(jax.devices()))
  labels, found = rng.randint(0, 5, 21).astype(np.int32), rng.randint(0, 5, 21).astype(np.uint8)
  say = lambda images: jax.nn.one_hot(images[:, 0, 0, 0], 5)
  resident_step = lambda params, stats, batch: step.evaluated_of(say(batch.images), batch, True)
  split = replicate(resident.DeviceSplit(found.reshape(21, 1, 1, 1), labels), layout.mesh)
  stats = replicate(np.float32(0), layout.mesh)
  here = resident.make_evaluate(resident_step, lambda images: images, layout, 10, 5)({}, stats, split, lambda: None)
  rows = {"image": found.reshape(21, 1, 1, 1, 1), "label": labels, "weight": np.ones(21, np.float32)}
  padded = {name: np.pad(values, [(0, 11)] + [(0, 0)] * (values.ndim - 1)) for name, values in rows.items()}
  own = np.array(streamed.own_rows(layout, 16))
  batches = lambda: ({name: values[n + own] for name, values in padded.items()} for n in (0, 16))
  evaluate = streamed.make_evaluate(lambda params, stats, images: say(images), lambda images: images, layout, 5)
  there = evaluate({}, stats, streamed.Batches(batches, blank=None), lambda: None)
  expected = [[int(((labels == row) & (found == column)).sum()) for column in range(5)] for row in range(5)]
  return [here.confusion.tolist(), there.confusion.tolist(), expected]


@float64
def resumed(groups: int, before: int, after: int) -> float:
  """Five steps on some devices, a checkpoint, five more on others."""
  network = made("densenet", "float64", remat="layer_by_layer")
  first, second = (
    Layout(tuple(jax.devices()[:count]), groups, shard=count == len(jax.devices())) for count in (before, after)
  )
  state, totals = go_on("densenet", network, first, range(5), STEPS, BATCH)
  with tempfile.TemporaryDirectory() as folder:
    with Checkpoints(pathlib.Path(folder) / "c", 2, print) as checkpoints:
      checkpoints.save(5, state, [], Begun(5, 1.0), totals)
    fresh = jax.eval_shape(lambda: step.create_state(network, SGD, jax.random.key(0), SHAPE))
    template = placed(fresh, step.specs_of(fresh, second), second.mesh)
    with Checkpoints(pathlib.Path(folder) / "c", 2, print) as checkpoints:
      state, _, _, totals = checkpoints.restore(template)
  state, totals = go_on("densenet", network, second, range(5, STEPS), STEPS, BATCH, state, totals)
  ours = jax.tree.map(np.asarray, (state.params, state.batch_stats, state.opt_state, totals))
  return distance(ours, reference("densenet", "float64", groups, STEPS, BATCH))


def in_float32(policy: str, groups: int) -> float:
  """One step on all devices; its totals apart."""
  ours = train("densenet", made("densenet", "float32", remat=policy), Layout(tuple(jax.devices()), groups), 1, BATCH)
  return distance(ours[:2], reference("densenet", "float32", groups, 1, BATCH)[:2])


@float64
def baseline(name: str, groups: int, count: int) -> float:
  layout = Layout(tuple(jax.devices())[:count], groups)
  return distance(train(name, made(name, "float64"), layout, 3, 16), reference(name, "float64", groups, 3, 16))


def collectives(name: str, policy: str) -> dict:
  """What a step exchanges, by its number of statistics groups; and numbers of the network."""
  where = target(name)
  model = complete_model(ModelConfig(depth=10, growth_rate=4, remat=policy))
  network = build.build(model, 10)
  found = {
    str(groups): compile_step(Question(model, 10, (32, 32, 3), 128, groups), where).collectives
    for groups in (1, len(where.devices))
  }
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
  for kind in ("params", "batch_stats"):
    found[kind] = sum(leaf.size for leaf in jax.tree.leaves(variables[kind]))
  return found


def processes(port: int, count: int, number: int) -> dict:
  """One of several processes; the first says how far all are from the reference."""
  processes_.join(DistributedConfig(f"localhost:{port}", count, number, heartbeat=10))
  found = {}
  for groups, parallel in ((1, "jit"), (count, "jit"), (1, "pmap")):
    layout = Layout(tuple(jax.devices()), groups, parallel)
    ours = train("densenet", made("densenet", "float64", remat="layer_by_layer"), layout, STEPS, 16)
    if number == 0:
      expected = reference("densenet", "float64", groups, STEPS, 16)
      found[f"{groups} groups on {len(layout.devices)} devices by {parallel}"] = distance(ours, expected)
  here, there, expected = confused()
  found["a confusion matrix"] = float(not here == there == expected)
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


def kept(port: int, count: int, number: int, folder: str) -> list[int]:
  """One of several processes that want a program four times, of which one misses it the third time; how many times it
  was traced after each."""
  processes_.join(DistributedConfig(f"localhost:{port}", count, number, heartbeat=10))
  jax.config.update("jax_compilation_cache_dir", f"{folder}/jax")
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  kept_programs.keep_in(pathlib.Path(folder) / f"kept by {number}")
  layout, traced, found = Layout(tuple(jax.devices())), [], []
  x = replicate(np.arange(8.0), layout.mesh)
  mean = lambda x: jax.lax.pmean(x * (1 + jax.lax.axis_index(AXIS)), AXIS)
  of_all = kept_programs.Program.compile
  with mock.patch.object(kept_programs.Program, "compile", lambda *given: traced.append(True) or of_all(*given)):
    for time in range(4):
      if (time, number) == (2, 1):
        next((pathlib.Path(folder) / "kept by 1").iterdir()).unlink()
      assert layout.compiled(mean, (x,), "mean")(x).tolist() == [1.5 * each for each in range(8)]
      found.append(len(traced))
  return found


def planned(blocks, growth_rate: int, shape, batch: int, count: int) -> dict:
  """What the planner says of a step on so many devices."""
  model = complete_model(ModelConfig(blocks=tuple(blocks), growth_rate=growth_rate, remat="none"))
  where = dataclasses.replace(target("here"), devices=tuple(jax.devices()[:count]))
  return dataclasses.asdict(compile_step(Question(model, 10, tuple(shape), batch), where))


if __name__ == "__main__":
  case, *arguments = sys.argv[1:]
  jax.config.update("jax_enable_x64", True)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  print(json.dumps(globals()[case](*(int(each) if each.isdigit() else each for each in arguments))))
