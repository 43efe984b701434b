"""The loop of a run: epochs of steps, and what each came to. What it writes to is passed in."""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from dn_jax.errors import UserError
from dn_jax.runs.records import EpochRecord
from dn_jax.training import optimizer
from dn_jax.training.resident import Advance, DeviceSplit, Evaluate
from dn_jax.training.step import Totals, TrainState
from dn_jax.training.streamed import Batches, Feed


class NotFiniteError(UserError):
  """A loss that is infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class Begun:
  """An epoch that is under way: steps it has behind it, and the seconds these took."""

  steps: int = 0
  seconds: float = 0.0


class Watcher(Protocol):
  """Who is told how a run goes."""

  def progress(self, epoch: int, pictures: int, loss: float, error: float) -> None:
    """Now and then: an epoch counted from 1, pictures of it seen, its mean loss and error so far."""

  def epoch(self, record: EpochRecord, state: TrainState) -> None:
    """After each epoch, with the state then; the state is valid during the call alone."""

  def due(self, step: int) -> bool:
    """After each command to the device: whether to save here, so many steps on."""

  def stopping(self) -> bool:
    """During evaluation: whether to save what was trained, and not go on."""

  def save(self, step: int, state: TrainState, totals: Totals, begun: Begun) -> None:
    """Within an epoch, where it was due; state and totals are valid during the call alone. May raise to stop."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """The course of a run: how many epochs of how many pictures, in what steps."""

  epochs: int
  batch_size: int
  train_pictures: int
  keep_last_batch: bool
  steps_per_dispatch: int

  @property
  def steps_per_epoch(self) -> int:
    whole, rest = divmod(self.train_pictures, self.batch_size)
    return whole + (1 if rest and self.keep_last_batch else 0)

  @property
  def pictures_per_epoch(self) -> int:
    return self.train_pictures if self.keep_last_batch else self.steps_per_epoch * self.batch_size

  def dispatches(self, done: int = 0) -> list[tuple[int, int, int]]:
    """(first picture, steps, batch size) of each command of an epoch that has so many steps behind it."""
    whole, rest = divmod(self.train_pictures, self.batch_size)
    result = [
      (step * self.batch_size, min(self.steps_per_dispatch, whole - step), self.batch_size)
      for step in range(done, whole, self.steps_per_dispatch)
    ]
    if rest and self.keep_last_batch and done <= whole:
      result.append((whole * self.batch_size, 1, rest))
    return result


@dataclasses.dataclass(frozen=True)
class Splits:
  """The pictures of a run: on the device, or where `advance` and `evaluate` get them (`dn_jax.training.streamed`)."""

  train: DeviceSplit | Feed
  valid: DeviceSplit | Batches | None
  test: DeviceSplit | Batches


# How often a person is told, in seconds; reading a running total waits for the device.
_PROGRESS_EVERY = 0.5
# Commands that the device may be behind the host.
_IN_FLIGHT = 4


def run(
  state: TrainState,
  plan: Plan,
  splits: Splits,
  advance: Advance,
  evaluate: Evaluate,
  order_of: Callable[[int], Any],
  rate_of: Callable[[int], Any],
  watcher: Watcher,
  epochs_done: int = 0,
  begun: Begun = Begun(),
  totals: Totals | None = None,
) -> TrainState:
  """Trains from wherever the state is to the end of the plan.

  Args:
    state: after `epochs_done` epochs and `begun.steps` steps.
    plan, splits: see there.
    advance, evaluate: from `dn_jax.training.resident`.
    order_of: an epoch counted from 0 -> what `advance` takes for the order of its pictures.
    rate_of: a step counted from 0 -> its learning rate.
    watcher: told of progress and of each epoch.
    epochs_done: epochs behind the state.
    begun: of the epoch after these.
    totals: of its steps; by default nothing.

  Returns:
    The state after the last epoch.

  Raises:
    NotFiniteError: a step's loss is not finite; it names epoch, step and learning rate.
  """
  for epoch in range(epochs_done, plan.epochs):
    begin, waited = time.perf_counter() - begun.seconds, _waited(splits)
    if totals is None:
      totals = Totals.zero_beside(state.step)
    order, last = order_of(epoch), epoch * plan.steps_per_epoch + plan.steps_per_epoch
    state, totals = train_epoch(
      state, totals, plan, splits.train, advance, order, epoch, rate_of, watcher, begun.steps, begin
    )
    train = totals.means()  # Waits for the device.
    trained = time.perf_counter()

    def stop_if_asked(state=state, totals=totals, seconds=trained - begin, last=last) -> None:
      if watcher.stopping():
        watcher.save(last, state, totals, Begun(plan.steps_per_epoch, seconds))

    measured = {
      name: evaluate(optimizer.tested(state.params, state.opt_state), state.batch_stats, split, stop_if_asked).means()
      for name, split in (("validation", splits.valid), ("test", splits.test))
      if split
    }
    record = record_of(
      plan,
      epoch,
      rate_of,
      train,
      measured,
      seconds=trained - begin,
      evaluation_seconds=time.perf_counter() - trained,
      waiting_seconds=_waited(splits) - waited,
    )
    watcher.epoch(record, state)
    begun, totals = Begun(), None
  return state


def record_of(
  plan: Plan,
  epoch: int,
  rate_of: Callable[[int], Any],
  train: Mapping[str, float],
  measured: Mapping[str, Mapping[str, float]],
  seconds: float,
  evaluation_seconds: float,
  waiting_seconds: float = 0.0,
) -> EpochRecord:
  """What an epoch, counted from 0, came to.

  Args:
    plan, rate_of: see `run`.
    train: means over the epoch's pictures.
    measured: means over `validation`, if there is such a split, and `test`.
    seconds, evaluation_seconds, waiting_seconds: see `EpochRecord`.

  Raises:
    NotFiniteError: a mean is not.
  """
  last = (epoch + 1) * plan.steps_per_epoch
  for split, means in measured.items():
    if not np.isfinite(means["loss"]):
      raise _not_finite(f"the loss on the {split} pictures", means["loss"], last - 1, plan, rate_of)
  valid, test = measured.get("validation"), measured["test"]
  return EpochRecord(
    epoch=epoch + 1,
    step=last,
    learning_rate=float(rate_of(last - 1)),
    train_loss=train["loss"],
    train_error=train["error"],
    valid_loss=valid["loss"] if valid else None,
    valid_error=valid["error"] if valid else None,
    test_loss=test["loss"],
    test_error=test["error"],
    test_top5_error=test["top5_error"],
    seconds=seconds,
    evaluation_seconds=evaluation_seconds,
    images_per_second=plan.pictures_per_epoch / seconds,
    waiting_seconds=waiting_seconds,
  )


def _waited(splits: Splits) -> float:
  return splits.train.waited if isinstance(splits.train, Feed) else 0.0


def train_epoch(
  state: TrainState,
  totals: Totals,
  plan: Plan,
  split: DeviceSplit | Feed,
  advance: Advance,
  order: Any,
  epoch: int,
  rate_of: Callable[[int], Any],
  watcher: Watcher,
  done: int,
  begin: float,
) -> tuple[TrainState, Totals]:
  """The rest of an epoch that has `done` steps behind it and would have begun at `begin` had it begun now."""
  before = epoch * plan.steps_per_epoch
  step = before + done
  pending: collections.deque[tuple[int, jax.Array]] = collections.deque()
  told = time.perf_counter()
  for first, steps, batch_size in plan.dispatches(done):
    state, totals, losses = advance(
      state, totals, split, order, np.int32(first), np.int32(steps), batch_size=batch_size
    )
    pending.append((step, losses))
    step += steps
    while len(pending) > _IN_FLIGHT:
      _check_finite(*pending.popleft(), plan, rate_of)
    # An epoch's last step is saved with what its evaluation says.
    if watcher.due(step) and step - before < plan.steps_per_epoch:
      while pending:  # What is saved is known to be finite.
        _check_finite(*pending.popleft(), plan, rate_of)
      watcher.save(step, state, totals, Begun(step - before, time.perf_counter() - begin))
    if time.perf_counter() - told > _PROGRESS_EVERY:
      means = totals.means()
      watcher.progress(epoch + 1, int(totals.count), means["loss"], means["error"])
      told = time.perf_counter()
  while pending:
    _check_finite(*pending.popleft(), plan, rate_of)
  return state, totals


def _check_finite(first_step: int, losses: jax.Array, plan: Plan, rate_of: Callable[[int], Any]) -> None:
  losses = np.asarray(losses)
  if bad := np.flatnonzero(~np.isfinite(losses)).tolist():
    raise _not_finite("the loss", float(losses[bad[0]]), first_step + bad[0], plan, rate_of)


def _not_finite(what: str, value: float, step: int, plan: Plan, rate_of: Callable[[int], Any]) -> NotFiniteError:
  return NotFiniteError(
    f"{what} is {value} in epoch {step // plan.steps_per_epoch + 1}, step {step + 1} (of the whole run), at learning "
    f"rate {float(rate_of(step)):g}; checkpoints before it are kept. Try a smaller --optimizer.learning-rate, in "
    "another --out"
  )
