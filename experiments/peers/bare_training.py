"""Trains DenseNet-BC on CIFAR-10 until a given time, on a bare machine; a part of experiments/accelerator.py.

  python experiments/peers/bare_training.py QUESTION

QUESTION is JSON: data (an npz file), depth, growth_rate, batch_size, policy, epochs (at most) and until (seconds since
1970). Images lie on the device and are augmented there, as in a run of the package. Prints a line of JSON when the
schedule is known, and one after each epoch.
"""

import functools
import json
import math
import sys
import time

import bare_peer
import jax
import numpy as np
import optax
import worker

from dn_jax.config.datasets import CATALOG
from dn_jax.data.augment import epoch_order, mirror_and_shift, normalise
from dn_jax.distributed.layout import make_layout_of_one, replicate
from dn_jax.models import initial
from dn_jax.system import child_processes
from dn_jax.training import resident, step

# The published protocol.
RATE, DROPS, PUBLISHED_EPOCHS = 0.1, (0.5, 0.75), 300
# Share of the time that is planned with.
_PLANNED = 0.97
# Seconds for which steps are timed before the schedule is made.
_TIMED = 3.0


def drops_of(epochs: int) -> list[int]:
  """The first epochs, counted from 0, at each lower rate."""
  return [math.ceil(share * epochs) for share in DROPS]


def epochs_within(seconds: float, of_an_epoch: float, most: int) -> int:
  """How many epochs of so many seconds fit, at most `most`; 0 where none does."""
  return max(0, min(most, math.floor(_PLANNED * seconds / of_an_epoch)))


class Training:
  """A network, its images on the device, and compiled steps whose learning rate is an argument.

  data: train_images, train_labels, test_images, test_labels
  """

  def __init__(self, data: dict[str, np.ndarray], question: dict):
    self.layout = make_layout_of_one()
    self.batch_size = question["batch_size"]
    self.network = bare_peer.network(question["depth"], question["growth_rate"], question["policy"], "bfloat16")
    # The rate is part of the state, so that one program serves whatever schedule fits.
    self.sgd = optax.inject_hyperparams(bare_peer.sgd)(rate=RATE)
    self.weights_key, self.order_key, *keys = jax.random.split(jax.random.key(0), 4)
    info = CATALOG["cifar10"]
    plain = functools.partial(normalise, mean=np.asarray(info.mean), std=np.asarray(info.std))
    shift = functools.partial(mirror_and_shift, mirror=info.mirror, pad=info.pad)
    prepare = lambda images, key, numbers: shift(plain(images), key, numbers)
    # As a run of the package on each back end.
    self.steps_per_command = 1 if jax.default_backend() == "cpu" else 32
    self._advance = resident.make_advance(
      step.make_train_step(self.network, self.sgd), prepare, self.layout, *keys, self.steps_per_command
    )
    self._evaluate = resident.make_evaluate(step.make_eval_step(self.network), plain, self.layout, 256)
    self.train, self.test = (
      replicate(
        resident.DeviceSplit(data[f"{split}_images"], data[f"{split}_labels"].astype(np.int32)), self.layout.mesh
      )
      for split in ("train", "test")
    )
    self.steps_per_epoch = len(data["train_labels"]) // self.batch_size

  def fresh_state(self) -> step.TrainState:
    variables = initial.variables(self.network, self.weights_key, bare_peer.IMAGE_SHAPE)
    state = jax.jit(lambda variables: step.state_of(variables, self.sgd))(variables)
    return replicate(state, self.layout.mesh)

  def steps(self, state: step.TrainState, epoch: int, rate: float, count: int) -> tuple[step.TrainState, step.Totals]:
    """The first `count` steps of an epoch at a learning rate; returns the new state and the steps' totals."""
    rates = state.opt_state.hyperparams | {"rate": replicate(np.float32(rate), self.layout.mesh)}
    state = state.replace(opt_state=state.opt_state._replace(hyperparams=rates))
    numbers = replicate(epoch_order(self.order_key, epoch, len(self.train.labels)), self.layout.mesh)
    totals = step.Totals.zero_beside(self.train.labels)
    for first in range(0, count, self.steps_per_command):
      some = min(self.steps_per_command, count - first)
      state, totals, _ = self._advance(
        state, totals, self.train, numbers, first * self.batch_size, some, batch_size=self.batch_size
      )
    return state, totals

  def tested(self, state: step.TrainState) -> step.Totals:
    return self._evaluate(state.params, state.batch_stats, self.test, lambda: None)

  def timed(self) -> tuple[float, float]:
    """Seconds of a step and of testing, once both are compiled."""
    state, count, seconds = self.fresh_state(), min(self.steps_per_command, self.steps_per_epoch), 0.0
    for _ in range(2):  # The second time, since compiling a step clears what the host has traced for it.
      state, totals = self.steps(state, 0, RATE, count)
      totals.means()
      self.tested(state).means()
    while True:
      started = time.perf_counter()
      state, totals = self.steps(state, 0, RATE, count)
      totals.means()
      seconds = time.perf_counter() - started
      if seconds > _TIMED / 2 or count == self.steps_per_epoch:
        break
      count = min(self.steps_per_epoch, max(2 * count, int(count * _TIMED / seconds)))
    started = time.perf_counter()
    self.tested(state).means()
    return seconds / count, time.perf_counter() - started


def main(question: dict) -> None:
  answer = worker.answering()
  with np.load(question["data"], allow_pickle=False) as file:
    training = Training({name: file[name] for name in file.files}, question)
  of_a_step, of_testing = training.timed()
  of_an_epoch = training.steps_per_epoch * of_a_step + of_testing
  left = question["until"] - time.time()
  epochs = epochs_within(left, of_an_epoch, question["epochs"])
  if not epochs:
    raise RuntimeError(f"an epoch takes {of_an_epoch:.0f} s, and {max(left, 0):.0f} s are left")
  drops = drops_of(epochs)
  answer(
    epochs=epochs,
    published_epochs=PUBLISHED_EPOCHS,
    drops=drops,
    steps_per_epoch=training.steps_per_epoch,
    planned_step_ms=1000 * of_a_step,
    steps_per_command=training.steps_per_command,
    testing_seconds=of_testing,
  )
  state = training.fresh_state()
  for epoch in range(epochs):
    started = time.perf_counter()
    rate = RATE * 0.1 ** sum(epoch >= drop for drop in drops)
    state, totals = training.steps(state, epoch, rate, training.steps_per_epoch)
    trained = totals.means()
    seconds = time.perf_counter() - started
    tested = training.tested(state).means()
    numbers = {
      **{f"train_{name}": trained[name] for name in ("loss", "error")},
      **{f"test_{name}": tested[name] for name in ("loss", "error")},
    }
    answer(
      epoch=epoch + 1,
      rate=rate,
      seconds=seconds,
      device_peak=bare_peer.device_peak(),
      # A loss that is no number is none in JSON.
      **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
    )


if __name__ == "__main__":
  child_processes.hold()
  main(json.loads(sys.argv[1]))
