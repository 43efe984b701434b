"""When a run saves within an epoch."""

import time

import jax
import numpy as np


class Rhythm:
  """Steps or minutes between two checkpoints.

  Args:
    every_steps: multiples of this are due, or the first point after one where a run can be saved.
    every_minutes: since the last checkpoint. Of several processes the first one's clock counts.
    step: where the run begins or goes on.
  """

  # Commands to the device between two looks at the first process's clock, which cost an exchange.
  _LOOK_EVERY = 16

  def __init__(self, every_steps: int | None, every_minutes: float | None, step: int):
    self._every_steps = every_steps
    self._every_minutes = every_minutes
    self._commands = 0
    self.saved(step)

  def saved(self, step: int) -> None:
    """A checkpoint was taken so many steps on."""
    self._step, self._time = step, time.monotonic()

  def due(self, step: int) -> bool:
    """Asked after each command, by each process equally often; all get the same answer."""
    if self._every_steps and step // self._every_steps > self._step // self._every_steps:
      return True
    if not self._every_minutes:
      return False
    late = time.monotonic() - self._time >= 60 * self._every_minutes
    if jax.process_count() == 1:
      return late
    self._commands += 1
    if self._commands % self._LOOK_EVERY:
      return False
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(late)))
