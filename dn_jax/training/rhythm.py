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

  # Seconds, about, between two looks at the first process's clock, which cost an exchange.
  _LOOK_EVERY = 10.0

  def __init__(self, every_steps: int | None, every_minutes: float | None, step: int):
    self._every_steps = every_steps
    self._every_minutes = every_minutes
    # Commands to the device between the last look and the next, those since, and when it was.
    self._between, self._commands, self._looked = 1, 0, time.monotonic()
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
    if self._commands < self._between:
      return False
    from jax.experimental import multihost_utils

    fitting = int(self._between * self._LOOK_EVERY / max(1e-9, time.monotonic() - self._looked))
    # At most twice as many: commands are under way when they are counted.
    own = np.asarray([late, min(max(1, fitting), 2 * self._between)], np.int32)
    late, self._between = map(int, multihost_utils.broadcast_one_to_all(own))
    self._commands, self._looked = 0, time.monotonic()
    return bool(late)
