"""What the runs of a sweep would take on one chip of a kind that need not be there: an estimate by its compiler."""

import dataclasses
from collections.abc import Sequence

import rich.console
import rich.markup

from dn_jax.config.datasets import DatasetInfo
from dn_jax.config.network import name_of
from dn_jax.config.schema import RunConfig
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.planner import asking, kept, policy, targets
from dn_jax.planner.estimate import estimate
from dn_jax.planner.plan import Question

# Minutes after which a compiler is stopped.
_MINUTES = 40.0


@dataclasses.dataclass(frozen=True)
class Chips:
  """Kinds of chips.

  names: as `dn_jax.planner.targets.CHIPS` has them
  asked: whether the compilers are asked for what is not kept
  """

  names: tuple[str, ...] = ()
  asked: bool = False


def chips(names: Sequence[str]) -> Chips:
  """The chips of a sweep's flag; without it those whose answers come with the package.

  Raises:
    ConfigurationError: a name of no chip.
  """
  targets.check_chips(names)
  there = dict.fromkeys(each.target for each in kept.answers())
  return Chips(tuple(names), asked=True) if names else Chips(tuple(there))


def seconds(config: RunConfig, info: DatasetInfo, where: Chips, console: rich.console.Console) -> dict[str, float]:
  """Seconds of a resolved run's training step on one chip by its name; without those that are unknown.

  `info` is of its data set, opened. A kept answer in another dtype, or of another number of classes, counts.
  """
  question = Question(
    config.model, info.num_classes, info.image_shape, config.batch_size, config.statistics_groups, config.accumulation
  )
  found = {name: _seconds(question, name, where.asked, console) for name in where.names}
  return {name: time for name, time in found.items() if time is not None}


def _seconds(question: Question, name: str, asked: bool, console: rich.console.Console) -> float | None:
  one_policy = question.model.remat not in (None, "auto")
  answers = [each for each in kept.near(question, name) if not one_policy or each.policy == question.model.remat]
  times = []
  for each in answers:
    where = targets.kept(name, each.compiler)
    if each.plan and each.plan.fits(where.memory) and (time := estimate(each.plan, where, question.model)):
      times.append(time.seconds)
  if times or not asked:
    return min(times, default=None)
  chosen = question.model.remat if one_policy else policy.on_chip(question, name)[0]
  title = rich.markup.escape(f"{name_of(question.model)}, {chosen}, for {name}")
  try:
    with console.status(f"compiling {title}"):
      told = asking.ask(question.under(chosen), name, _MINUTES)
  except asking.Unfinished:
    console.print(f"{title}: not finished in {_MINUTES:.0f} minutes", highlight=False)
    return None
  except ConfigurationError:  # Its compiler is not installed.
    raise
  except UserError as error:
    console.print(f"{title}: {error}", highlight=False)
    return None
  where = targets.kept(name, told.compiler)
  if not told.plan.fits(where.memory):
    console.print(f"{title}: does not fit", highlight=False)
    return None
  time = estimate(told.plan, where, question.model)
  return time.seconds if time else None
