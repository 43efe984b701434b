"""Which remat policy runs: the one that is asked for, `auto`'s, or by default the fastest that fits.

By default: on a CPU the family's own (`layer_by_layer` for a DenseNet); on a GPU `none`, where memory allows; on a TPU
by the estimate of `dn_jax.planner.estimate`, from the answers that are kept, or else the family's own. Nothing is
compiled for it, and where memory may not suffice, the next smaller policy is taken. Under `auto` the compiler is asked
for all.
"""

from collections.abc import Sequence
from typing import Any

from dn_jax.config.families import FAMILIES
from dn_jax.config.network import remat_policies
from dn_jax.config.schema import RematPolicy
from dn_jax.errors import ConfigurationError
from dn_jax.planner import kept, memory, targets
from dn_jax.planner.estimate import estimate
from dn_jax.planner.plan import Plan, Question, flops_by_policy, plan
from dn_jax.planner.targets import CHIPS, Target

_GIB = 2**30


def settle(question: Question, where: Target, beside: int = 0) -> tuple[RematPolicy, str]:
  """The policy of a question whose own may be `auto` or open, and the reason in words.

  Args:
    question: the step; its policy as a person gave it.
    where: the devices that will run it.
    beside: bytes that lie on every device besides, such as a data set.

  Raises:
    ConfigurationError: under `auto`, none fits.
  """
  match question.model.remat:
    case None:
      return unless_told(question, where, beside)
    case "auto":
      policy, found = choose(question, where, beside)
      return policy, f"a step takes {found.peak / 2**20:,.0f} MiB a device"
    case policy:
      return policy, "as asked"


def unless_told(question: Question, where: Target, beside: int = 0) -> tuple[RematPolicy, str]:
  """The policy where none is asked for; arguments as `settle` has them."""
  platform = where.devices[0].platform
  if platform == "cpu":
    return FAMILIES[question.model.family].default_remat, "the fastest on a CPU"
  kind = targets.kind_of(where.devices[0])
  if platform == "tpu" and kind and (found := _fastest_kept(question, where, kind, beside)):
    return found
  devices = len(where.devices)
  first = _on_tpu(question) if platform == "tpu" else "none"
  return _smallest_needed(question, first, devices, None if where.memory is None else where.memory - beside)


def on_chip(question: Question, name: str) -> tuple[RematPolicy, str]:
  """`unless_told` for one chip that is not there."""
  chip = CHIPS[name]
  if chip.flops_a_cycle and (found := _fastest_kept(question, targets.kept(name, ""), name, 0)):
    return found
  return _smallest_needed(question, _on_tpu(question) if chip.flops_a_cycle else "none", 1, chip.memory)


def _smallest_needed(question: Question, first: RematPolicy, devices: int, room: int | None) -> tuple[RematPolicy, str]:
  """The first policy, or where it may not fit into so many bytes the next smaller one that does."""
  policies = ladder(question)
  for policy in (policies := policies[policies.index(first) :]):
    if room is None or memory.FACTOR * memory.needed(question, policy, devices) <= room:
      return policy, "the fastest by its estimates" if policy == first else f"{first} may not fit"
  return policies[-1], "the smallest"


def ladder(question: Question) -> tuple[RematPolicy, ...]:
  """A network's policies from the one that needs most memory to the smallest, without those that are beaten in both."""
  policies = remat_policies(question.model)
  if "layer_by_layer" not in policies:
    return "none", "dense_layer"
  return ("none", "bottleneck", "layer_by_layer") if "bottleneck" in policies else ("none", "layer_by_layer")


def _on_tpu(question: Question) -> RematPolicy:
  return FAMILIES[question.model.family].tpu_remat(question.model)


def _fastest_kept(question: Question, where: Target, kind: str, beside: int) -> tuple[RematPolicy, str] | None:
  """Of the policies whose answers are kept, the fastest that fits; None where there are not two to compare."""
  times = {}
  for answer in kept.of_chip(question, where.devices, kind):
    found = estimate(answer.plan, targets.kept(kind, answer.compiler), question.model) if answer.plan else None
    # In float32 a step takes twice the memory that it takes in bfloat16.
    wider = question.model.dtype == "float32" and answer.question["model"]["dtype"] == "bfloat16"
    if found and answer.plan.fits(where.memory, beside + (answer.plan.peak if wider else 0)):
      times[answer.policy] = (found.seconds, answer)
  if len(times) < 2:
    return None
  policy = min(times, key=lambda each: times[each][0])
  return policy, f"the fastest of {len(times)} by the estimate of {times[policy][1].described}"


def choose(question: Question, where: Target, beside: int = 0) -> tuple[RematPolicy, Plan]:
  """`auto`: of the policies that fit, the fastest by the compiler's estimate.

  Where there is none, as on a CPU: the one that recomputes fewest FLOPs.

  Args:
    question: under any policy.
    where: the devices.
    beside: bytes that lie on every device besides, such as a data set.

  Raises:
    ConfigurationError: none fits; the message has the memory of the smallest.
  """
  policies = remat_policies(question.model)
  if where.chip is None:
    # Nothing recomputes less than `none`: where it fits, the others need no look.
    if (first := plan(question.under("none"), where)).fits(where.memory, beside):
      return "none", first
    flops = flops_by_policy(question, [each for each in policies if each != "none"])
    policies = ("none", *sorted(flops, key=flops.__getitem__))
  tried: dict[RematPolicy, Plan] = {}
  times: dict[RematPolicy, float] = {}
  for policy in policies:
    tried[policy] = plan(question.under(policy), where)
    if tried[policy].fits(where.memory, beside):
      if where.chip is None:
        return policy, tried[policy]
      found = estimate(tried[policy], where, question.model)
      times[policy] = found.seconds if found else float("inf")
  if times:
    fastest = min(times, key=times.__getitem__)
    return fastest, tried[fastest]
  room = "what there is" if where.memory is None else f"{where.memory / _GIB:.2f} GiB"
  compiled = {policy: each.peak + beside for policy, each in tried.items() if each.refusal is None}
  least = f"; {min(compiled.values()) / _GIB:.2f} GiB with {min(compiled, key=compiled.get)}" if compiled else ""
  raise ConfigurationError(
    "batch-size",
    question.batch_size,
    f"fits {room} of memory under no remat policy{least}; take a smaller one, --accumulation or more devices",
  )


def empty_lanes(batch_size: int, devices: Sequence[Any], accumulation: int = 1) -> str | None:
  """A line where a batch leaves lanes of a TPU empty, with the batch that fills them; None elsewhere.

  A TPU computes in lanes of 128, and these networks' batch lies in them: 64 images take about the time of 128.

  Args:
    batch_size: images of a step, over all devices.
    devices: those that share it.
    accumulation: pieces that each device works through one after another.
  """
  pieces = len(devices) * accumulation
  images = batch_size // pieces
  if devices[0].platform != "tpu" or images % kept.LANES == 0:
    return None
  full = -(-images // kept.LANES) * kept.LANES
  return (
    f"--batch-size {batch_size} leaves {full - images} of {full} lanes of a TPU empty; "
    f"{full * pieces} images a step would take about the same time"
  )
