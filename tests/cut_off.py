"""A run in this process that is cut off, as by a kill."""

from collections.abc import Callable
from unittest import mock

import pytest

from dn_jax import experiment


class Killed(BaseException):
  """Where it is cut off; nothing catches it."""


def cut_off(train: Callable[[], object], step: int) -> None:
  """Begins a run, which is gone when it has taken so many steps."""
  due = experiment.Recorder.due

  def cut(self: experiment.Recorder, done: int) -> object:
    if done == step:
      raise Killed
    return due(self, done)

  with mock.patch.object(experiment.Recorder, "due", cut), pytest.raises(Killed):
    train()
