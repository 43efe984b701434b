"""Many steps at one command equal one at a time; evaluation covers every picture."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits, relative
from sklearn.metrics import confusion_matrix

from dn_jax.config.schema import OptimizerConfig
from dn_jax.data.augment import mirror_and_shift, normalise
from dn_jax.distributed.layout import make_layout_of_one, replicate
from dn_jax.models.densenet import DenseNet
from dn_jax.training import optimizer, resident, step

SGD = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 0.1)


@pytest.mark.slow
def test_steps_of_one_dispatch_equal_single_ones():
  with jax.enable_x64(True):
    rng = np.random.RandomState(0)
    split = resident.DeviceSplit(
      jnp.asarray(rng.randint(0, 256, (24, 8, 8, 3)), jnp.uint8), jnp.asarray(rng.randint(0, 5, 24))
    )
    network = DenseNet(
      (1,), 4, 5, 8, bottleneck_width=0, dropout_rate=0.2, remat="none", dtype=jnp.float64, param_dtype=jnp.float64
    )
    sgd = optimizer.make(SGD, optimizer.learning_rate(SGD, 1, 1))
    prepare = lambda images, key, numbers: mirror_and_shift(
      normalise(images, (127.5,), (63.75,), jnp.float64), key, numbers, mirror=True, pad=2
    )
    keys = jax.random.split(jax.random.key(1), 2)
    order = jnp.asarray(rng.permutation(24), jnp.int32)

    create_state = jax.jit(lambda: step.create_state(network, sgd, jax.random.key(0), (8, 8, 3)))

    def run(steps_per_dispatch, chunks):
      advance = resident.make_advance(
        step.make_train_step(network, sgd), prepare, make_layout_of_one(), *keys, steps_per_dispatch
      )
      state, totals = create_state(), step.Totals.zero()
      losses = []
      for first, steps in chunks:
        state, totals, found = advance(state, totals, split, order, jnp.int32(first), jnp.int32(steps), batch_size=4)
        losses += found[:steps].tolist()
      return state, totals, losses

    state, totals, losses = run(1, [(4 * n, 1) for n in range(5)])
    many_state, many_totals, many_losses = run(2, [(0, 2), (8, 2), (16, 1)])
  assert int(state.step) == int(many_state.step) == 5
  for a, b in zip(jax.tree.leaves((many_state, many_totals)), jax.tree.leaves((state, totals)), strict=True):
    assert relative(a, b) < 1e-10
  assert many_losses == pytest.approx(losses, rel=1e-6)
  assert sum(losses) / 5 == pytest.approx(totals.means()["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_later_start_takes_the_same_step_untraced(kept_programs_in, untraced):
  rng, layout = np.random.RandomState(0), make_layout_of_one()
  split = resident.DeviceSplit(rng.randint(0, 256, (8, 8, 8, 3)).astype(np.uint8), rng.randint(0, 5, 8))
  split, order = replicate((split, rng.permutation(8).astype(np.int32)), layout.mesh)
  network = DenseNet((1,), 4, 5, 8, dropout_rate=0.2, remat="layer_by_layer")

  def one_step(seed):
    """Everything is made anew, as by another start."""
    sgd = optimizer.make(SGD, optimizer.learning_rate(SGD, 1, 1))
    prepare = functools.partial(normalise_and_shift, mean=np.float64([127.5]))
    train_step, keys = step.make_train_step(network, sgd), jax.random.split(jax.random.key(seed), 2)
    advance = resident.make_advance(train_step, prepare, layout, *keys, steps_per_dispatch=1)
    state = jax.jit(lambda: step.create_state(network, sgd, jax.random.key(0), (8, 8, 3)))()
    return advance(*replicate((state, step.Totals.zero()), layout.mesh), split, order, 0, 1, batch_size=4)

  traced, of_another_seed = one_step(1), one_step(2)
  assert len(list(kept_programs_in.iterdir())) == 1
  untraced()
  assert bits(one_step(1)) == bits(traced)
  assert bits(one_step(2)) == bits(of_another_seed) != bits(traced)


def normalise_and_shift(images, key, numbers, mean):
  return mirror_and_shift(normalise(images, mean, (63.75,)), key, numbers, mirror=True, pad=2)


@pytest.mark.parametrize("batch_size", [7, 20, 64])
def test_evaluation_counts_every_picture_once(batch_size):
  labels = np.arange(20) % 4
  split = resident.DeviceSplit(jnp.arange(20, dtype=jnp.uint8).reshape(20, 1, 1, 1), jnp.asarray(labels))

  # A "network" that is right about even pictures, and tells by its loss which ones it saw.
  def eval_step(params, batch_stats, batch):
    numbers = batch.images[:, 0, 0, 0]
    return step.Evaluated(
      jnp.sum(batch.weights, dtype=jnp.int32),
      jnp.sum(batch.weights * 2.0**numbers),
      jnp.sum(batch.weights * (numbers % 2), dtype=jnp.int32),
      jnp.int32(0),
    )

  evaluate = resident.make_evaluate(
    eval_step, lambda images: images.astype(jnp.float32), make_layout_of_one(), batch_size
  )
  totals = evaluate({}, {}, split, lambda: None)
  assert (int(totals.count), int(totals.top1_errors), float(totals.loss)) == (20, 10, 2.0**20 - 1)


@pytest.mark.parametrize("batch_size", [7, 20, 64])
def test_a_confusion_matrix_has_every_picture_once(batch_size):
  labels, found = np.arange(20) % 4, np.arange(20) % 3
  split = resident.DeviceSplit(jnp.asarray(found, jnp.uint8).reshape(20, 1, 1, 1), jnp.asarray(labels))
  evaluate = resident.make_evaluate(
    lambda params, batch_stats, batch: step.evaluated_of(jax.nn.one_hot(batch.images[:, 0, 0, 0], 4), batch, True),
    lambda images: images,
    make_layout_of_one(),
    batch_size,
    classes=4,
  )
  totals = evaluate({}, {}, split, lambda: None)
  np.testing.assert_array_equal(totals.confusion, confusion_matrix(labels, found, labels=range(4)))


def test_every_step_augments_and_drops_out_with_keys_of_its_own():
  seen = []

  def prepare(images, key, numbers):
    jax.debug.callback(lambda key: seen.append(("augmentation", *key.tolist())), jax.random.key_data(key))
    return images

  def train_step(state, batch, key):
    jax.debug.callback(lambda key: seen.append(("dropout", *key.tolist())), jax.random.key_data(key))
    return dataclasses.replace(state, step=state.step + 1), step.Totals.zero()

  advance = resident.make_advance(
    train_step, prepare, make_layout_of_one(), jax.random.key(1), jax.random.key(2), steps_per_dispatch=1
  )
  split = resident.DeviceSplit(jnp.zeros((8, 1, 1, 1), jnp.uint8), jnp.zeros(8, jnp.int32))

  def run(first, steps):
    state, totals = step.TrainState(jnp.int32(first), {}, {}, ()), step.Totals.zero()
    for number in range(steps):
      place = jnp.int32(number % 2 * 4)
      state, totals, _ = advance(state, totals, split, jnp.arange(8), place, jnp.int32(1), batch_size=4)
    jax.effects_barrier()

  run(0, 4)  # Two epochs of two steps.
  assert len(set(seen)) == 8
  going_on = seen[4:]
  seen.clear()
  run(2, 2)  # A run that goes on from step 2 draws what it would have drawn.
  assert sorted(seen) == sorted(going_on)
