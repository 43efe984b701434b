"""What a training step takes, known before it runs: the compiler is asked, and its answers are kept."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from dn_jax.config.network import policy_of, remat_policies
from dn_jax.config.schema import ModelConfig, OptimizerConfig, RematPolicy, to_dict
from dn_jax.distributed.layout import AXIS, Layout, make_layout_of_one, placed
from dn_jax.errors import ConfigurationError
from dn_jax.models import build
from dn_jax.planner.targets import HERE, Target, target
from dn_jax.system import compilation
from dn_jax.training import optimizer, step

_SGD = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 1.0)
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the compiler says of a training step; bytes and FLOPs of one chip.

  temporaries: what the step needs besides its arguments: activations kept for the backward pass, mostly
  arguments:   parameters, statistics, momentum and the batch
  outputs:     results that do not take an argument's place
  flops:       forward and backward pass, recomputation included; None where the compiler does not say
  traffic:     bytes that operations read and write, on-chip memory included; None likewise
  collectives: by kind, how many and the bytes of their results
  cycles:      of the chip, by the compiler's own estimate, of one instruction after another; None likewise
  loops:       of the compiled program; what is inside one counts once in `flops`, `traffic` and `cycles`
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
    """Bytes that a chip needs for the step: an upper bound, as if everything lived at once."""
    return self.temporaries + self.arguments + self.outputs

  def fits(self, memory: int | None, beside: int = 0) -> bool:
    """Whether a chip of so much memory (None: unknown, and taken for enough) holds it and `beside` bytes more."""
    return self.refusal is None and (memory is None or self.peak + beside <= memory)


def seconds(plan: Plan, where: Target, model: ModelConfig) -> float | None:
  """An estimate: the longer of computing at the chip's published peak and moving bytes at its bandwidth.

  None where the chip's figures or the compiler's are not known. Real steps take longer: no kernel reaches the
  peak, and bytes that stay on the chip count here.
  """
  if where.chip is None or plan.flops is None or plan.traffic is None:
    return None
  peak = where.chip.peak["bfloat16" if model.dtype == "bfloat16" else model.precision]
  return max(plan.flops / peak, plan.traffic / where.chip.bandwidth)


def plan(
  model: ModelConfig,
  num_classes: int,
  image_shape: tuple[int, int, int],
  batch_size: int,
  where: Target | None = None,
  groups: int = 1,
  accumulation: int = 1,
  seeds: int = 1,
) -> Plan:
  """The plan of a configuration's training step, from the disk where it has been asked for before.

  Args:
    model: completed, see `dn_jax.config.network.complete_model`; its remat policy is not `auto`.
    num_classes: width of the classifier.
    image_shape: (height, width, channels).
    batch_size: pictures a step, over all devices of the target.
    where: the target; by default this machine.
    groups: statistics groups of the batch, see `dn_jax.distributed.layout.Layout`.
    accumulation: pieces that each device goes through one after another.
    seeds: runs that take the step side by side in one program, each with a batch of its own.

  Raises:
    ConfigurationError: groups and devices do not divide the batch; several seeds, and more than one device.
  """
  where = where or target(HERE)
  question = {
    "model": to_dict(dataclasses.replace(model, name=None, remat=policy_of(model))),
    "num_classes": num_classes,
    "image_shape": list(image_shape),
    "batch_size": batch_size,
    "groups": groups,
    "accumulation": accumulation,
    "seeds": seeds,
    "target": where.name,
    "compiler": where.compiler,
    "flags": os.environ.get("XLA_FLAGS", ""),
    "x64": jax.config.jax_enable_x64,
    "sources": _sources(),
  }
  digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
  path = compilation.folder("plans") / f"{digest[:32]}.json"
  if known := _read(path):
    return known
  found = compile_step(build.build(model, num_classes), image_shape, batch_size, where, groups, accumulation, seeds)
  _write(path, question, found)
  return found


def compile_step(
  network: nn.Module,
  image_shape: tuple[int, int, int],
  batch_size: int,
  where: Target | None = None,
  groups: int = 1,
  accumulation: int = 1,
  seeds: int = 1,
) -> Plan:
  """Compiles the training step, runs nothing, and reads off what it takes.

  Args:
    network: with its remat policy.
    image_shape, batch_size, where, groups, accumulation, seeds: as in `plan`.
  """
  where = where or target(HERE)
  layout = Layout(tuple(where.devices), groups)
  layout.check("batch-size", batch_size)
  layout.check_accumulation(accumulation)
  train_step, state, batch, key = _step(network, image_shape, batch_size, layout, accumulation)
  everywhere, in_parts = PartitionSpec(), PartitionSpec(AXIS)
  if seeds > 1:
    if len(where.devices) > 1:
      raise ConfigurationError("seeds-per-device", seeds, f"share one device, and {where.name} has more")
    # As `dn_jax.training.resident.make_command` writes them down.
    state, batch, key = ((one,) * seeds for one in (state, batch, key))
    mapped = lambda *of_all: [train_step(*of_run) for of_run in zip(*of_all, strict=True)]
  else:
    mapped = layout.mapped(train_step, (everywhere, in_parts, everywhere))
  lowered = jax.jit(mapped, donate_argnums=0).lower(
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


def flops_by_policy(
  model: ModelConfig, num_classes: int, image_shape: tuple[int, int, int], batch_size: int, policies: Iterable[str]
) -> dict[RematPolicy, float]:
  """FLOPs of the training step under each policy, as written down for the compiler: nothing is compiled.

  Of one device with the whole batch in one statistics group: others share the same work out.
  """
  found = {}
  for policy in policies:
    network = build.build(dataclasses.replace(model, remat=policy), num_classes)
    train_step, *arguments = _step(network, image_shape, batch_size, make_layout_of_one())
    found[policy] = jax.jit(train_step).trace(*arguments).lower(lowering_platforms=("cpu",)).cost_analysis()["flops"]
  return found


def choose(
  model: ModelConfig,
  num_classes: int,
  image_shape: tuple[int, int, int],
  batch_size: int,
  where: Target | None = None,
  beside: int = 0,
  groups: int = 1,
  accumulation: int = 1,
  seeds: int = 1,
) -> tuple[RematPolicy, Plan]:
  """`auto`: of the policies that fit, the one that recomputes fewest FLOPs.

  Args:
    model: completed; its own policy does not count.
    num_classes, image_shape, batch_size, where, groups, accumulation, seeds: as in `plan`.
    beside: bytes that lie on every device besides, such as a data set.

  Raises:
    ConfigurationError: none fits; says what the smallest would take.
  """
  where = where or target(HERE)
  policies = remat_policies(model)
  tried: dict[str, Plan] = {}

  def attempt(policy: str) -> Plan:
    asked = dataclasses.replace(model, remat=policy)
    tried[policy] = plan(asked, num_classes, image_shape, batch_size, where, groups, accumulation, seeds)
    return tried[policy]

  # Nothing recomputes less than `none`: where that fits, the others need not be looked at.
  if attempt("none").fits(where.memory, beside):
    return "none", tried["none"]
  flops = flops_by_policy(model, num_classes, image_shape, batch_size, [each for each in policies if each != "none"])
  for policy in sorted(flops, key=flops.__getitem__):
    if attempt(policy).fits(where.memory, beside):
      return policy, tried[policy]
  memory = "what there is" if where.memory is None else f"{where.memory / _GIB:.2f} GiB"
  compiled = {policy: each.peak + beside for policy, each in tried.items() if each.refusal is None}
  least = f"; {min(compiled.values()) / _GIB:.2f} GiB with {min(compiled, key=compiled.get)}" if compiled else ""
  raise ConfigurationError(
    "batch-size",
    batch_size,
    f"fits {memory} of memory under no remat policy{least}; take a smaller one, --accumulation or more devices",
  )


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """What devices exchange in a compiled program: by kind, how many and the bytes of their results.

  Args:
    text: of the program (`compiled.as_text()`).
  """
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
# What a TPU's compiler notes beside an instruction.
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SHAPE = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\]")


def _bytes_of(element: str, dimensions: str) -> int:
  bits = 8 if element == "pred" else int(re.search(r"\d+", element)[0])
  return math.prod(int(size) for size in dimensions.split(",") if size) * bits // 8


def _step(
  network: nn.Module,
  image_shape: tuple[int, int, int],
  batch_size: int,
  layout: Layout,
  accumulation: int = 1,
) -> tuple[Any, Any, Any, Any]:
  """The training step and the shapes of its arguments."""
  sgd = optimizer.sgd(_SGD, optimizer.learning_rate(_SGD, 1, 1))
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda key: step.create_state(network, sgd, key, image_shape), key)
  batch = step.Batch(
    jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32),
    jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    jax.ShapeDtypeStruct((batch_size,), jnp.float32),
  )
  return step.make_train_step(network, sgd, layout, accumulation), state, batch, key


def _sources() -> str:
  """A digest of the files that make a training step: another version of them asks the compiler again."""
  package = pathlib.Path(__file__).parent.parent
  beside = ("config/network.py", "distributed/layout.py", "training/step.py", "training/optimizer.py")
  folders = (*(package / "models").glob("*.py"), *(package / "planner").glob("*.py"))
  files = [*sorted(folders), *(package / name for name in beside)]
  return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _read(path: pathlib.Path) -> Plan | None:
  try:
    record = json.loads(path.read_text())["plan"]
    return Plan(**record | {"collectives": {kind: tuple(one) for kind, one in record["collectives"].items()}})
  except (OSError, ValueError, KeyError, TypeError):  # Not there, or cut short: asked again.
    return None


def _write(path: pathlib.Path, question: dict[str, Any], found: Plan) -> None:
  """Keeps an answer where the disk takes it; written whole or not at all."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
      json.dump({"question": question, "plan": dataclasses.asdict(found)}, file, indent=1)
    os.replace(temporary, path)
  except OSError:
    pass
