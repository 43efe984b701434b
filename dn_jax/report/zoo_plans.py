"""The table of what the paper's networks take on a chip: a step by its compiler, and the published training."""

from collections.abc import Mapping, Sequence

from dn_jax.config import protocol, zoo
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.planner import targets
from dn_jax.planner.estimate import Estimate, estimate
from dn_jax.planner.kept import Answer
from dn_jax.report.grid import Grid

_MIB = 2**20
# That CIFAR has for training.
_IMAGES = 50_000


def zoo_table(found: Mapping[str, Sequence[Answer]], target: str, batch_size: int) -> Grid:
  """A row for each network, under the fastest of the policies that were asked for and fit.

  Args:
    found: the answers by the network's name in the zoo; those without an answer have a row too.
    target: the chip.
    batch_size: images of a step.
  """
  rows, notes, compilers = [], [], {}
  for name, answers in found.items():
    compilers |= {each.described: None for each in answers}
    title = zoo.NETWORKS[name].title
    slow = [f"{each.policy} not finished in {each.minutes:.0f} minutes" for each in answers if each.plan is None]
    if slow:
      notes.append(f"{title}: {', '.join(slow)}")
    if tight := [each.policy for each in answers if each.plan and not each.plan.fits(targets.CHIPS[target].memory)]:
      notes.append(f"{title}: {', '.join(tight)} does not fit")
    best = fastest(answers)
    if best is None:
      rows.append([title, "not finished" if slow else "does not fit" if tight else "not asked", *["-"] * 6])
      continue
    answer, time = best
    units = f"{answer.plan.cycles / 1e6:,.2f} M" if answer.plan.cycles else f"{sum(answer.plan.kernels.values()):,}"
    rows.append(
      [
        title,
        answer.policy,
        f"{answer.plan.temporaries / _MIB:,.0f}",
        units,
        f"{answer.plan.hbm / 1e9:,.1f}",
        f"{1000 * time.computing:,.1f}, {1000 * time.moving:,.1f}",
        f"{1000 * time.seconds:,.1f}",
        f"{hours(time, batch_size):,.1f}",
      ]
    )
  unit = "cycles" if targets.CHIPS[target].flops_a_cycle else "kernels"
  schedule = protocol.of("densenet", "cifar10")
  notes.append(f"hours: {schedule.epochs} epochs of CIFAR on one chip, training steps alone; real ones take longer")
  columns = ("network", "remat", "temporaries, MiB", unit, "HBM, GB", "computing, HBM, ms", "a step, ms", "hours")
  return Grid(f"One {target}, bfloat16, batch {batch_size}: an estimate", columns, rows, [*notes, *compilers], left=2)


def fastest(answers: Sequence[Answer]) -> tuple[Answer, Estimate] | None:
  """Of the answers that fit their chip, the one with the shortest step; None where none fits."""
  times = []
  for each in answers:
    chip = targets.kept(each.target, each.compiler)
    model = complete_model(ModelConfig(name=each.network, dtype=each.question["model"]["dtype"]))
    if each.plan and each.plan.fits(chip.memory) and (time := estimate(each.plan, chip, model)):
      times.append((each, time))
  return min(times, key=lambda pair: pair[1].seconds, default=None)


def hours(time: Estimate, batch_size: int) -> float:
  """Hours of the paper's training on CIFAR, an epoch's smaller last batch dropped."""
  steps = protocol.of("densenet", "cifar10").epochs * (_IMAGES // batch_size)
  return time.seconds * steps / 3600
