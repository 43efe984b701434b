"""What a checkpoint says beside its arrays: how far the run was, and what wrote it.

Digests that fit show that nothing was damaged. Somebody else may have written both, so the rest is checked as anything
from outside is.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from dn_jax.config.check import STRICT, from_json
from dn_jax.errors import UserError, first_line
from dn_jax.runs.contents import EpochRecord
from dn_jax.training.loop import Begun, Plan

# Of Orbax and TensorStore, where a file holds what they do not expect.
_UNEXPECTED = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Position:
  """Where a run stood.

  history:   the records of all whole epochs
  begun:     the epoch under way
  made_with: versions of JAX
  network:   a digest of its arrays' shapes
  """

  __pydantic_config__ = STRICT

  history: tuple[EpochRecord, ...]
  begun: Begun
  made_with: str
  network: str


def of_record(record: Any) -> Position:
  """A position from a record of JSON's types; a `ValueError` refuses one that does not fit."""
  return from_json(Position, json.dumps(record))


def check(where: pathlib.Path, step: int, history: Sequence[EpochRecord], begun: Begun, plan: Plan) -> None:
  """Refuses a checkpoint that is of another step than its position says, or a position that the run never has.

  Args:
    where: the checkpoint, named by its step.
    step: of its arrays.
    history, begun: its position.
    plan: of the run.

  Raises:
    UserError: training on from it would skip or repeat steps.
  """
  each = plan.steps_per_epoch
  whole = [(record.epoch, record.step) for record in history] == [(n, n * each) for n in range(1, len(history) + 1)]
  within = len(history) <= plan.epochs and begun.steps <= each
  if not (whole and within and int(where.name) == step == len(history) * each + begun.steps):
    told = f"it says {len(history):,} epochs and {begun.steps:,} steps"
    fits = "move it elsewhere, and the same command goes on"
    raise UserError(f"{where}: is of step {step:,}, and {told}, which is no place of this run; {fits}")


@contextlib.contextmanager
def read(where: pathlib.Path, which: str = "it") -> Iterator[None]:
  """Turns an error of what a checkpoint, or `which` of a folder of them, holds into one line, a `UserError`."""
  try:
    yield
  except Exception as error:
    if not isinstance(error, _UNEXPECTED) and type(error) is not Exception:  # A bare one is of a file that is gone.
      raise
    fits = f"move {which} elsewhere, and the same command goes on"
    raise UserError(f"{where}: cannot be read ({first_line(error)}); {fits}") from error
