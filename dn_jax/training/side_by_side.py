"""The loop of several runs that differ in their seeds alone, in one program."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax

from dn_jax.runs.records import EpochRecord
from dn_jax.training import loop, optimizer
from dn_jax.training.loop import Begun
from dn_jax.training.resident import Advance, Evaluate
from dn_jax.training.step import Totals, TrainState


class Watcher(loop.Watcher, Protocol):
  """As a run's own, but for all of them: records, states and totals are sequences, an entry a run."""

  def epoch(self, record: Sequence[EpochRecord], state: Sequence[TrainState]) -> None: ...


def run(
  states: Sequence[TrainState],
  plan: loop.Plan,
  splits: loop.Splits,
  advance: Advance,
  evaluate: Evaluate,
  orders_of: Callable[[int], Sequence[jax.Array]],
  rate_of: Callable[[int], Any],
  watcher: Watcher,
  epochs_done: int = 0,
  begun: Begun = Begun(),
  totals: Sequence[Totals] | None = None,
) -> Sequence[TrainState]:
  """`dn_jax.training.loop.run` of several runs in step with each other.

  Args:
    states, totals: of each run.
    advance: of all runs, see `dn_jax.training.resident.make_advance_side_by_side`.
    evaluate: of a run alone; they are evaluated one after another.
    orders_of: an epoch counted from 0 -> the order of its pictures for each run.
    plan, splits, rate_of, watcher, epochs_done, begun: as there.

  Raises:
    NotFiniteError: a loss of any of them is not finite.
  """
  for number in range(epochs_done, plan.epochs):
    begin = time.perf_counter() - begun.seconds
    if totals is None:
      totals = tuple(Totals.zero() for _ in states)
    last = (number + 1) * plan.steps_per_epoch
    states, totals = loop.train_epoch(
      states, totals, plan, splits.train, advance, orders_of(number), number, rate_of, watcher, begun.steps, begin
    )
    train = [each.means() for each in totals]  # Waits for the device.
    trained = time.perf_counter()

    def stop_if_asked(states=states, totals=totals, seconds=trained - begin, last=last) -> None:
      if watcher.stopping():
        watcher.save(last, states, totals, Begun(plan.steps_per_epoch, seconds))

    measured = [
      {
        name: evaluate(optimizer.tested(each.params, each.opt_state), each.batch_stats, split, stop_if_asked).means()
        for name, split in (("validation", splits.valid), ("test", splits.test))
        if split
      }
      for each in states
    ]
    evaluated = time.perf_counter() - trained
    records = [
      loop.record_of(plan, number, rate_of, of_run, of_splits, trained - begin, evaluated)
      for of_run, of_splits in zip(train, measured, strict=True)
    ]
    watcher.epoch(records, states)
    begun, totals = Begun(), None
  return states
