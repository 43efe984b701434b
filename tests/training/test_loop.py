"""The course of a run."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dn_jax.system.compilation import Compilable
from dn_jax.training import loop, streamed
from dn_jax.training.resident import DeviceSplit
from dn_jax.training.step import Evaluated, Totals, TrainState


def plan(**changes):
  return loop.Plan(
    **{"epochs": 3, "batch_size": 4, "train_images": 22, "keep_last_batch": False, "steps_per_dispatch": 2} | changes
  )


def test_an_epoch_takes_every_whole_batch_in_order():
  assert plan().dispatches() == [(0, 2, 4), (8, 2, 4), (16, 1, 4)]
  assert plan().steps_per_epoch == 5


def test_the_last_batch_is_kept_on_request():
  assert plan(keep_last_batch=True).dispatches()[-1] == (20, 1, 2)
  assert plan(keep_last_batch=True).steps_per_epoch == 6
  assert plan(keep_last_batch=True, train_images=24).steps_per_epoch == 6
  # The paper's CIFAR: 50,000 = 781 x 64 + 16.
  assert plan(keep_last_batch=True, train_images=50_000, batch_size=64).steps_per_epoch == 782


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("steps_per_dispatch", [1, 2, 3])
def test_an_epoch_gone_on_with_takes_the_steps_that_are_left(keep, steps_per_dispatch):
  course = plan(keep_last_batch=keep, steps_per_dispatch=steps_per_dispatch)

  def taken(done):
    """(first picture, batch size) of each step."""
    return [(first + n * size, size) for first, steps, size in course.dispatches(done) for n in range(steps)]

  everything = taken(0)
  assert len(everything) == course.steps_per_epoch
  for done in range(course.steps_per_epoch + 1):
    assert taken(done) == everything[done:]


class Watcher:
  def __init__(self):
    self.records, self.compiling = [], []

  def compiled(self, what, seconds):
    self.compiling.append((what, seconds))

  def progress(self, *args):
    pass

  def epoch(self, record, state):
    self.records.append(record)

  def due(self, step):
    return False

  def stopping(self):
    return False


class Clock:
  """A machine whose times are whole seconds, each of which its clock tells: it never sleeps."""

  COMPILE, COMPILE_EVALUATION, WAIT, STEP, EVALUATE = 100, 40, 7, 2, 5

  def __init__(self, monkeypatch):
    self.now = 1000.0
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: self.now))

  def spend(self, seconds):
    self.now += seconds


def drive(
  losses, position=None, test_loss=5.0, watcher=None, classes=6, spend=lambda seconds: None, feed=None, **changes
):
  """Runs the loop over steps whose losses are given, for one epoch (repeated) or for all."""
  losses = losses * 3 if len(losses) == 5 else losses
  compiled = set()

  # As the programs of `dn_jax.training.resident`: what is not compiled ahead is compiled by the first call.
  def compile_step(*arguments, batch_size):
    if batch_size not in compiled:
      if feed:
        spend(Clock.WAIT)
        feed.waited += Clock.WAIT
      compiled.add(batch_size)
      spend(Clock.COMPILE)

  def compile_evaluation(*arguments):
    if "evaluation" not in compiled:
      compiled.add("evaluation")
      spend(Clock.COMPILE_EVALUATION)

  # They stand for programs of a device, and compute where the numbers are.
  @jax.transfer_guard("allow")
  def advance(state, totals, split, order, first, steps, *, batch_size):
    compile_step(batch_size=batch_size)
    spend(steps * Clock.STEP)
    first = int(state.step)
    found = jnp.asarray(losses[first : first + steps])
    totals += Totals(
      jnp.int32(steps * batch_size), jnp.float32(jnp.sum(found) * batch_size), jnp.int32(steps), jnp.int32(0)
    )
    return state.replace(step=state.step + steps), totals, found

  @jax.transfer_guard("allow")
  def evaluate(params, stats, split, between):
    compile_evaluation()
    spend(Clock.EVALUATE)
    between()
    return Evaluated(jnp.int32(10), jnp.float32(test_loss), jnp.int32(3), jnp.int32(1), CONFUSION)

  split = DeviceSplit(jnp.zeros((22, 1, 1, 1), jnp.uint8), jnp.zeros(22, jnp.int32))
  order, watcher, start = jnp.arange(22), watcher or Watcher(), TrainState(jnp.int32(0), {}, {}, ())
  parts = loop.Assembly(
    plan=plan(**changes),
    num_classes=classes,
    splits=loop.Splits(feed or split, None, split),
    advance=Compilable(advance, compile_step),
    evaluate=Compilable(evaluate, compile_evaluation),
    order_of=lambda epoch: order,
    rate_of=lambda step: 0.1 if step < 10 else 0.01,
    fresh_state=lambda: start,
    template=start,
  )
  return loop.run(parts, position or loop.Position(start), watcher), watcher.records


# Of a class with four test images and of one without.
CONFUSION = np.array([[3, 1], [0, 0]])


class Stopping(Watcher):
  """Asks to save at a step, or in the evaluation after so many epochs, and stops there."""

  def __init__(self, due_at=None, stopping_at=None):
    super().__init__()
    self.due_at, self.stopping_at, self.saved = due_at, stopping_at, None

  def due(self, step):
    return step == self.due_at

  def stopping(self):
    return self.stopping_at is not None and len(self.records) == self.stopping_at

  def save(self, step, state, totals, begun):
    self.saved = step, state, totals, begun
    raise KeyboardInterrupt


@pytest.mark.parametrize(("asked", "step", "steps"), [({"due_at": 7}, 7, 2), ({"stopping_at": 1}, 10, 5)])
def test_a_run_stopped_within_an_epoch_or_its_evaluation_ends_as_an_undisturbed_one(asked, step, steps):
  losses, watcher = [float(n) for n in range(1, 16)], Stopping(**asked)
  _, undisturbed = drive(losses)
  with pytest.raises(KeyboardInterrupt):
    drive(losses, watcher=watcher)
  at, state, totals, begun = watcher.saved
  assert (at, int(state.step), begun.steps) == (step, step, steps)
  assert [record.epoch for record in watcher.records] == [1]
  _, rest = drive(losses, loop.Position(state, 1, begun, totals))
  times = {"seconds": 0.0, "evaluation_seconds": 0.0, "images_per_second": 0.0, "compile_seconds": None}
  plain = lambda records: [dataclasses.replace(record, **times) for record in records]
  assert plain(watcher.records + rest) == plain(undisturbed)


def test_records_say_what_happened():
  state, records = drive([1.0, 2.0, 3.0, 4.0, 5.0])
  assert int(state.step) == 15
  assert [record.epoch for record in records] == [1, 2, 3]
  assert [record.step for record in records] == [5, 10, 15]
  assert [record.learning_rate for record in records] == pytest.approx([0.1, 0.1, 0.01])
  assert records[0].train_loss == pytest.approx(3.0)
  assert records[0].train_error == pytest.approx(5 / 20)
  assert (records[0].test_error, records[0].test_top5_error, records[0].valid_error) == (0.3, 0.1, None)
  assert records[0].test_class_errors == (0.25, None)


@pytest.mark.parametrize("keep", [False, True])
def test_compiling_is_told_once_and_is_in_no_other_time(monkeypatch, keep):
  watcher, clock = Watcher(), Clock(monkeypatch)
  _, records = drive([1.0] * 18, watcher=watcher, spend=clock.spend, keep_last_batch=keep)
  # A smaller last batch has a program of its own.
  steps, images, programs = (6, 22, 2) if keep else (5, 20, 1)
  training, evaluation = programs * Clock.COMPILE, Clock.COMPILE_EVALUATION
  assert watcher.compiling == [("training step", training), ("evaluation", evaluation)]
  assert [record.compile_seconds for record in records] == [training + evaluation, None, None]
  for record in records:
    assert (record.seconds, record.evaluation_seconds) == (steps * Clock.STEP, Clock.EVALUATE)
    assert record.images_per_second == images / (steps * Clock.STEP)


def test_a_feeds_first_images_are_waited_for_in_the_epochs_time(monkeypatch):
  watcher, clock, feed = Watcher(), Clock(monkeypatch), streamed.Feed(None, 15, 0, None, None)
  _, (first, *rest) = drive([1.0] * 5, watcher=watcher, spend=clock.spend, feed=feed)
  assert watcher.compiling == [("training step", Clock.COMPILE), ("evaluation", Clock.COMPILE_EVALUATION)]
  assert (first.waiting_seconds, first.seconds) == (Clock.WAIT, Clock.WAIT + 5 * Clock.STEP)
  assert [(each.waiting_seconds, each.seconds) for each in rest] == 2 * [(0, 5 * Clock.STEP)]


@pytest.mark.parametrize("asked", [{"due_at": 7}, {"stopping_at": 1}])
def test_an_epoch_gone_on_with_has_the_seconds_of_both_starts_and_the_compiling_of_both(monkeypatch, asked):
  watcher, clock = Stopping(**asked), Clock(monkeypatch)
  with pytest.raises(KeyboardInterrupt):
    drive([1.0] * 5, watcher=watcher, spend=clock.spend)
  _, state, totals, begun = watcher.saved
  clock.spend(10_000)  # Until somebody starts it again.
  _, (record, _) = drive([1.0] * 5, loop.Position(state, 1, begun, totals), spend=clock.spend)
  assert (record.seconds, record.images_per_second) == (5 * Clock.STEP, 20 / (5 * Clock.STEP))
  # The first start compiled before its first epoch, whose record has it.
  assert watcher.records[0].compile_seconds == record.compile_seconds == Clock.COMPILE + Clock.COMPILE_EVALUATION


def test_a_run_saved_within_its_first_epoch_records_the_compiling_of_both_starts(monkeypatch):
  watcher, clock = Stopping(due_at=2), Clock(monkeypatch)
  with pytest.raises(KeyboardInterrupt):
    drive([1.0] * 5, watcher=watcher, spend=clock.spend)
  _, state, totals, begun = watcher.saved
  assert begun == loop.Begun(2, 2 * Clock.STEP, Clock.COMPILE)  # Evaluation is compiled at the epoch's end.
  _, (record, *_) = drive([1.0] * 5, loop.Position(state, 0, begun, totals), spend=clock.spend)
  assert record.compile_seconds == 2 * Clock.COMPILE + Clock.COMPILE_EVALUATION
  assert record.seconds == 5 * Clock.STEP


def test_progress_has_the_seconds_of_the_images_that_it_counts(monkeypatch):
  told, clock = [], Clock(monkeypatch)
  watcher = Watcher()
  watcher.progress = lambda epoch, images, seconds, loss, error: told.append((epoch, images, seconds))
  # The epoch under way: two steps of eight images took three times as long as steps here do.
  totals = Totals(jnp.int32(8), jnp.float32(8), jnp.int32(0), jnp.int32(0))
  begun = loop.Begun(2, 6 * Clock.STEP)
  start = TrainState(jnp.int32(7), {}, {}, ())
  drive([1.0] * 5, loop.Position(start, 1, begun, totals), watcher=watcher, spend=clock.spend)
  assert told[:2] == [(2, 16, 8 * Clock.STEP), (2, 20, 9 * Clock.STEP)]
  assert told[2:] == [(3, 8, 2 * Clock.STEP), (3, 16, 4 * Clock.STEP), (3, 20, 5 * Clock.STEP)]


def test_a_start_compiles_what_is_ahead_of_it_alone():
  course = plan(keep_last_batch=True, steps_per_dispatch=2)
  assert course.first_dispatches(0, 0) == {4: (0, 0, 2), 2: (0, 20, 1)}
  assert course.first_dispatches(1, 3) == {4: (1, 12, 2), 2: (1, 20, 1)}
  # After an epoch's whole batches, or all, the next one's.
  assert course.first_dispatches(1, 5) == {4: (2, 0, 2), 2: (1, 20, 1)}
  assert course.first_dispatches(1, 6) == {4: (2, 0, 2), 2: (2, 20, 1)}
  assert course.first_dispatches(2, 5) == {2: (2, 20, 1)}
  assert course.first_dispatches(2, 6) == {}


def test_of_five_classes_no_top5_error_is_recorded():
  assert drive([1.0] * 5, classes=5)[1][0].test_top5_error is None
  assert drive([1.0] * 5, classes=6)[1][0].test_top5_error == 0.1


def test_a_resumed_loop_does_only_what_is_left():
  _, records = drive([1.0] * 5, loop.Position(TrainState(jnp.int32(10), {}, {}, ()), 2))
  assert [record.epoch for record in records] == [3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_rate(bad):
  with pytest.raises(loop.NotFiniteError, match=r"epoch 1, step 4 .*learning rate 0\.1"):
    drive([1.0, 1.0, 1.0, bad, 1.0])
  jax.effects_barrier()


def test_epochs_before_one_that_breaks_are_kept():
  watcher = Watcher()
  with pytest.raises(loop.NotFiniteError, match=r"epoch 2, step 8 .*learning rate 0\.1;"):
    drive([1.0] * 7 + [float("nan")] + [1.0] * 7, watcher=watcher)
  assert [record.epoch for record in watcher.records] == [1]


def test_an_evaluation_that_is_not_finite_stops_before_its_epoch_is_recorded():
  watcher = Watcher()
  with pytest.raises(loop.NotFiniteError, match="the loss on the test images is inf in epoch 1"):
    drive([1.0] * 5, test_loss=float("inf"), watcher=watcher)
  assert watcher.records == []
