"""The contents of a run's records: one schema for each, see `dn_jax.runs.records`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from dn_jax.config.check import STRICT
from dn_jax.config.schema import ClassImages, Count, NotNegative, Whole

Fraction = Annotated[float, Ge(0), Le(1)]
Percent = Annotated[float, Ge(0), Le(100)]
# Of so many classes, or fewer, a top-5 error says nothing.
MEANINGLESS_TOP5 = 5
# Of more classes no errors are recorded class by class.
MOST_CLASSES = 20
# Steps, parameters, FLOPs: may be beyond int32.
Large = Annotated[int, Ge(0), Lt(2**63)]


def _may_lack() -> Any:
  """A field that is not written where it is None; it stands anywhere among those that must be there."""
  return dataclasses.field(default=None, metadata={"may_lack": True}, kw_only=True)


@dataclasses.dataclass(frozen=True)
class EpochRecord:
  """One line of metrics.jsonl.

  Errors are fractions of 1; `epoch` and `step` count from 1; None where there is no such split. `seconds` are of
  training, and contain `waiting_seconds`, in which a streamed data set's images were not ready. `compile_seconds`, of
  the starts before or within the epoch, count in none of the others; left out where nothing was compiled (in records of
  an earlier version, whose other times contain it). `test_top5_error` is left out for five classes or fewer.
  `test_class_errors` are in the order of the labels, None for a class without a test image; left out for more than 20
  classes.
  """

  __pydantic_config__ = STRICT

  epoch: Count
  step: Large
  learning_rate: NotNegative
  train_loss: float
  train_error: Fraction
  valid_loss: float | None
  valid_error: Fraction | None
  test_loss: float
  test_error: Fraction
  test_top5_error: Fraction | None = _may_lack()
  seconds: NotNegative
  evaluation_seconds: NotNegative
  images_per_second: NotNegative
  waiting_seconds: NotNegative = 0.0
  compile_seconds: NotNegative | None = _may_lack()
  test_class_errors: tuple[Fraction | None, ...] | None = _may_lack()


@dataclasses.dataclass(frozen=True)
class Data:
  """data.json: identifies the images of a run."""

  __pydantic_config__ = STRICT

  pictures: dict[str, Whole]
  """By split."""
  labels: str
  """A digest."""
  classes: tuple[ClassImages, ...] | tuple[str, ...] | None = _may_lack()
  """Of a streamed data set: names and numbers of images; names alone by the first rule."""
  unverified: tuple[str, ...] | None = _may_lack()
  """Files whose MD5 sum is not their makers', where the images come from such files; no part of what the images are."""
  split_rule: Literal[2] | None = _may_lack()
  """See `dn_jax.data.splits`; without it the first rule."""

  @property
  def names(self) -> tuple[str, ...] | None:
    """The classes' names, where known."""
    if self.classes is None:
      return None
    return tuple(each.name if isinstance(each, ClassImages) else each for each in self.classes)


@dataclasses.dataclass(frozen=True)
class ClassError:
  """The error of one class, in percent; None where it has no image."""

  __pydantic_config__ = STRICT

  name: str
  error: Percent | None


@dataclasses.dataclass(frozen=True)
class Summary:
  """summary.json: the results of a finished run. Times, in seconds, are of the whole run.

  `test_top5_error_percent` is left out for five classes or fewer.
  """

  __pydantic_config__ = STRICT

  test_error_percent: Percent
  test_top5_error_percent: Percent | None = _may_lack()
  reported: Literal["last", "best"]
  reported_epoch: Count
  valid_error_percent: Percent | None
  parameters: Large
  flops: Large
  epochs: Count
  seconds: NotNegative
  evaluation_seconds: NotNegative
  images_per_second: NotNegative
  network: str
  data: str
  seed: Annotated[int, Ge(0), Lt(2**32)]
  remat: str
  devices: str
  python: str
  versions: dict[str, str]
  commit: str | None = None
  saving_seconds: NotNegative | None = _may_lack()
  """Time that the run waited for saving."""
  compile_seconds: NotNegative | None = _may_lack()
  """Time that compiling took, at all starts; no part of the other times, but of those that an earlier version took."""
  test_class_errors_percent: tuple[ClassError, ...] | None = _may_lack()
  """In the order of the labels; left out for more than 20 classes."""


# Fields of `Summary` as earlier versions named them: like the fractions of metrics.jsonl, though they are percentages.
EARLIER_NAMES = {
  name: f"{name}_percent" for name in ("test_error", "test_top5_error", "valid_error", "test_class_errors")
}


@dataclasses.dataclass(frozen=True)
class Failure:
  """failure.json: how a run that a sweep started last failed."""

  __pydantic_config__ = STRICT

  error: str
  exit_code: int | None
  """None for a run that was never started."""
  at: str


def class_errors(errors: Sequence[float | None], names: Sequence[str] | None) -> tuple[ClassError, ...]:
  """Errors of classes, fractions of 1, with their names, or where these are unknown their numbers."""
  return tuple(
    ClassError(name, None if error is None else 100 * error)
    for name, error in zip(names or map(str, range(len(errors))), errors, strict=True)
  )
