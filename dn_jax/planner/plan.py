"""Memory and work of a training step before it runs: the compiler is asked, and its answers are kept."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from dn_jax.config.check import to_dict
from dn_jax.config.network import policy_of, remat_policies
from dn_jax.config.schema import ModelConfig, OptimizerConfig, RematPolicy
from dn_jax.distributed.layout import AXIS, Layout, make_layout_of_one, placed
from dn_jax.errors import ConfigurationError
from dn_jax.models import build
from dn_jax.planner.targets import Target
from dn_jax.system import compilation, folders
from dn_jax.training import optimizer, step

_SGD = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 1.0)
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Question:
  """A training step to plan.

  model:        completed, see `dn_jax.config.network.complete_model`
  image_shape:  (height, width, channels)
  batch_size:   images per step, over all devices of a target
  groups:       statistics groups of the batch, see `dn_jax.distributed.layout.Layout`
  accumulation: pieces that each device works through one after another
  """

  model: ModelConfig
  num_classes: int
  image_shape: tuple[int, int, int]
  batch_size: int
  groups: int = 1
  accumulation: int = 1

  def under(self, policy: RematPolicy) -> "Question":
    """The same step under another remat policy."""
    return dataclasses.replace(self, model=dataclasses.replace(self.model, remat=policy))


@dataclasses.dataclass(frozen=True)
class Plan:
  """The compiler's account of a training step: bytes and FLOPs of one chip.

  temporaries: bytes besides the arguments, mostly activations kept for the backward pass
  arguments:   parameters, statistics, momentum and the batch
  outputs:     results that do not take an argument's place
  flops:       forward and backward pass, recomputation included; None where the compiler does not say
  traffic:     bytes that operations read and write, on-chip memory included; None likewise
  collectives: by kind, their number and the bytes of their results
  cycles:      the compiler's own estimate, one instruction after another; None likewise
  loops:       of the compiled program; the body of one counts once in `flops`, `traffic` and `cycles`
  refusal:     the compiler's words where the step does not fit the chip; everything else is 0 then
  """

  temporaries: int = 0
  arguments: int = 0
  outputs: int = 0
  flops: float | None = None
  traffic: float | None = None
  cycles: int | None = None
  collectives: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
  loops: int = 0
  refusal: str | None = None

  @property
  def peak(self) -> int:
    """Bytes that a chip needs for the step: an upper bound, as if everything existed at once."""
    return self.temporaries + self.arguments + self.outputs

  def fits(self, memory: int | None, beside: int = 0) -> bool:
    """Whether a chip with that many bytes (None: unknown, assumed enough) holds the step and `beside` bytes more."""
    return self.refusal is None and (memory is None or self.peak + beside <= memory)


def seconds(plan: Plan, where: Target, model: ModelConfig) -> float | None:
  """An estimate: the longer of computing at the chip's published peak and moving bytes at its bandwidth.

  None where the numbers of the chip or of the compiler are unknown. Real steps take longer: no kernel reaches the
  peak. Bytes that stay on the chip are counted as moved.
  """
  if where.chip is None or plan.flops is None or plan.traffic is None:
    return None
  peak = where.chip.peak["bfloat16" if model.dtype == "bfloat16" else model.precision]
  return max(plan.flops / peak, plan.traffic / where.chip.bandwidth)


def plan(question: Question, where: Target) -> Plan:
  """The plan of a training step (not under `auto`), from the disk where it has been asked for before.

  Raises:
    ConfigurationError: groups and devices do not divide the batch.
  """
  asked = {
    **dataclasses.asdict(question),
    "model": to_dict(dataclasses.replace(question.model, name=None, remat=policy_of(question.model))),
    "target": where.name,
    "compiler": where.compiler,
    "flags": os.environ.get("XLA_FLAGS", ""),
    "x64": jax.config.jax_enable_x64,
    "sources": _sources(),
  }
  digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
  path = compilation.folder("plans") / f"{digest[:32]}.json"
  if known := _read(path):
    return known
  found = compile_step(question, where)
  _write(path, asked, found)
  return found


def compile_step(question: Question, where: Target) -> Plan:
  """Compiles the training step and runs nothing; as `plan`, which keeps the answers."""
  layout = Layout(tuple(where.devices), question.groups)
  layout.check("batch-size", question.batch_size)
  layout.check_accumulation(question.accumulation)
  train_step, state, batch, key = _step(question, layout)
  everywhere, in_parts = PartitionSpec(), PartitionSpec(AXIS)
  lowered = jax.jit(layout.mapped(train_step, (everywhere, in_parts, everywhere)), donate_argnums=0).lower(
    placed(state, everywhere, layout.mesh),
    placed(batch, in_parts, layout.mesh),
    placed(key, everywhere, layout.mesh),
  )
  try:
    compiled = lowered.compile(compiler_options=dict(where.options))
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return Plan(refusal=str(error).splitlines()[0])
  memory, costs, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text()
  return Plan(
    temporaries=memory.temp_size_in_bytes,
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    flops=costs.get("flops"),
    traffic=costs.get("bytes accessed"),
    cycles=sum(map(int, _CYCLES.findall(text))) or None,
    collectives=collectives(text),
    loops=len(re.findall(r" while\(", text)),
  )


def flops_by_policy(question: Question, policies: Iterable[RematPolicy]) -> dict[RematPolicy, float]:
  """FLOPs of the training step under each policy, counted before compilation.

  For one device with the whole batch in one statistics group: several devices divide the same work.
  """
  whole = dataclasses.replace(question, groups=1, accumulation=1)
  found = {}
  for policy in policies:
    train_step, *arguments = _step(whole.under(policy), make_layout_of_one())
    found[policy] = jax.jit(train_step).trace(*arguments).lower(lowering_platforms=("cpu",)).cost_analysis()["flops"]
  return found


def choose(question: Question, where: Target, beside: int = 0) -> tuple[RematPolicy, Plan]:
  """`auto`: of the policies that fit, the one that recomputes fewest FLOPs.

  Args:
    question: under any policy.
    where: the devices.
    beside: bytes that lie on every device besides, such as a data set.

  Raises:
    ConfigurationError: none fits; the message has the memory of the smallest.
  """
  tried: dict[str, Plan] = {}

  def attempt(policy: RematPolicy) -> Plan:
    tried[policy] = plan(question.under(policy), where)
    return tried[policy]

  # Nothing recomputes less than `none`: where it fits, the others need no look.
  if attempt("none").fits(where.memory, beside):
    return "none", tried["none"]
  flops = flops_by_policy(question, [each for each in remat_policies(question.model) if each != "none"])
  for policy in sorted(flops, key=flops.__getitem__):
    if attempt(policy).fits(where.memory, beside):
      return policy, tried[policy]
  memory = "what there is" if where.memory is None else f"{where.memory / _GIB:.2f} GiB"
  compiled = {policy: each.peak + beside for policy, each in tried.items() if each.refusal is None}
  least = f"; {min(compiled.values()) / _GIB:.2f} GiB with {min(compiled, key=compiled.get)}" if compiled else ""
  raise ConfigurationError(
    "batch-size",
    question.batch_size,
    f"fits {memory} of memory under no remat policy{least}; take a smaller one, --accumulation or more devices",
  )


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """The exchanges in the text of a compiled program: by kind, their number and the bytes of their results."""
  found: dict[str, tuple[int, int]] = {}
  for result, kind, start in _COLLECTIVE.findall(text):
    shapes = [_bytes_of(element, dimensions) for element, dimensions in _SHAPE.findall(result)]
    # An asynchronous start's result is (operands, results, ...): count the second half.
    size = sum(shapes) // 2 if start else sum(shapes)
    count, total = found.get(kind, (0, 0))
    found[kind] = (count + 1, total + size)
  return found


_COLLECTIVE = re.compile(
  r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)(-start)?\("
)
# A TPU's compiler writes it beside each instruction.
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SHAPE = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\]")


def _bytes_of(element: str, dimensions: str) -> int:
  bits = 8 if element == "pred" else int(re.search(r"\d+", element)[0])
  return math.prod(int(size) for size in dimensions.split(",") if size) * bits // 8


def _step(question: Question, layout: Layout) -> tuple[Any, Any, Any, Any]:
  """The training step and the shapes of its arguments."""
  network = build.build(question.model, question.num_classes)
  sgd = optimizer.sgd(_SGD, optimizer.learning_rate(_SGD, 1, 1))
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda key: step.create_state(network, sgd, key, question.image_shape), key)
  images = question.batch_size
  batch = step.Batch(
    jax.ShapeDtypeStruct((images, *question.image_shape), jnp.float32),
    jax.ShapeDtypeStruct((images,), jnp.int32),
    jax.ShapeDtypeStruct((images,), jnp.float32),
  )
  return step.make_train_step(network, sgd, layout, question.accumulation), state, batch, key


def _sources() -> str:
  """A digest of the files that define a training step: with another version of them the compiler is asked again."""
  package = pathlib.Path(__file__).parent.parent
  beside = ("config/network.py", "distributed/layout.py", "training/step.py", "training/optimizer.py")
  files = sorted([*(package / "models").glob("*.py"), *(package / "planner").glob("*.py")])
  files += [package / name for name in beside]
  return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _read(path: pathlib.Path) -> Plan | None:
  try:
    record = json.loads(path.read_text())["plan"]
    return Plan(**record | {"collectives": {kind: tuple(one) for kind, one in record["collectives"].items()}})
  except (OSError, ValueError, KeyError, TypeError):  # Not there, or cut short: asked again.
    return None


def _write(path: pathlib.Path, asked: dict[str, Any], found: Plan) -> None:
  """Keeps an answer, if the disk takes it."""
  with contextlib.suppress(OSError):
    folders.make(path.parent)
    folders.write_whole(path, json.dumps({"question": asked, "plan": dataclasses.asdict(found)}, indent=1))
