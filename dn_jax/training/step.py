"""One step of training, one of evaluation: pure functions of a state and a batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from dn_jax.data import mixing
from dn_jax.data.draws import Stream, key_of
from dn_jax.distributed.layout import Layout, make_layout_of_one, place, replicate


@flax.struct.dataclass
class TrainState:
  """All that a step changes.

  step:        int32 scalar, steps taken so far
  batch_stats: running averages of the batch norms
  opt_state:   the optimizer's: momentum, or AdamW's two means, and the schedule's count
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState


class Batch(NamedTuple):
  """images: [batch, height, width, channels], normalised; labels: [batch] integers;
  weights: [batch], 1 where an image counts, 0 where it only fills a batch up.

  Of mixed images, else None: partner_labels: [batch], of the images mixed in; shares: [batch], of an image's own label.
  """

  images: jax.Array
  labels: jax.Array
  weights: jax.Array
  partner_labels: jax.Array | None = None
  shares: jax.Array | None = None

  def loss(self, of_labels: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """[batch]: of each image from that of labels [batch]; of a mixed one both labels' losses by their shares."""
    losses = of_labels(self.labels)
    if self.shares is None:
      return losses
    shares = self.shares.astype(losses.dtype)
    return shares * losses + (1 - shares) * of_labels(self.partner_labels)


@flax.struct.dataclass
class Totals:
  """Sums over images, each a scalar, of which means are made.

  count, top1_errors, top5_errors: int32; loss: sum of cross-entropies, in JAX's default float.
  """

  count: jax.Array
  loss: jax.Array
  top1_errors: jax.Array
  top5_errors: jax.Array

  @classmethod
  def zero(cls) -> "Totals":
    # Four arrays, not one four times: totals are donated.
    return cls(*(np.zeros((), dtype) for dtype in (np.int32, jnp.result_type(float), np.int32, np.int32)))

  @classmethod
  def zero_beside(cls, array: jax.Array) -> "Totals":
    """Zeros, on the devices that an array lies on."""
    return place(cls.zero(), array.sharding)

  def __add__(self, other: "Totals") -> "Totals":
    return jax.tree.map(jnp.add, self, other)

  def means(self) -> dict[str, float]:
    """Mean loss and error rates as fractions of 1."""
    sums = jax.device_get(self)
    return {
      "loss": float(sums.loss / sums.count),
      "error": float(sums.top1_errors / sums.count),
      "top5_error": float(sums.top5_errors / sums.count),
    }


@flax.struct.dataclass
class Evaluated(Totals):
  """Totals of a test.

  confusion: int32 [classes, classes], images by their class (rows) and by the likeliest one (columns); None unless
    asked for. An image whose logits are not all numbers is left out.
  """

  confusion: jax.Array | None = None

  @classmethod
  def none_yet(cls, classes: int, sharding: jax.sharding.Sharding) -> "Evaluated":
    """Zeros, on the devices of a sharding; with a matrix of so many classes, if any."""
    matrix = np.zeros((classes, classes), np.int32) if classes else None
    return place(cls(*dataclasses.astuple(Totals.zero()), matrix), sharding)

  def class_errors(self) -> tuple[float | None, ...] | None:
    """See `errors_by_class`; None without `confusion`."""
    return None if self.confusion is None else errors_by_class(jax.device_get(self.confusion))


# (state, batch, dropout key) -> (new state, the batch's totals before its update)
TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Totals]]
# (uint8 images, a step's augmentation key, the images' numbers in their split) -> the network's input
Prepare = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# (a batch, a step's augmentation key) -> the batch, its images mixed with each other
Mix = Callable[[Batch, jax.Array], Batch]


@dataclasses.dataclass(frozen=True)
class PrepareAndMix:
  """A `Prepare` with what is done to the whole batch after it."""

  prepare: Prepare
  mix: Mix

  def __call__(self, images: jax.Array, key: jax.Array, numbers: jax.Array) -> jax.Array:
    return self.prepare(images, key, numbers)


def create_state(
  network: nn.Module, optimizer: optax.GradientTransformation, key: jax.Array, image_shape: tuple[int, int, int]
) -> TrainState:
  """A fresh state: published initialisation, statistics 0 and 1, no momentum."""
  return state_of(network.init(key, jnp.zeros((1, *image_shape)), False), optimizer)


def state_of(variables: Mapping[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
  """A state from a network's variables: no steps, no momentum; a network without batch norm has no statistics."""
  params = variables["params"]
  return TrainState(jnp.zeros((), jnp.int32), params, variables.get("batch_stats", {}), optimizer.init(params))


def specs_of(state: TrainState, layout: Layout) -> TrainState:
  """How a state lies: parameters and momentum as the layout says, the few numbers of batch norm whole."""
  whole = jax.tree.map(lambda _: PartitionSpec(), state.batch_stats)
  return layout.specs(state).replace(batch_stats=whole)


def totals_of(logits: jax.Array, batch: Batch) -> Totals:
  """Sums of a batch from its logits [batch, classes].

  Of mixed images the loss is of both labels, by their shares; an error is one of the image's own label.
  """
  losses = batch.loss(lambda labels: optax.softmax_cross_entropy_with_integer_labels(logits, labels))
  right = jnp.take_along_axis(logits, batch.labels[:, None], axis=1)
  # Of equal logits the first class ranks first, as in argmax: a network whose logits are all equal is right by chance
  # alone. A logit that is not a number never puts the right class first.
  after = (logits < right) | ((logits == right) & (jnp.arange(logits.shape[1]) >= batch.labels[:, None]))
  before = jnp.sum(~after, axis=1)
  counts = batch.weights > 0
  return Totals(
    count=jnp.sum(counts, dtype=jnp.int32),
    loss=jnp.sum(jnp.where(counts, losses, 0), dtype=float),
    top1_errors=jnp.sum(counts & (before >= 1), dtype=jnp.int32),
    top5_errors=jnp.sum(counts & (before >= 5), dtype=jnp.int32),
  )


def errors_by_class(confusion: np.ndarray) -> tuple[float | None, ...]:
  """The error of each class as a fraction of 1, from a confusion matrix; None for a class without images."""
  found = zip(confusion.sum(axis=1).tolist(), confusion.diagonal().tolist(), strict=True)
  return tuple((images - right) / images if images else None for images, right in found)


def evaluated_of(logits: jax.Array, batch: Batch, confusion: bool) -> Evaluated:
  """`totals_of` a test's batch, and on request who is taken for whom."""
  totals = totals_of(logits, batch)
  matrix = None
  if confusion:
    found = jnp.argmax(logits, axis=1)
    counts = (batch.weights > 0) & ~jnp.isnan(jnp.max(logits, axis=1))
    matrix = jnp.zeros((logits.shape[1],) * 2, jnp.int32).at[batch.labels, found].add(counts.astype(jnp.int32))
  return Evaluated(totals.count, totals.loss, totals.top1_errors, totals.top5_errors, matrix)


@dataclasses.dataclass(frozen=True)
class Objective:
  """Changes to the published loss.

  label_smoothing:   share of each label that is spread over all classes
  freeze_statistics: whether batch norm uses its running averages, and nothing is dropped out
  class_weights:     of each class; an image's loss is multiplied by its class's. None: by 1
  """

  label_smoothing: float = 0.0
  freeze_statistics: bool = False
  class_weights: tuple[float, ...] | None = None


def make_loss(network: nn.Module, objective: Objective = Objective()) -> Callable[..., Any]:
  """(params, batch_stats, batch, key, group) -> (mean cross-entropy, (logits, new batch_stats)).

  Weighted losses are divided by the number of images too, not by their weights: then the mean over devices, groups and
  pieces of a batch is that of the batch. Of a mixed image each label has its own class's weight.
  `group` is the number of a statistics group, each of which has its own dropout; None: the batch is whole.
  """
  smoothing, frozen = objective.label_smoothing, objective.freeze_statistics

  def of_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    if smoothing:
      targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing)
      losses = optax.softmax_cross_entropy(logits, targets)
    else:
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if objective.class_weights:
      losses *= jnp.asarray(objective.class_weights, losses.dtype)[labels]
    return losses

  def loss(params: Any, batch_stats: Any, batch: Batch, key: jax.Array, group: jax.Array | None = None) -> Any:
    rngs = {"dropout": key if group is None else jax.random.fold_in(key, group), "depth": key}
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updated = network.apply(variables, batch.images, not frozen, mutable=["batch_stats"], rngs=rngs)
    losses = batch.loss(lambda labels: of_labels(logits, labels))
    return jnp.mean(losses), (logits, batch_stats if frozen else updated.get("batch_stats", {}))

  return loss


def make_gradients(
  network: nn.Module, layout: Layout, accumulation: int = 1, objective: Objective = Objective()
) -> Callable[..., Any]:
  """(params, batch_stats, batch, key) -> (gradients of the mean loss, new batch_stats, totals), of one device.

  Each statistics group is normalised by itself; gradients and running averages are the means of the groups'.

  Args:
    network: with the layout's cut.
    layout: how the global batch lies on devices; the device's batch is its parts of its groups, group by group.
    accumulation: number of pieces in which the groups are worked through, one after another; divides their number.
    objective: of the loss.
  """
  loss = make_loss(network, objective)
  groups = layout.groups_of_device // accumulation

  def of_piece(params: Any, batch_stats: Any, batch: Batch, key: jax.Array, numbers: jax.Array) -> Any:
    if groups == 1:
      number = None if layout.groups == 1 else numbers[0]
      gradients, (logits, batch_stats) = jax.grad(loss, has_aux=True)(params, batch_stats, batch, key, number)
      return gradients, batch_stats, totals_of(logits, batch)

    def mean_loss(params: Any) -> Any:
      apart = jax.tree.map(lambda leaf: leaf.reshape(groups, -1, *leaf.shape[1:]), batch)
      losses, aux = jax.vmap(loss, (None, None, 0, None, 0))(params, batch_stats, apart, key, numbers)
      return jnp.mean(losses), aux

    gradients, (logits, updated) = jax.grad(mean_loss, has_aux=True)(params)
    logits = logits.reshape(-1, logits.shape[-1])
    return gradients, jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), updated), totals_of(logits, batch)

  def gradients_of(params: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> Any:
    numbers = layout.group_numbers()
    if accumulation == 1:
      return of_piece(params, batch_stats, batch, key, numbers)

    def add(sums: Any, piece: Any) -> Any:
      # The barrier keeps the compiler from working on several pieces at a time where the loop is unrolled.
      sums, piece = jax.lax.optimization_barrier((sums, piece))
      return jax.tree.map(jnp.add, sums, of_piece(params, batch_stats, piece[0], key, piece[1])), None

    pieces = jax.tree.map(lambda leaf: leaf.reshape(accumulation, -1, *leaf.shape[1:]), (batch, numbers))
    zeros = jax.tree.map(jnp.zeros_like, (params, batch_stats))
    # The CPU back end runs what is inside a loop several times slower.
    unroll = layout.devices[0].platform == "cpu"
    (*means, totals), _ = jax.lax.scan(add, (*zeros, Totals.zero()), pieces, unroll=accumulation if unroll else 1)
    return *jax.tree.map(lambda total: total / accumulation, means), totals

  return gradients_of


def make_train_step(
  network: nn.Module,
  optimizer: optax.GradientTransformation,
  layout: Layout | None = None,
  accumulation: int = 1,
  specs: Any = None,
  objective: Objective = Objective(),
) -> TrainStep:
  """The training step. Every image of its batch counts; `weights` is for evaluation.

  Args:
    network, optimizer: of the run.
    layout: where the global batch lies. The step is the program of one device, for its own part of the batch. By
      default one device has everything, in one statistics group.
    accumulation: see `make_gradients`.
    specs: how the parameters lie, from the layout; by default whole, and the same on all devices.
    objective: of the loss.
  """
  layout = layout or make_layout_of_one()
  gradients_of = make_gradients(network.clone(cut=layout.cut), layout, accumulation, objective)

  def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Totals]:
    chex.assert_equal_shape_prefix((batch.images, batch.labels), 1)
    how = jax.tree.map(lambda _: PartitionSpec(), state.params) if specs is None else specs
    gradients, batch_stats, totals = gradients_of(layout.whole(state.params, how), state.batch_stats, batch, key)
    gradients, batch_stats, totals = layout.reduce(gradients, how, batch_stats, totals)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), totals

  return train_step


class Keys(NamedTuple):
  """A run's keys, into which the number of a step is folded: a run that goes on draws as an undisturbed one does.

  The fields hold the data of keys, arguments of the program: it is compiled once for all seeds.
  """

  augmentation: jax.Array
  dropout: jax.Array

  @classmethod
  def on(cls, layout: Layout, augmentation: jax.Array, dropout: jax.Array) -> "Keys":
    """From two keys, placed on every device."""
    return replicate(cls(*map(jax.random.key_data, (augmentation, dropout))), layout.mesh)

  def of_step(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A step's own keys, of augmentation and dropout."""
    return tuple(jax.random.fold_in(jax.random.wrap_key_data(data), step) for data in self)


def make_mix(layout: Layout, mixup: float, cutmix: float) -> Mix:
  """Mixes the images of a global batch, the same on any devices; `mixup` and `cutmix` as in `mixing.draw`."""

  def mix(batch: Batch, key: jax.Array) -> Batch:
    size = batch.images.shape[1:3]
    pixels, share = mixing.own_shares(mixing.draw(key_of(key, Stream.MIXING), size, mixup, cutmix), size)
    partners, labels = layout.backwards((batch.images, batch.labels))
    images, shares = mixing.mixed(batch.images, partners, pixels), jnp.full(labels.shape, share)
    return batch._replace(images=images, partner_labels=labels, shares=shares)

  return mix


def make_prepared_step(
  train_step: TrainStep, prepare: Prepare | PrepareAndMix
) -> Callable[[Keys, TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, Totals]]:
  """A training step that begins with raw images: (keys, state, uint8 images, labels, the images' numbers)."""

  def take(keys: Keys, state: TrainState, images: jax.Array, labels: jax.Array, numbers: jax.Array) -> Any:
    augmentation, dropout = keys.of_step(state.step)
    batch = Batch(prepare(images, augmentation, numbers), labels, jnp.ones(numbers.shape, jnp.float32))
    if isinstance(prepare, PrepareAndMix):
      batch = prepare.mix(batch, augmentation)
    return train_step(state, batch, dropout)

  return take


def make_logits(network: nn.Module) -> Callable[[Any, Any, jax.Array], jax.Array]:
  """(params, batch_stats, normalised images) -> logits, with running averages."""
  return lambda params, batch_stats, images: network.apply(
    {"params": params, "batch_stats": batch_stats}, images, False
  )


def make_eval_step(network: nn.Module, confusion: bool = False) -> Callable[[Any, Any, Batch], Evaluated]:
  """The evaluation step: (params, batch_stats, batch) -> see `evaluated_of`, with running averages."""

  logits_of = make_logits(network)
  return lambda params, batch_stats, batch: evaluated_of(logits_of(params, batch_stats, batch.images), batch, confusion)
