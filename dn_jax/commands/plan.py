"""Memory and time of a training step under every remat policy, or a given one, by the compiler; trains nothing.

  python -m dn_jax plan --model.depth 40 --batch-size 128
  python -m dn_jax plan --model.name densenet-bc-100-12 --target v5e h100
  python -m dn_jax plan --zoo --target v5e

A chip need not be there. Its compiler takes minutes for a network; for some networks and chips the answers come with
the package.
"""

import dataclasses
import pathlib
from typing import Annotated

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.commands.network import DataName, input_of
from dn_jax.config import zoo
from dn_jax.config.families import FAMILIES
from dn_jax.config.network import check_images, complete_model, name_of, remat_policies
from dn_jax.config.schema import Count, ModelConfig, Positive, Size, Unset
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.planner import targets


@dataclasses.dataclass(frozen=True)
class Step:
  model: ModelConfig = ModelConfig()
  """The network; with --model.remat, under that policy only."""
  data: DataName = DataName()
  image_size: Annotated[Size | None, Unset("the data set's")] = None
  """Take images of this height and width, in pixels."""
  num_classes: Annotated[Count | None, Unset("the data set's")] = None
  """Take so many classes."""
  batch_size: Count = 64
  """Take so many images per step, over all devices of a target."""
  statistics_groups: Count = 1
  """Normalise so many equal parts of a batch separately; 1: the whole batch."""
  accumulation: Count = 1
  """Process a device's batch in so many pieces, one after another, each of whole groups."""
  target: tuple[str, ...] = ("here",)
  """Compile for here, for one chip (v4, v5e, v5p, v6e, h100), or for a TPU slice such as v5e:2x2."""
  compile: bool = False
  """Ask the compiler even where answers for a chip come with the package."""
  zoo: bool = False
  """Print what the paper's DenseNets for CIFAR take on a chip, in bfloat16, by the answers that come with the package,
  or are in --keep."""
  keep: Annotated[pathlib.Path | None, Unset("the answers that come with the package")] = None
  """With --zoo: keep answers in this file; those that it lacks are asked for as the table needs them, which takes
  hours."""
  minutes: Positive = 40.0
  """With --keep: wait at most so many minutes for one answer."""
  markdown: bool = False
  """With --zoo: print the table as Markdown."""


def plan(asked: Step) -> None:
  """Prints memory and time of a training step.

  Raises:
    ConfigurationError: a value that does not fit, or a target whose memory no policy fits.
  """
  for name in asked.target:
    targets.check(name)
  command_line.check_file("keep", asked.keep)
  if asked.zoo:
    return of_zoo(asked)
  if asked.keep:
    raise ConfigurationError("keep", asked.keep, "is for --zoo")
  return of_network(asked)


def of_network(asked: Step) -> None:
  """The table of one network on each target."""
  model, batch_size, groups = asked.model, asked.batch_size, asked.statistics_groups
  one_policy = model.remat not in (None, "auto")
  complete = complete_model(model if one_policy else dataclasses.replace(model, remat="none"))
  policies = (complete.remat,) if one_policy else remat_policies(complete)
  shape, classes = input_of(complete, asked.data, asked.image_size, asked.num_classes)
  check_images(complete, min(shape[:2]), batch_size, groups)
  from dn_jax.planner import kept
  from dn_jax.planner import plan as planner
  from dn_jax.report.plans import plan_table
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  question = planner.Question(complete, classes, shape, batch_size, groups, asked.accumulation)
  console = command_line.console()
  known = {name: [] if asked.compile else kept.near(question, name) for name in asked.target}
  known = {name: [each for each in found if each.policy in policies] for name, found in known.items()}
  loaded = iter(targets.targets([name for name in asked.target if not known[name]]))
  for name in asked.target:
    if answers := known[name]:
      where = targets.kept(name, answers[0].described)
      plans = {each.policy: each.plan for each in answers if each.plan}
      dtype = answers[0].question["model"]["dtype"]
    else:
      where, plans, dtype = next(loaded), {}, complete.dtype
      for policy in policies:
        with console.status(f"compiling for {where.name}: {policy}"):
          plans[policy] = planner.plan(question.under(policy), where)
    title = f"{name_of(complete)}, batch {batch_size}, {dtype}, on {where.described}"
    console.print(plan_table(plans, where, dataclasses.replace(complete, dtype=dtype), batch_size, title))
    for each in answers:
      if each.plan is None:
        console.print(f"{each.policy}: not finished in {each.minutes:.0f} minutes")
    if answers:
      of = f"{dtype}, {answers[0].question['num_classes']} classes"
      console.print(f"these answers ({of}) come with the package; --compile asks for your own", highlight=False)
    if plans and not any(each.fits(where.memory) for each in plans.values()):
      raise ConfigurationError("target", name, f"lacks the memory for it under {' or '.join(plans)}")


def of_zoo(asked: Step) -> None:
  """The table of the paper's DenseNets for CIFAR on each target; asks for what --keep lacks."""
  targets.check_chips(asked.target)
  one_policy = asked.model.remat not in (None, "auto")
  from dn_jax.planner import asking, kept, policy
  from dn_jax.planner.plan import Question
  from dn_jax.report.zoo_plans import zoo_table

  console = command_line.console()
  path = asked.keep or kept.FILE
  networks = sorted(zoo.paper_densenets(), key=lambda entry: entry.counted.flops)
  questions = {
    entry.name: Question(
      complete_model(ModelConfig(name=entry.name, dtype="bfloat16")), 10, (32, 32, 3), asked.batch_size
    )
    for entry in networks
  }
  # The policy that runs unless told of every network first: its answers are those that a person waits for.
  default = {name: FAMILIES[question.model.family].tpu_remat(question.model) for name, question in questions.items()}
  wanted = [
    (name, question, remat)
    for name, question in questions.items()
    for remat in ((asked.model.remat,) if one_policy else policy.ladder(question))
    if remat in remat_policies(question.model)
  ]
  wanted.sort(key=lambda each: each[2] != default[each[0]])
  for target in asked.target:
    for name, question, remat in wanted if asked.keep else ():
      there = kept.exact(question.under(remat), target, path)
      enough = there and (there.plan or there.minutes >= asked.minutes)
      if enough and there.current:
        continue
      known = asking.Known(there.compiler, there.program, there.plan) if enough else None
      try:
        with console.status(f"compiling for {target}: {name}, {remat}"):
          told = asking.ask(question.under(remat), target, asked.minutes, known)
      except asking.Unfinished as late:
        told = asking.Told(None, late.compiler, late.program, asked.minutes)
      except ConfigurationError:
        raise
      except UserError as error:
        console.print(f"{name}, {remat}: {error}", highlight=False)
        continue
      minutes = there.minutes if told.minutes is None else told.minutes
      kept.keep(kept.answer(name, target, question.under(remat), told, minutes), path)
      took = f"{minutes:.1f} minutes" if told.plan else f"not finished in {minutes:.0f} minutes"
      before = " (for an earlier version of the code, which made the same program)" if told.minutes is None else ""
      console.print(f"{target}: {name}, {remat}: {took}{before}", highlight=False)
    answers = {name: kept.near(question, target, path) for name, question in questions.items()}
    table = zoo_table(answers, target, asked.batch_size)
    print(table.markdown()) if asked.markdown else console.print(table.rich())


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  command_line.main(lambda: plan(parse(Step, __doc__)))
