"""Compiles the training step under every remat policy, or the given one, and prints its cost; trains nothing."""

import dataclasses

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.commands.network import DataName, input_of
from dn_jax.config.network import check_images, complete_model, name_of, remat_policies
from dn_jax.config.schema import Count, ModelConfig, Size
from dn_jax.planner import targets


@dataclasses.dataclass(frozen=True)
class Step:
  model: ModelConfig = ModelConfig()
  """The network; with --model.remat, under that policy only."""
  data: DataName = DataName()
  image_size: Size | None = None
  """Height and width, instead of the data set's."""
  num_classes: Count | None = None
  """Instead of the data set's."""
  batch_size: Count = 64
  """Images a step, over all devices of a target."""
  statistics_groups: Count = 1
  """Parts of the batch that are normalised separately."""
  accumulation: Count = 1
  """Parts of the batch that a device computes one after another, each of whole groups."""
  target: tuple[str, ...] = ("here",)
  """here, v4, v5e, v5p, v6e (one chip), a slice such as v5e:2x2, or h100; no chip is needed."""


def plan(asked: Step) -> None:
  """Prints memory and time of a training step."""
  for name in asked.target:
    targets.check(name)
  model, batch_size, groups = asked.model, asked.batch_size, asked.statistics_groups
  one_policy = model.remat not in (None, "auto")
  complete = complete_model(model if one_policy else dataclasses.replace(model, remat="none"))
  policies = (complete.remat,) if one_policy else remat_policies(complete)
  shape, classes = input_of(complete, asked.data, asked.image_size, asked.num_classes)
  check_images(complete, min(shape[:2]), batch_size, groups)
  from dn_jax.planner import plan as planner
  from dn_jax.report.plans import plan_table
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  question = planner.Question(complete, classes, shape, batch_size, groups, asked.accumulation)
  console = command_line.console()
  for where in targets.targets(asked.target):
    plans = {}
    for policy in policies:
      with console.status(f"compiling for {where.name}: {policy}"):
        plans[policy] = planner.plan(question.under(policy), where)
    title = f"{name_of(complete)}, batch {batch_size}, {complete.dtype}, on {where.described}"
    console.print(plan_table(plans, where, complete, batch_size, title))


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  command_line.main(lambda: plan(parse(Step, __doc__)))
