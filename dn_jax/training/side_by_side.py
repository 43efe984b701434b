"""The loop of several runs that differ in their seeds alone, in one program: a small network leaves a chip idle."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from dn_jax.training import epoch, loop, optimizer
from dn_jax.training.epoch import Advance, Evaluate
from dn_jax.training.loop import Begun, EpochRecord
from dn_jax.training.step import Batch, Totals, TrainState


class Watcher(loop.Watcher, Protocol):
  """As a run's own, but for all of them: states and totals lie along a first axis."""

  def epoch(self, record: Sequence[EpochRecord], state: TrainState) -> None: ...


def stack[Tree](trees: Sequence[Tree]) -> Tree:
  """Trees of arrays as one, along a new first axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack[Tree](tree: Tree, count: int) -> list[Tree]:
  """The inverse of `stack`."""
  return [jax.tree.map(lambda leaf, n=number: leaf[n], tree) for number in range(count)]


def make_evaluate(
  eval_step: Callable[[Any, Any, Batch], Totals],
  normalise: Callable[[jax.Array], jax.Array],
  batch_size: int,
  count: int,
) -> Evaluate:
  """`dn_jax.training.epoch.make_evaluate` of `count` networks on one device; their totals lie along a first axis."""
  of_all = jax.vmap(eval_step, (0, 0, None))
  zeros = lambda split: stack([Totals.zero()] * count)
  return epoch.make_evaluate(of_all, normalise, lambda batch: batch, batch_size, zeros=zeros)


def run(
  states: TrainState,
  plan: loop.Plan,
  splits: loop.Splits,
  advance: Advance,
  evaluate: Evaluate,
  orders_of: Callable[[int], jax.Array],
  rate_of: Callable[[int], Any],
  watcher: Watcher,
  count: int,
  epochs_done: int = 0,
  begun: Begun = Begun(),
  totals: Totals | None = None,
) -> TrainState:
  """`dn_jax.training.loop.run` of `count` runs in step with each other; all arrays of a run lie along a first axis.

  Raises:
    NotFiniteError: a loss of any of them is not finite.
  """
  for number in range(epochs_done, plan.epochs):
    begin = time.perf_counter() - begun.seconds
    if totals is None:
      totals = stack([Totals.zero()] * count)
    last = (number + 1) * plan.steps_per_epoch
    states, totals = loop.train_epoch(
      states, totals, plan, splits.train, advance, orders_of(number), number, rate_of, watcher, begun.steps, begin
    )
    train = [each.means() for each in unstack(totals, count)]
    trained = time.perf_counter()

    def stop_if_asked(states=states, totals=totals, seconds=trained - begin, last=last) -> None:
      if watcher.stopping():
        watcher.save(last, states, totals, Begun(plan.steps_per_epoch, seconds))

    params = optimizer.tested(states.params, states.opt_state)
    measured = {
      name: [each.means() for each in unstack(evaluate(params, states.batch_stats, split, stop_if_asked), count)]
      for name, split in (("validation", splits.valid), ("test", splits.test))
      if split
    }
    evaluated = time.perf_counter() - trained
    records = [
      loop.record_of(
        plan,
        number,
        rate_of,
        train[n],
        {name: means[n] for name, means in measured.items()},
        trained - begin,
        evaluated,
      )
      for n in range(count)
    ]
    watcher.epoch(records, states)
    begun, totals = Begun(), None
  return states
