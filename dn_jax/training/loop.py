"""The loop of a run: epochs of steps, and the record of each.

It takes the parts of a run, its position, and a watcher. It moves data by `jax.device_put` and `jax.device_get`; any
implicit transfer between host and device is an error while it runs.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from dn_jax.config.check import STRICT
from dn_jax.config.schema import NotNegative, Whole
from dn_jax.errors import UserError
from dn_jax.runs.contents import MEANINGLESS_TOP5, EpochRecord
from dn_jax.training import optimizer
from dn_jax.training.resident import Advance, DeviceSplit, Evaluate
from dn_jax.training.step import Evaluated, Totals, TrainState
from dn_jax.training.streamed import Batches, Feed


class NotFiniteError(UserError):
  """A loss that is infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class Begun:
  """The epoch under way: the steps already taken and their seconds, and the seconds that compiling took before them."""

  __pydantic_config__ = STRICT

  steps: Whole = 0
  seconds: NotNegative = 0.0
  compile_seconds: NotNegative = 0.0


class Watcher(Protocol):
  """Follows a run."""

  def compiled(self, what: str, seconds: float) -> None:
    """Before the first step, and before the first evaluation: for how long its programs were compiled, or loaded."""

  def progress(self, epoch: int, images: int, seconds: float, loss: float, error: float) -> None:
    """Now and then: the epoch, counted from 1, the images it has seen, for how long, its mean loss and error so far."""

  def epoch(self, record: EpochRecord, state: TrainState) -> None:
    """After each epoch; the state is valid only during the call."""

  def due(self, step: int) -> bool:
    """After each command to the device: whether to save, after this step of the run."""

  def stopping(self) -> bool:
    """During evaluation: whether to save and stop."""

  def save(self, step: int, state: TrainState, totals: Totals, begun: Begun) -> None:
    """Where it was due; state and totals are valid only during the call. May raise to stop."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """The course of a run: its epochs, the steps of each, and the images that it is tested on after each."""

  epochs: int
  batch_size: int
  train_images: int
  keep_last_batch: bool
  steps_per_dispatch: int
  evaluated_images: int = 0

  @property
  def steps_per_epoch(self) -> int:
    whole, rest = divmod(self.train_images, self.batch_size)
    return whole + (1 if rest and self.keep_last_batch else 0)

  @property
  def images_per_epoch(self) -> int:
    return self.train_images if self.keep_last_batch else self.steps_per_epoch * self.batch_size

  def dispatches(self, done: int = 0) -> list[tuple[int, int, int]]:
    """(first image, steps, batch size) of each command of an epoch, after its first `done` steps."""
    whole, rest = divmod(self.train_images, self.batch_size)
    result = [
      (step * self.batch_size, min(self.steps_per_dispatch, whole - step), self.batch_size)
      for step in range(done, whole, self.steps_per_dispatch)
    ]
    if rest and self.keep_last_batch and done <= whole:
      result.append((whole * self.batch_size, 1, rest))
    return result

  def first_dispatches(self, epoch: int, done: int) -> dict[int, tuple[int, int, int]]:
    """By batch size, its first command after `done` steps of an epoch: (epoch, first image, steps)."""
    ahead = [(epoch, each) for each in self.dispatches(done)]
    ahead += [(epoch + 1, each) for each in self.dispatches() if epoch + 1 < self.epochs]
    return {batch_size: (epoch, first, steps) for epoch, (first, steps, batch_size) in reversed(ahead)}


@dataclasses.dataclass(frozen=True)
class Splits:
  """The images of a run: on the device, or read one by one (`dn_jax.training.streamed`)."""

  train: DeviceSplit | Feed
  valid: DeviceSplit | Batches | None
  test: DeviceSplit | Batches


@dataclasses.dataclass(frozen=True)
class Assembly:
  """The parts of a run; `dn_jax.training.setup` builds it.

  advance, evaluate: from `dn_jax.training.resident` or `.streamed`, to go with the splits
  order_of:          an epoch, counted from 0 -> the argument `order` of `advance`
  rate_of:           a step, counted from 0 -> its learning rate
  fresh_state:       makes the state that a run starts from
  template:          a state's shapes, and how its arrays lie on the devices
  """

  plan: Plan
  num_classes: int
  splits: Splits
  advance: Advance
  evaluate: Evaluate
  order_of: Callable[[int], Any]
  rate_of: Callable[[int], float]
  fresh_state: Callable[[], TrainState]
  template: TrainState

  @property
  def feed(self) -> Feed | None:
    """The source of training images that do not lie on the device."""
    return self.splits.train if isinstance(self.splits.train, Feed) else None


@dataclasses.dataclass(frozen=True)
class Position:
  """The position of a run.

  state:  after `epochs` whole epochs and the steps of `begun`, the epoch under way
  totals: of the steps of `begun`; None before the first
  """

  state: TrainState
  epochs: int = 0
  begun: Begun = Begun()
  totals: Totals | None = None


# Seconds between two reports of progress; reading a running total waits for the device.
_PROGRESS_EVERY = 0.5
# Commands that the device may be behind the host.
_IN_FLIGHT = 4


def run(parts: Assembly, position: Position, watcher: Watcher) -> TrainState:
  """Trains from a position to the end of the plan, and returns the last state.

  Raises:
    NotFiniteError: a step's loss is not finite; it names epoch, step and learning rate.
  """
  # To look for NaNs, JAX itself copies each operation's results.
  with jax.transfer_guard("allow" if jax.config.jax_debug_nans or jax.config.jax_debug_infs else "disallow"):
    waited = 0.0
    if position.epochs < parts.plan.epochs:
      position = compile_steps(parts, position, watcher)
    first = position.epochs
    while position.epochs < parts.plan.epochs:
      position = train_epoch(parts, position, watcher)
      waiting = parts.feed.waited - waited if parts.feed else 0.0
      waited += waiting
      if position.epochs == first:
        position = compile_evaluation(parts, position, watcher)
      begin = time.perf_counter()
      measured = evaluate(parts, position, watcher)
      record = record_of(parts, position, measured, time.perf_counter() - begin, waiting)
      watcher.epoch(record, position.state)
      position = Position(position.state, position.epochs + 1)
  return position.state


def compile_steps(parts: Assembly, position: Position, watcher: Watcher) -> Position:
  """Compiles or loads the training steps of the epochs ahead; returns the position with the seconds of that.

  So no clock of an epoch contains it. A feed's first images are waited for here; that time is the epoch's.
  """
  begun, begin = position.begun, time.perf_counter()
  for batch_size, (epoch, *which) in parts.plan.first_dispatches(position.epochs, begun.steps).items():
    order = parts.order_of(epoch)
    parts.advance.compile(position.state, _totals(position), parts.splits.train, order, *which, batch_size=batch_size)
  waited = parts.feed.waited if parts.feed else 0.0
  position = dataclasses.replace(position, begun=dataclasses.replace(begun, seconds=begun.seconds + waited))
  return _compiled("training step", time.perf_counter() - begin - waited, position, watcher)


def compile_evaluation(parts: Assembly, position: Position, watcher: Watcher) -> Position:
  """Compiles or loads the evaluation of each split, likewise; not before the first step, which need not wait for it."""
  state, begin = position.state, time.perf_counter()
  for split in (parts.splits.valid, parts.splits.test):
    if split:
      parts.evaluate.compile(optimizer.tested(state.params, state.opt_state), state.batch_stats, split)
  return _compiled("evaluation", time.perf_counter() - begin, position, watcher)


def _compiled(what: str, seconds: float, position: Position, watcher: Watcher) -> Position:
  watcher.compiled(what, seconds)
  begun = position.begun
  return dataclasses.replace(
    position, begun=dataclasses.replace(begun, compile_seconds=begun.compile_seconds + seconds)
  )


def train_epoch(parts: Assembly, position: Position, watcher: Watcher) -> Position:
  """Takes the remaining steps of the epoch under way; returns once the device has taken them."""
  state, epoch, plan = position.state, position.epochs, parts.plan
  begin = time.perf_counter() - position.begun.seconds
  so_far = lambda steps: dataclasses.replace(position.begun, steps=steps, seconds=time.perf_counter() - begin)
  totals = _totals(position)
  order, before = parts.order_of(epoch), epoch * plan.steps_per_epoch
  step = before + position.begun.steps
  pending: collections.deque[tuple[int, jax.Array]] = collections.deque()
  told = time.perf_counter()
  for first, steps, batch_size in plan.dispatches(position.begun.steps):
    state, totals, losses = parts.advance(state, totals, parts.splits.train, order, first, steps, batch_size=batch_size)
    pending.append((step, losses))
    step += steps
    while len(pending) > _IN_FLIGHT:
      _check_finite(*pending.popleft(), parts)
    # After an epoch's last step it is saved with its evaluation.
    if watcher.due(step) and step - before < plan.steps_per_epoch:
      while pending:  # Only a finite state is saved.
        _check_finite(*pending.popleft(), parts)
      watcher.save(step, state, totals, so_far(step - before))
    if time.perf_counter() - told > _PROGRESS_EVERY:
      seen = jax.device_get(totals)
      means, told = seen.means(), time.perf_counter()
      watcher.progress(epoch + 1, int(seen.count), told - begin, means["loss"], means["error"])
  while pending:
    _check_finite(*pending.popleft(), parts)
  jax.block_until_ready(totals)
  return Position(state, epoch, so_far(plan.steps_per_epoch), totals)


def evaluate(parts: Assembly, position: Position, watcher: Watcher) -> dict[str, Evaluated]:
  """What is found on `validation`, if there is one, and `test`, at an epoch's end; on the host."""
  state, last = position.state, (position.epochs + 1) * parts.plan.steps_per_epoch
  params = optimizer.tested(state.params, state.opt_state)

  def stop_if_asked() -> None:
    if watcher.stopping():
      watcher.save(last, state, position.totals, position.begun)

  return {
    name: jax.device_get(parts.evaluate(params, state.batch_stats, split, stop_if_asked))
    for name, split in (("validation", parts.splits.valid), ("test", parts.splits.test))
    if split
  }


def record_of(
  parts: Assembly,
  position: Position,
  measured: Mapping[str, Evaluated],
  evaluation_seconds: float,
  waiting_seconds: float,
) -> EpochRecord:
  """The record of an epoch, from the position at its end and what `evaluate` found.

  Raises:
    NotFiniteError: a mean is not finite.
  """
  last, seconds = (position.epochs + 1) * parts.plan.steps_per_epoch, position.begun.seconds
  means_of = {split: found.means() for split, found in measured.items()}
  for split, means in means_of.items():
    if not np.isfinite(means["loss"]):
      raise _not_finite(f"the loss on the {split} images", means["loss"], last - 1, parts)
  train, valid, test = position.totals.means(), means_of.get("validation"), means_of["test"]
  return EpochRecord(
    epoch=position.epochs + 1,
    step=last,
    learning_rate=parts.rate_of(last - 1),
    train_loss=train["loss"],
    train_error=train["error"],
    valid_loss=valid["loss"] if valid else None,
    valid_error=valid["error"] if valid else None,
    test_loss=test["loss"],
    test_error=test["error"],
    test_top5_error=test["top5_error"] if parts.num_classes > MEANINGLESS_TOP5 else None,
    seconds=seconds,
    evaluation_seconds=evaluation_seconds,
    images_per_second=parts.plan.images_per_epoch / seconds,
    waiting_seconds=waiting_seconds,
    compile_seconds=position.begun.compile_seconds or None,
    test_class_errors=measured["test"].class_errors(),
  )


def _totals(position: Position) -> Totals:
  return Totals.zero_beside(position.state.step) if position.totals is None else position.totals


def _check_finite(first_step: int, losses: jax.Array, parts: Assembly) -> None:
  losses = jax.device_get(losses)
  if bad := np.flatnonzero(~np.isfinite(losses)).tolist():
    raise _not_finite("the loss", float(losses[bad[0]]), first_step + bad[0], parts)


def _not_finite(what: str, value: float, step: int, parts: Assembly) -> NotFiniteError:
  return NotFiniteError(
    f"{what} is {value} in epoch {step // parts.plan.steps_per_epoch + 1}, step {step + 1} (of the whole run), at "
    f"learning rate {parts.rate_of(step):g}; checkpoints before it are kept. Try a smaller --optimizer.learning-rate, "
    "in another --out"
  )
