"""A table of plans: what a training step takes under each remat policy."""

from collections.abc import Mapping

import rich.table

from dn_jax import planner
from dn_jax.configuration import ModelConfig
from dn_jax.targets import Target

_MIB = 2**20


def table(
  plans: Mapping[str, planner.Plan], where: Target, model: ModelConfig, pictures: int, title: str
) -> rich.table.Table:
  """A row a policy, figures of one device; a dash where the compiler does not say.

  Args:
    plans: by policy.
    where: what they were compiled for.
    model: the network.
    pictures: that all devices and runs take in a step.
    title: of the table.
  """
  memory = "unknown" if where.memory is None else f"{where.memory / 2**30:,.1f} GiB"
  caption = f"of one device; its memory: {memory}; compiled by {where.compiler}"
  if where.chip:
    caption += "\nat least: an estimate, from the chip's published peak and bandwidth; a real step takes longer"
  cycles = any(plan.cycles for plan in plans.values())
  if cycles:
    caption += "\ncycles: the compiler's estimate, instructions one after another"
  if any(plan.loops for plan in plans.values()):
    caption += "\nthe program has loops; what is inside one counts once in FLOPs, traffic and cycles"
  result = rich.table.Table(title=title, caption=caption, caption_justify="left")
  sizes, costs, rest = ("temporaries", "arguments", "peak", "fits"), ("GFLOPs", "GB moved"), ("at least", "exchanged")
  columns = ("remat", *sizes, *costs, *(["cycles"] if cycles else []), *rest)
  for column in columns:
    result.add_column(column, justify="left" if column in ("remat", "exchanged") else "right")
  for policy, plan in plans.items():
    if plan.refusal:
      result.add_row(policy, "", "", "", "no", *[""] * (len(columns) - 6), plan.refusal)
      continue
    seconds = planner.seconds(plan, where, model)
    result.add_row(
      policy,
      *(f"{size / _MIB:,.0f} MiB" for size in (plan.temporaries, plan.arguments, plan.peak)),
      "yes" if plan.fits(where.memory) else "no",
      *("-" if value is None else f"{value / 1e9:,.1f}" for value in (plan.flops, plan.traffic)),
      *(["-" if plan.cycles is None else f"{plan.cycles / 1e6:,.2f} M"] if cycles else []),
      "-" if seconds is None else f"{1000 * seconds:,.1f} ms, {pictures / seconds:,.0f} pictures/s",
      ", ".join(f"{count} {kind}, {size / _MIB:,.2f} MiB" for kind, (count, size) in plan.collectives.items()) or "-",
    )
  return result
