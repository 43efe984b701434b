"""Steps over pictures that live on the device: the host only says how far to go."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dn_jax.distributed.layout import Layout, place, replicate
from dn_jax.training.step import Batch, Totals, TrainState


class DeviceSplit(NamedTuple):
  """A whole split on the device: images uint8 [n, height, width, channels], labels int32 [n]."""

  images: jax.Array
  labels: jax.Array


class Keys(NamedTuple):
  """What a step's own keys are folded from, with its number; a run draws alike wherever it went on.

  Data of keys, since they go into a program: it is the same for every seed, and compiled once for all of them.
  """

  augmentation: jax.Array
  dropout: jax.Array

  @classmethod
  def on(cls, layout: Layout, augmentation: jax.Array, dropout: jax.Array) -> "Keys":
    """Of two keys, on every device."""
    return replicate(cls(*map(jax.random.key_data, (augmentation, dropout))), layout.mesh)

  def of_step(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A step's own keys, of augmentation and dropout."""
    return tuple(jax.random.fold_in(jax.random.wrap_key_data(data), step) for data in self)


class Advance(Protocol):
  """Takes `steps` training steps, one after another from `order[first]` on.

  Returns the new state, the totals so far, and each step's mean loss [steps_per_dispatch], of which the first
  `steps` are filled in. State and totals are donated.
  """

  def __call__(
    self,
    state: TrainState,
    totals: Totals,
    split: DeviceSplit,
    order: jax.Array,
    first: int,
    steps: int,
    *,
    batch_size: int,
  ) -> tuple[TrainState, Totals, jax.Array]: ...


# (params, batch_stats, split, what to call between commands) -> totals over every picture of the split
Evaluate = Callable[[Any, Any, DeviceSplit, Callable[[], None]], Totals]


def make_prepared_step(
  train_step: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Totals]],
  prepare: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> Callable[[Keys, TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, Totals]]:
  """A training step from pictures as they lie: (keys, state, uint8 pictures, labels, pictures' numbers).

  Args:
    train_step: see `dn_jax.training.step.make_train_step`.
    prepare: (uint8 pictures, key, pictures' numbers) -> normalised, perhaps augmented pictures.
  """

  def take(keys: Keys, state: TrainState, images: jax.Array, labels: jax.Array, numbers: jax.Array) -> Any:
    augmentation, dropout = keys.of_step(state.step)
    batch = Batch(prepare(images, augmentation, numbers), labels, jnp.ones(numbers.shape, jnp.float32))
    return train_step(state, batch, dropout)

  return take


class _Which(NamedTuple):
  """Which steps a command takes, see `Advance`, and what they draw from."""

  order: jax.Array
  first: jax.Array
  steps: jax.Array
  keys: Keys


def make_advance(
  train_step: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Totals]],
  prepare: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  layout: Layout,
  augmentation_key: jax.Array,
  dropout_key: jax.Array,
  steps_per_dispatch: int,
  specs: Any = PartitionSpec(),
) -> Advance:
  """Compiles the training step together with what feeds it, for each batch size when it first comes.

  Args:
    train_step, prepare: see `make_prepared_step`; the step is of the layout.
    layout: how a batch lies on the devices; each makes its own pictures from the split that all hold.
    augmentation_key, dropout_key: a step's own keys are folded from these and its number, so that a resumed
      run draws what an undisturbed one does.
    steps_per_dispatch: the most steps of one command. One on the CPU back end, which runs a step inside a
      loop six to seven times slower.
    specs: how the state lies, from the layout; by default whole everywhere.
  """
  take, keys = make_prepared_step(train_step, prepare), Keys.on(layout, augmentation_key, dropout_key)

  def command(batch_size: int, state: TrainState, totals: Totals, split: DeviceSplit, which: _Which) -> Any:
    """What a device does at one command; see `Advance`."""
    order, first, keys = which.order, which.first, which.keys

    def one(index: jax.Array, carry: Any) -> Any:
      state, totals, losses = carry
      numbers = layout.own(jax.lax.dynamic_slice(order, (first + index * batch_size,), (batch_size,)))
      state, of_step = take(keys, state, split.images[numbers], split.labels[numbers], numbers)
      return state, totals + of_step, losses.at[index].set(of_step.loss / batch_size)

    carry = (state, totals, jnp.zeros((steps_per_dispatch,), float))
    if steps_per_dispatch == 1:
      return one(jnp.int32(0), carry)
    return jax.lax.fori_loop(0, which.steps, one, carry)

  compiled: dict[int, Callable[..., Any]] = {}

  def advance(
    state: TrainState, totals: Totals, split: DeviceSplit, order: jax.Array, first: int, steps: int, *, batch_size: int
  ) -> tuple[TrainState, Totals, jax.Array]:
    first, steps = replicate((np.int32(first), np.int32(steps)), layout.mesh)
    arguments = (state, totals, split, _Which(order, first, steps, keys))
    if batch_size not in compiled:
      whole = PartitionSpec()
      program = layout.everywhere(
        functools.partial(command, batch_size),
        donate=(0, 1),
        in_specs=(specs, *(whole,) * 3),
        out_specs=(specs, whole, whole),
      )
      compiled[batch_size] = layout.compiled(program, *arguments)
    return compiled[batch_size](*arguments)

  return advance


def make_evaluate(
  eval_step: Callable[[Any, Any, Batch], Totals],
  normalise: Callable[[jax.Array], jax.Array],
  cut: Callable[[Batch], Batch],
  batch_size: int,
  gather: Callable[[Any], Any] = lambda variables: variables,
) -> Evaluate:
  """See `Evaluate`; the last batch is filled up.

  Args:
    eval_step: see `dn_jax.training.step.make_eval_step`.
    normalise: uint8 images -> the network's input.
    cut: deals a batch out to the devices, inside the program.
    batch_size: images of a batch.
    gather: parameters as each device takes them, inside the program.
  """

  @functools.partial(jax.jit, donate_argnames=("totals",))
  def one(params: Any, batch_stats: Any, totals: Totals, split: DeviceSplit, first: jax.Array) -> Totals:
    numbers = first + jnp.arange(batch_size, dtype=jnp.int32)
    weights = (numbers < split.labels.shape[0]).astype(jnp.float32)
    numbers = jnp.minimum(numbers, split.labels.shape[0] - 1)
    batch = cut(Batch(normalise(split.images[numbers]), split.labels[numbers], weights))
    return totals + eval_step(gather(params), batch_stats, batch)

  def evaluate(params: Any, batch_stats: Any, split: DeviceSplit, between: Callable[[], None]) -> Totals:
    totals = Totals.zero_beside(split.labels)
    for first in range(0, split.labels.shape[0], batch_size):
      totals = one(params, batch_stats, totals, split, place(np.int32(first), split.labels.sharding))
      between()
    return totals

  return evaluate
