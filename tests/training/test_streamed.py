"""Steps over batches from the host are the steps over data on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits, relative
from sklearn.metrics import confusion_matrix

from dn_jax.config.schema import OptimizerConfig
from dn_jax.data.augment import mirror_and_shift, normalise
from dn_jax.distributed.layout import AXIS, Layout, make_layout_of_one, replicate
from dn_jax.models.densenet import DenseNet
from dn_jax.training import optimizer, resident, step, streamed

SGD = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 0.1)


@pytest.mark.parametrize(("groups", "count"), [(1, 1), (1, 8), (4, 8), (8, 4), (4, 6), (6, 4)])
def test_each_devices_rows_are_its_own_of_the_layout(groups, count):
  layout = Layout(tuple(jax.devices()[:1]) * count, groups)
  size = int(np.lcm(groups, count)) * 2
  own = jax.vmap(lambda _: layout.own(jnp.arange(size)), axis_name=AXIS)(jnp.arange(count))
  assert streamed.own_rows(layout, size) == tuple(np.asarray(own).reshape(-1).tolist())
  assert streamed.own_rows(Layout(layout.devices), size) == tuple(range(size))


class Pictures:
  """A stream of pictures that lie in memory."""

  def __init__(self, split, order, batch_size):
    self.split, self.order, self.batch_size = split, order, batch_size
    self.opened, self.closed = [], 0

  @property
  def steps_per_epoch(self):
    return len(self.order[0]) // self.batch_size

  def batches(self, first_step, steps, workers):
    self.opened.append(first_step)
    try:
      for n in range(first_step, first_step + steps):
        number, place = divmod(n, self.steps_per_epoch)
        numbers = self.order[number][place * self.batch_size :][: self.batch_size]
        bad = np.where(numbers == 7, 5, -1)
        yield {"image": self.split.images[numbers], "label": self.split.labels[numbers], "number": numbers, "bad": bad}
    finally:
      self.closed += 1


@pytest.mark.slow
def test_steps_of_a_feed_are_those_of_a_split_on_the_device():
  rng = np.random.RandomState(0)
  images, labels = rng.randint(0, 256, (24, 8, 8, 3)).astype(np.uint8), rng.randint(0, 5, 24).astype(np.int32)
  split = resident.DeviceSplit(jnp.asarray(images), jnp.asarray(labels))
  order = np.stack([rng.permutation(24), rng.permutation(24)]).astype(np.int32)
  network = DenseNet((1,), 4, 5, 8, bottleneck_width=0, dropout_rate=0.2, remat="none")
  sgd = optimizer.make(SGD, optimizer.learning_rate(SGD, 1, 1))
  prepare = lambda images, key, numbers: mirror_and_shift(
    normalise(images, (127.5,), (63.75,)), key, numbers, mirror=True, pad=2
  )
  layout = make_layout_of_one()
  keys = jax.random.split(jax.random.key(1), 2)
  create_state = jax.jit(lambda: step.create_state(network, sgd, jax.random.key(0), (8, 8, 3)))
  fresh = lambda: (create_state(), step.Totals.zero())

  of_a_split = resident.make_advance(step.make_train_step(network, sgd), prepare, layout, *keys, 1)
  state, totals = fresh()
  expected = []
  for number in range(2):
    for first in range(0, 24, 4):
      state, totals, losses = of_a_split(
        state, totals, split, jnp.asarray(order[number]), np.int32(first), np.int32(1), batch_size=4
      )
      expected += losses.tolist()

  bad = []
  pictures = Pictures(resident.DeviceSplit(images, labels), order, 4)
  source = streamed.Feed(pictures, 12, 0, streamed.placer(layout), bad.extend)
  of_a_feed = streamed.make_advance(step.make_train_step(network, sgd), prepare, layout, *keys)
  fed, sums = fresh()
  found = []
  for number in range(2):
    for first in range(0, 24, 4):
      fed, sums, losses = of_a_feed(fed, sums, source, number, np.int32(first), np.int32(1), batch_size=4)
      found += losses.tolist()
  assert found == pytest.approx(expected, rel=1e-5)
  for a, b in zip(jax.tree.leaves((fed, sums)), jax.tree.leaves((state, totals)), strict=True):
    assert relative(a, b) < 1e-5
  assert pictures.opened == [0]
  assert sum(number == 5 for number in bad) == 2
  assert source.waited > 0
  source.close()
  assert pictures.closed == 1


@pytest.mark.slow
def test_a_later_start_takes_the_same_step_of_a_feed_untraced(kept_programs_in, untraced):
  rng, layout = np.random.RandomState(0), make_layout_of_one()
  images, labels = rng.randint(0, 256, (8, 8, 8, 3)).astype(np.uint8), rng.randint(0, 5, 8).astype(np.int32)
  order = rng.permutation(8).astype(np.int32)[None]
  network = DenseNet((1,), 4, 5, 8, bottleneck_width=0, remat="none")
  sgd = optimizer.make(SGD, optimizer.learning_rate(SGD, 1, 1))
  keys = jax.random.split(jax.random.key(1), 2)
  state = jax.jit(lambda: step.create_state(network, sgd, jax.random.key(0), (8, 8, 3)))()

  def one_step():
    """Everything is made anew, as by another start."""
    prepare = lambda images, key, numbers: normalise(images, (127.5,), (63.75,))
    advance = streamed.make_advance(step.make_train_step(network, sgd), prepare, layout, *keys)
    pictures = Pictures(resident.DeviceSplit(images, labels), order, 4)
    source = streamed.Feed(pictures, 2, 0, streamed.placer(layout), lambda numbers: None)
    fresh = replicate(jax.tree.map(np.asarray, (state, step.Totals.zero())), layout.mesh)
    return advance(*fresh, source, 0, 0, 1, batch_size=4)

  traced = one_step()
  untraced()
  assert bits(one_step()) == bits(traced)


def test_a_feed_opens_its_stream_where_it_is_asked_for_a_step():
  split = resident.DeviceSplit(np.zeros((8, 1, 1, 3), np.uint8), np.arange(8, dtype=np.int32))
  pictures = Pictures(split, np.stack([np.arange(8), np.arange(8)[::-1]]), 2)
  source = streamed.Feed(pictures, 8, 0, lambda columns: columns, lambda numbers: None)
  assert [source.take(n)["label"].tolist() for n in (5, 6, 7)] == [[5, 4], [3, 2], [1, 0]]
  assert source.take(1)["label"].tolist() == [2, 3]
  assert pictures.opened == [5, 1]
  assert pictures.closed == 1


@pytest.mark.parametrize("crops", [1, 10])
def test_a_test_counts_pictures_by_the_mean_probability_of_their_crops(crops):
  rng = np.random.RandomState(0)
  count, classes = 14, 6
  # A "network" whose logits are the picture's own pixels.
  images = rng.randint(0, 8, (count, crops, 1, classes, 1)).astype(np.uint8)
  labels, weights = rng.randint(0, classes, count).astype(np.int32), np.ones(count, np.float32)
  weights[[3, 9]] = 0
  batches = lambda: iter(
    [{"image": images[part], "label": labels[part], "weight": weights[part]} for part in (slice(0, 7), slice(7, 14))]
  )
  measure = streamed.make_evaluate(
    lambda params, batch_stats, pictures: pictures.reshape(-1, classes) * params,
    lambda pictures: pictures.astype(jnp.float32),
    make_layout_of_one(),
    classes,
  )
  seen = []
  totals = measure(jnp.float32(1), jnp.float32(0), streamed.Batches(batches, blank=None), lambda: seen.append(1))
  logits = images.reshape(count, crops, classes).astype(np.float64)
  each = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  chances, counted = each.mean(axis=1), weights > 0
  right = chances[np.arange(count), labels]
  better = (chances > right[:, None]).sum(axis=1) + (
    (chances == right[:, None]) & (np.arange(classes) < labels[:, None])
  ).sum(axis=1)
  assert int(totals.count) == 12
  assert float(totals.loss) == pytest.approx(-np.log(right)[counted].sum(), rel=1e-5)
  assert int(totals.top1_errors) == (better[counted] >= 1).sum()
  assert int(totals.top5_errors) == (better[counted] >= 5).sum()
  likeliest = chances.argmax(axis=1)
  np.testing.assert_array_equal(
    totals.confusion, confusion_matrix(labels[counted], likeliest[counted], labels=range(classes))
  )
  assert len(seen) == 2
