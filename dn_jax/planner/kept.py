"""Answers of the compiler that come with the package, so that nobody waits for them: `kept.json`.

`python -m dn_jax plan --zoo --target v5e --keep FILE` asks for them, which takes hours.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from dn_jax.config.check import to_dict
from dn_jax.config.nested import is_unsaid
from dn_jax.config.network import policy_of
from dn_jax.config.schema import RematPolicy
from dn_jax.errors import UserError
from dn_jax.planner.asking import Told
from dn_jax.planner.plan import Plan, Question, plan_of, sources
from dn_jax.planner.targets import CHIPS
from dn_jax.system import folders

FILE = pathlib.Path(__file__).with_name("kept.json")
# Images that a TPU computes at once: fewer take the same time.
LANES = 128
# Fields that change a step's time little, or its memory in a known way.
_ASIDE = ("name", "remat", "dtype", "precision", "dropout", "epsilon", "convolution_init", "classifier_init")


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a compiler said of one training step.

  network:  its name in the zoo
  target:   one chip
  question: the step, see `asked`
  compiler: its name and versions
  program:  see `dn_jax.planner.plan.program_of`
  sources:  see `dn_jax.planner.plan.sources`
  minutes:  that the compiler took, or after which it was stopped
  plan:     None where it was not finished
  """

  network: str
  target: str
  policy: RematPolicy
  question: dict[str, Any]
  compiler: str
  program: str
  sources: str
  minutes: float
  plan: Plan | None

  @property
  def current(self) -> bool:
    """Whether it is of the step as it is now."""
    return self.sources == sources()

  @property
  def described(self) -> str:
    """Whose answer it is, and of which step."""
    earlier = "" if self.current else "; of an earlier version of the step"
    return f"{self.compiler}, kept with the package{earlier}"


def asked(question: Question) -> dict[str, Any]:
  """A question as JSON, all but its policy. Flags that were added later are left out where they say nothing."""
  model = dataclasses.replace(question.model, name=None, remat=None, dropout=question.model.dropout or 0.0)
  unsaid = [field.name for field in dataclasses.fields(model) if is_unsaid(field, getattr(model, field.name))]
  said = {name: value for name, value in to_dict(model).items() if name not in unsaid}
  return json.loads(json.dumps(dataclasses.asdict(question) | {"model": said}))


def answers(path: pathlib.Path | None = None) -> tuple[Answer, ...]:
  """The answers of a file, by default of the package's; none where there is no such file."""
  return _read(path or FILE)


@functools.cache
def _read(path: pathlib.Path) -> tuple[Answer, ...]:
  if not path.exists():
    return ()
  return tuple(
    Answer(**record | {"plan": record["plan"] and plan_of(record["plan"])}) for record in json.loads(path.read_text())
  )


def keep(answer: Answer, path: pathlib.Path) -> None:
  """Puts an answer into a file, in the place of one to the same question."""
  others = [each for each in answers(path) if _place(each) != _place(answer)]
  records = [dataclasses.asdict(each) for each in sorted([*others, answer], key=_place)]
  folders.write_whole(path, json.dumps(records, indent=1) + "\n")
  _read.cache_clear()


def answer(network: str, target: str, question: Question, told: Told, minutes: float) -> Answer:
  """An answer to keep.

  Args:
    network: its name in the zoo.
    target: one chip.
    question: with its policy.
    told: by the compiler.
    minutes: that it took, or after which it was stopped.

  Raises:
    UserError: the code that it would be an answer for may not be the one that was compiled.
  """
  # Unchanged since this process began, and so since the one that asked the compiler began.
  if (code := sources()) is None:
    raise UserError("files of the package changed while the compiler was asked; nothing is kept, start again")
  policy, asked_ = policy_of(question.model), asked(question)
  return Answer(network, target, policy, asked_, told.compiler, told.program, code, round(minutes, 1), told.plan)


def _place(answer: Answer) -> tuple[str, ...]:
  return (answer.target, answer.network, json.dumps(answer.question, sort_keys=True), answer.policy)


def exact(question: Question, target: str, path: pathlib.Path | None = None) -> Answer | None:
  """The answer to a question under its policy."""
  wanted, policy = asked(question), policy_of(question.model)
  found = (each for each in answers(path) if (each.target, each.policy, each.question) == (target, policy, wanted))
  return next(found, None)


def near(question: Question, target: str, path: pathlib.Path | None = None) -> list[Answer]:
  """The answers for a network on one chip under any policy: of its size and batch, whatever dtype, dropout and classes.

  Of one policy the answer in the question's own dtype alone, where there is one.
  """
  wanted = _size(asked(question))
  found: dict[str, Answer] = {}
  for each in answers(path):
    if each.target != target or _size(each.question) != wanted:
      continue
    if each.policy not in found or each.question["model"]["dtype"] == question.model.dtype:
      found[each.policy] = each
  return list(found.values())


def of_chip(question: Question, devices: Sequence[Any], kind: str, path: pathlib.Path | None = None) -> list[Answer]:
  """`near`, for a chip of several that share a batch: a TPU computes its images in lanes, so a full lane counts."""

  def filled(images: int) -> int:
    return -(-images // LANES) * LANES if CHIPS[kind].flops_a_cycle else images

  share = question.batch_size // max(len(devices), 1)
  sizes = {each.question["batch_size"] for each in answers(path)}
  fitting = [size for size in sorted(sizes, reverse=True) if filled(size) == filled(share)]
  # Groups are of the whole batch; one device has those of its share. A size may be of other networks or chips alone.
  found = (near(dataclasses.replace(question, batch_size=size, groups=1), kind, path) for size in fitting)
  return next(filter(None, found), [])


def _size(question: dict[str, Any]) -> dict[str, Any]:
  """What of a question decides a step's time, but for what `_ASIDE` names."""
  model = {name: value for name, value in question["model"].items() if name not in _ASIDE}
  return question | {"model": model, "num_classes": None}
