"""The time of a training step on a chip, estimated from what the compiler says; no chip is asked."""

import dataclasses

from dn_jax.config.schema import ModelConfig
from dn_jax.planner.plan import Plan
from dn_jax.planner.targets import Target

# Seconds of a kernel on a GPU, however little it does: 3,030 kernels of a step took 10.6 ms of an H200
# (docs/performance.md, "On a GPU").
KERNEL = 3.5e-6


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds of a step on one chip, as if each part could go on beside the others: real steps take longer.

  computing: a TPU: the compiler's cycles at the clock; others: FLOPs at the published peak, which no kernel reaches
  moving:    bytes to and from the chip's memory at its bandwidth
  kernels:   a GPU: its kernels at `KERNEL` each; 0 elsewhere
  """

  computing: float
  moving: float
  kernels: float = 0.0

  @property
  def seconds(self) -> float:
    """The longest of them."""
    return max(self.computing, self.moving, self.kernels)


def estimate(plan: Plan, where: Target, model: ModelConfig) -> Estimate | None:
  """The estimate for a plan; None where the numbers of the chip or of the compiler are unknown."""
  chip = where.chip
  if chip is None or plan.hbm is None or plan.refusal:
    return None
  moving = plan.hbm / chip.bandwidth
  if chip.flops_a_cycle:
    return None if plan.cycles is None else Estimate(plan.cycles / chip.clock, moving)
  if plan.flops is None:
    return None
  peak = chip.peak["bfloat16" if model.dtype == "bfloat16" else model.precision]
  return Estimate(plan.flops / peak, moving, sum(plan.kernels.values()) * KERNEL)
