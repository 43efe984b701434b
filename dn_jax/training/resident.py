"""Steps over images that lie on the device: the host only says how far to go."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dn_jax.distributed.layout import Layout, cut, gathered, place, replicate
from dn_jax.system.compilation import Compilable, ahead
from dn_jax.training.step import Batch, Evaluated, Keys, Prepare, Totals, TrainState, TrainStep, make_prepared_step


class DeviceSplit(NamedTuple):
  """A whole split on the device: images uint8 [n, height, width, channels], labels int32 [n]."""

  images: jax.Array
  labels: jax.Array


# (state, totals, split, order, first, steps, batch_size=...) -> (state, totals, losses), see `make_advance`
Advance = Compilable
# (params, batch_stats, split, called after each batch) -> totals over every image of the split; it is compiled by the
# first three alone
Evaluate = Compilable


class _Which(NamedTuple):
  """The steps that a command takes, and the keys that they draw with."""

  order: jax.Array
  first: jax.Array
  steps: jax.Array
  keys: Keys


def make_advance(
  train_step: TrainStep,
  prepare: Prepare,
  layout: Layout,
  augmentation_key: jax.Array,
  dropout_key: jax.Array,
  steps_per_dispatch: int,
  specs: Any = PartitionSpec(),
) -> Advance:
  """Compiles the training step together with the choice of its images, once for each batch size.

  Args:
    train_step: of the same layout.
    prepare: applied by each device to its own images.
    layout: how a batch lies on the devices; each holds the whole split.
    augmentation_key, dropout_key: of the run, see `dn_jax.training.step.Keys`.
    steps_per_dispatch: the most steps of one command. One on the CPU back end, which runs a step inside a
      loop six to seven times slower.
    specs: how the state lies, from the layout; by default whole everywhere.

  Returns:
    A function that takes `steps` training steps, one after another, from `order[first]` on. It returns the new state,
    the totals so far, and the mean loss of each step [steps_per_dispatch], of which the first `steps` are filled in.
    State and totals are donated.
  """
  take, keys = make_prepared_step(train_step, prepare), Keys.on(layout, augmentation_key, dropout_key)

  def command(batch_size: int, state: TrainState, totals: Totals, split: DeviceSplit, which: _Which) -> Any:
    """The program of one device."""
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

  def arguments_of(
    state: TrainState, totals: Totals, split: DeviceSplit, order: jax.Array, first: int, steps: int
  ) -> tuple[TrainState, Totals, DeviceSplit, _Which]:
    first, steps = replicate((np.int32(first), np.int32(steps)), layout.mesh)
    return state, totals, split, _Which(order, first, steps, keys)

  def compile(*given: Any, batch_size: int) -> None:
    if batch_size in compiled:
      return
    arguments, whole = arguments_of(*given), PartitionSpec()
    compiled[batch_size] = layout.compiled(
      functools.partial(command, batch_size),
      arguments,
      like=(*arguments[:2], "losses"),
      donate=(0, 1),
      in_specs=(specs, *(whole,) * 3),
      out_specs=(specs, whole, whole),
    )

  def advance(*given: Any, batch_size: int) -> tuple[TrainState, Totals, jax.Array]:
    compile(*given, batch_size=batch_size)
    return compiled[batch_size](*arguments_of(*given))

  return Compilable(advance, compile)


def make_evaluate(
  eval_step: Callable[[Any, Any, Batch], Evaluated],
  normalise: Callable[[jax.Array], jax.Array],
  layout: Layout,
  batch_size: int,
  classes: int = 0,
) -> Evaluate:
  """Compiles the evaluation of a split, so many images at a time or a few more; the last batch is filled up.

  Args:
    eval_step: see `dn_jax.training.step.make_eval_step`.
    normalise: uint8 images -> the network's input.
    layout: the devices that share a batch.
    batch_size: rounded up to a multiple of their number.
    classes: of the confusion matrix that the step makes; 0: it makes none.
  """
  mesh, compiled = layout.mesh, {}
  batch_size = math.ceil(batch_size / mesh.size) * mesh.size

  @functools.partial(jax.jit, donate_argnames=("totals",))
  def one(params: Any, batch_stats: Any, totals: Evaluated, split: DeviceSplit, first: jax.Array) -> Evaluated:
    numbers = first + jnp.arange(batch_size, dtype=jnp.int32)
    weights = (numbers < split.labels.shape[0]).astype(jnp.float32)
    numbers = jnp.minimum(numbers, split.labels.shape[0] - 1)
    batch = cut(Batch(normalise(split.images[numbers]), split.labels[numbers], weights), mesh)
    return gathered(totals + eval_step(gathered(params, mesh), batch_stats, batch), mesh)

  def compile(params: Any, batch_stats: Any, split: DeviceSplit) -> None:
    if split.labels.shape not in compiled:
      totals, first = Evaluated.none_yet(classes, split.labels.sharding), place(np.int32(0), split.labels.sharding)
      compiled[split.labels.shape] = ahead(one, params, batch_stats, totals, split, first)

  def evaluate(params: Any, batch_stats: Any, split: DeviceSplit, between: Callable[[], None]) -> Evaluated:
    totals, program = Evaluated.none_yet(classes, split.labels.sharding), compiled.get(split.labels.shape, one)
    for first in range(0, split.labels.shape[0], batch_size):
      totals = program(params, batch_stats, totals, split, place(np.int32(first), split.labels.sharding))
      between()
    return totals

  return Compilable(evaluate, compile)
