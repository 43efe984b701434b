"""Compiles the training step under every remat policy, or the given one, and prints its cost; trains nothing."""

import dataclasses

from dn_jax.commands import command_line
from dn_jax.commands.network import DataName, input_of
from dn_jax.config.network import check_images, complete_model, name_of, remat_policies
from dn_jax.config.schema import Count, ModelConfig, Size
from dn_jax.planner import targets


def plan(
  model: ModelConfig = ModelConfig(),
  data: DataName = DataName(),
  image_size: Size | None = None,
  num_classes: Count | None = None,
  batch_size: Count = 64,
  statistics_groups: Count = 1,
  accumulation: Count = 1,
  target: tuple[str, ...] = ("here",),
) -> None:
  """Prints memory and time of a training step.

  Args:
    model: the network; with --model.remat, under that policy only.
    data: the data set of the images.
    image_size: height and width, instead of the data set's.
    num_classes: instead of the data set's.
    batch_size: images a step, over all devices of a target.
    statistics_groups: parts of the batch that are normalised separately.
    accumulation: parts of the batch that a device computes one after another, each of whole groups.
    target: here, v4, v5e, v5p, v6e (one chip), a slice such as v5e:2x2, or h100; no chip is needed.
  """
  for name in target:
    targets.check(name)
  asked_for = model.remat not in (None, "auto")
  complete = complete_model(model if asked_for else dataclasses.replace(model, remat="none"))
  policies = (complete.remat,) if asked_for else remat_policies(complete)
  shape, classes = input_of(complete, data, image_size, num_classes)
  check_images(complete, min(shape[:2]), batch_size, statistics_groups)
  from dn_jax.planner import plan as planner
  from dn_jax.report.plans import plan_table
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  question = planner.Question(complete, classes, shape, batch_size, statistics_groups, accumulation)
  console = command_line.console()
  for where in targets.targets(target):
    plans = {}
    for policy in policies:
      with console.status(f"compiling for {where.name}: {policy}"):
        plans[policy] = planner.plan(question.under(policy), where)
    title = f"{name_of(complete)}, batch {batch_size}, {complete.dtype}, on {where.described}"
    console.print(plan_table(plans, where, complete, batch_size, title))


main = command_line.program(plan, __doc__)
