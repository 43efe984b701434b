"""Steps over images that are read one by one: batches come from the host while the device works."""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dn_jax.data import stream
from dn_jax.distributed.layout import AXIS, Layout, gathered
from dn_jax.system.compilation import Compilable, ahead
from dn_jax.training.resident import Advance, Evaluate
from dn_jax.training.step import (
  Batch,
  Evaluated,
  Keys,
  Prepare,
  Totals,
  TrainState,
  TrainStep,
  evaluated_of,
  make_prepared_step,
)

Columns = stream.Rows
# Batches that lie on the device before their step.
_PLACED = 2


@dataclasses.dataclass(frozen=True)
class Batches:
  """A split for a test.

  open:  begins anew: this process's rows of every batch
  blank: such rows, of no image
  """

  open: Callable[[], Iterator[Columns]]
  blank: Callable[[], Columns]


class Feed:
  """Training images in place of a split that lies on the device.

  Args:
    training: opens the batches of this process at any step.
    steps: of the whole run.
    workers: processes that make them, see `dn_jax.data.stream`.
    place: columns of this process's rows -> arrays on the devices.
    note_bad: receives the column `bad` of each batch.
  """

  def __init__(
    self,
    training: stream.Training,
    steps: int,
    workers: int,
    place: Callable[[Columns], Any],
    note_bad: Callable[[np.ndarray], None],
  ):
    self._training, self._steps, self._workers = training, steps, workers
    self._place, self._note_bad = place, note_bad
    self._batches: Iterator[Columns] | None = None
    self._placed: collections.deque[Any] = collections.deque()
    self._next = -1
    # Seconds spent waiting for images.
    self.waited = 0.0

  @property
  def steps_per_epoch(self) -> int:
    return self._training.steps_per_epoch

  def take(self, step: int) -> Any:
    """The batch of a step, counted over the whole run. Another step than the next one opens the stream anew."""
    self.look_at(step)
    self._next += 1
    return self._placed.popleft()

  def look_at(self, step: int) -> Any:
    """The batch of a step, which is still to be taken."""
    if step != self._next:
      self.close()
      self._batches, self._next = self._training.batches(step, self._steps - step, self._workers), step
    begin = time.perf_counter()
    while len(self._placed) < _PLACED and self._next + len(self._placed) < self._steps:
      columns = next(self._batches)
      self._note_bad(columns.pop("bad"))
      self._placed.append(self._place(columns))
    self.waited += time.perf_counter() - begin
    return self._placed[0]

  def close(self) -> None:
    """Ends the workers."""
    if self._batches is not None:
      # Grain asserts that each of its workers was started, also where the machine refused one.
      with contextlib.suppress(AssertionError):
        self._batches.close()
    self._batches, self._next = None, -1
    self._placed.clear()


def own_rows(layout: Layout, batch_size: int) -> tuple[int, ...]:
  """This process's places in a batch, in an order that gives each device its own part of the layout.

  Device by device, and a device's places group by group, as in `Layout.own`.
  """
  places = np.arange(batch_size).reshape(layout.rows, layout.groups_of_device, layout.parts, -1)
  by_device = places.transpose(0, 2, 1, 3).reshape(len(layout.devices), -1)
  here = [device.process_index == jax.process_index() for device in layout.devices]
  return tuple(by_device[here].reshape(-1).tolist())


def placer(layout: Layout) -> Callable[[Columns], dict[str, jax.Array]]:
  """Cuts a batch over the devices, of which every process has its own rows."""
  sharding = NamedSharding(layout.mesh, PartitionSpec(AXIS))

  def place(columns: Columns) -> dict[str, jax.Array]:
    with jax.transfer_guard("allow"):  # With several processes, JAX counts this as an implicit transfer.
      return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in columns.items()}

  return place


def make_advance(
  train_step: TrainStep,
  prepare: Prepare,
  layout: Layout,
  augmentation_key: jax.Array,
  dropout_key: jax.Array,
  specs: Any = PartitionSpec(),
) -> Advance:
  """`dn_jax.training.resident.make_advance` for a feed: one step a command, and `order` is the epoch's number."""
  take, keys = make_prepared_step(train_step, prepare), Keys.on(layout, augmentation_key, dropout_key)

  def on_device(state: TrainState, totals: Totals, keys: Keys, rows: dict[str, jax.Array]) -> Any:
    state, of_step = take(keys, state, rows["image"], rows["label"], rows["number"])
    return state, totals + of_step, (of_step.loss / of_step.count)[None]

  whole = PartitionSpec()
  compiled: list[Callable[..., Any]] = []

  def compile(
    state: TrainState, totals: Totals, feed: Feed, order: int, first: int, steps: int, *, batch_size: int
  ) -> None:
    del steps
    if not compiled:
      arguments = (state, totals, keys, feed.look_at(order * feed.steps_per_epoch + first // batch_size))
      in_specs, out_specs = (specs, whole, whole, PartitionSpec(AXIS)), (specs, whole, whole)
      like = (state, totals, "losses")
      compiled.append(layout.compiled(on_device, arguments, like, (0, 1), in_specs, out_specs))

  def advance(
    state: TrainState, totals: Totals, feed: Feed, order: int, first: int, steps: int, *, batch_size: int
  ) -> tuple[TrainState, Totals, jax.Array]:
    compile(state, totals, feed, order, first, steps, batch_size=batch_size)
    return compiled[0](state, totals, keys, feed.take(order * feed.steps_per_epoch + first // batch_size))

  return Compilable(advance, compile)


def make_evaluate(
  logits_of: Callable[[Any, Any, jax.Array], jax.Array],
  normalise: Callable[[jax.Array], jax.Array],
  layout: Layout,
  classes: int = 0,
) -> Evaluate:
  """`dn_jax.training.resident.Evaluate` of a split that gives batches; several crops of an image vote by the mean of
  their probabilities.

  Args:
    logits_of: see `dn_jax.training.step.make_logits`.
    normalise: uint8 images -> the network's input.
    layout: the devices that share a batch.
    classes: of the network, for a confusion matrix; 0: for none.
  """
  place, compiled = placer(layout), []
  everywhere = NamedSharding(layout.mesh, PartitionSpec())

  @functools.partial(jax.jit, donate_argnames=("totals",))
  def one(params: Any, batch_stats: Any, totals: Evaluated, rows: dict[str, jax.Array]) -> Evaluated:
    images = rows["image"]  # [batch, crops, height, width, channels]
    crops = images.shape[1]
    flat = normalise(images.reshape(-1, *images.shape[2:]))
    logits = logits_of(gathered(params, layout.mesh), batch_stats, flat)
    if crops > 1:
      each = jax.nn.log_softmax(logits).reshape(-1, crops, logits.shape[-1])
      # The log of the mean probability serves cross-entropy as a logit.
      logits = jax.nn.logsumexp(each, axis=1) - jnp.log(crops)
    found = evaluated_of(logits, Batch(images, rows["label"], rows["weight"]), classes > 0)
    return gathered(totals + found, layout.mesh)

  def compile(params: Any, batch_stats: Any, split: Batches) -> None:
    if not compiled:
      totals = Evaluated.none_yet(classes, everywhere)
      compiled.append(ahead(one, params, batch_stats, totals, place(split.blank())))

  def evaluate(params: Any, batch_stats: Any, split: Batches, between: Callable[[], None]) -> Evaluated:
    totals, program = Evaluated.none_yet(classes, everywhere), compiled[0] if compiled else one
    for columns in split.open():
      totals = program(params, batch_stats, totals, place(columns))
      between()
    return totals

  return Compilable(evaluate, compile)
