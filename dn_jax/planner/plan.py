"""Memory and work of a training step before it runs: the compiler is asked, and its answers are kept."""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from dn_jax.config.check import to_dict
from dn_jax.config.network import policy_of
from dn_jax.config.schema import ModelConfig, OptimizerConfig, RematPolicy
from dn_jax.distributed.layout import AXIS, Layout, make_layout_of_one, placed
from dn_jax.models import build
from dn_jax.planner import account, program
from dn_jax.planner.targets import Target
from dn_jax.system import compilation, folders, provenance
from dn_jax.training import optimizer, step

_SGD = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 1.0)


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
  flops:       forward and backward pass, recomputation included; None where it is unknown
  traffic:     bytes that operations read and write by the compiler's own count, on-chip memory included; None likewise
  cycles:      a TPU compiler's own estimate, one instruction after another; None likewise
  collectives: by kind, their number and the bytes of their results
  loops:       of the compiled program; the body of one counts once in `flops`, `traffic`, `cycles`, `hbm` and `fast`
  refusal:     the compiler's words where the step does not fit the chip; everything else is 0 then
  hbm:         bytes to and from an accelerator's memory, as laid out, see `dn_jax.planner.account`; None likewise
  fast:        bytes to and from a TPU's fast memory; None likewise
  kernels:     that a GPU runs, by kind, loops as often as they run; none elsewhere
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
  hbm: int | None = None
  fast: int | None = None
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)

  @property
  def peak(self) -> int:
    """Bytes that a chip needs for the step: an upper bound, as if everything existed at once."""
    return self.temporaries + self.arguments + self.outputs

  def fits(self, memory: int | None, beside: int = 0) -> bool:
    """Whether a chip with that many bytes (None: unknown, assumed enough) holds the step and `beside` bytes more."""
    return self.refusal is None and (memory is None or self.peak + beside <= memory)


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
    "options": dict(where.options),
    "flags": {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")},
    "x64": jax.config.jax_enable_x64,
    "sources": sources(),
  }
  if asked["sources"] is None:
    return compile_step(question, where)
  digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
  path = compilation.folder("plans") / f"{digest[:32]}.json"
  if known := _read(path):
    return known
  found = compile_step(question, where)
  _write(path, asked, found)
  return found


def compile_step(question: Question, where: Target) -> Plan:
  """Compiles the training step and runs nothing; as `plan`, which keeps the answers."""
  try:
    compiled = _lowered(question, where).compile(compiler_options=dict(where.options))
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return Plan(refusal=str(error).splitlines()[0])
  return _told(question, where, compiled)


def program_of(question: Question, where: Target) -> str:
  """A digest of what the compiler is given: of two versions of the code that make one program, it is the same."""
  asked = [_lowered(question, where).as_text(), dict(where.options)]
  return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _lowered(question: Question, where: Target) -> jax.stages.Lowered:
  layout = Layout(tuple(where.devices), question.groups)
  layout.check("batch-size", question.batch_size)
  layout.check_accumulation(question.accumulation)
  train_step, state, batch, key = _step(question, layout)
  everywhere, in_parts = PartitionSpec(), PartitionSpec(AXIS)
  return jax.jit(layout.mapped(train_step, (everywhere, in_parts, everywhere)), donate_argnums=0).lower(
    placed(state, everywhere, layout.mesh),
    placed(batch, in_parts, layout.mesh),
    placed(key, everywhere, layout.mesh),
  )


def _told(question: Question, where: Target, compiled: jax.stages.Compiled) -> Plan:
  """What a compiled step says of itself."""
  memory, costs, platform = compiled.memory_analysis(), compiled.cost_analysis() or {}, where.devices[0].platform
  text = program.read(compiled.as_text())
  found = Plan(
    temporaries=memory.temp_size_in_bytes,
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    flops=costs.get("flops"),
    traffic=costs.get("bytes accessed"),
    collectives=account.exchanges(text),
    loops=text.loops,
  )
  if platform == "cpu":
    return found
  work = account.work(text)
  if platform == "tpu":
    return dataclasses.replace(found, cycles=work.cycles or None, hbm=work.hbm, fast=work.fast)
  policy = policy_of(question.model)
  # Of calls to libraries, such as convolutions, the compiler counts nothing.
  flops = flops_by_policy(question, [policy])[policy] / len(where.devices)
  return dataclasses.replace(found, flops=flops, hbm=work.hbm, kernels=account.kernels(text))


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


def _step(question: Question, layout: Layout) -> tuple[Any, Any, Any, Any]:
  """The training step and the shapes of its arguments."""
  network = build.build(question.model, question.num_classes)
  sgd = optimizer.make(_SGD, optimizer.learning_rate(_SGD, 1, 1))
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda key: step.create_state(network, sgd, key, question.image_shape), key)
  images = question.batch_size
  batch = step.Batch(
    jax.ShapeDtypeStruct((images, *question.image_shape), jnp.float32),
    jax.ShapeDtypeStruct((images,), jnp.int32),
    jax.ShapeDtypeStruct((images,), jnp.float32),
  )
  return step.make_train_step(network, sgd, layout, question.accumulation), state, batch, key


def sources() -> str | None:
  """A digest of the code that defines a training step and its account, as it was loaded; None: a file changed since.

  Comments and docstrings do not count. With another version the compiler is asked again.
  """
  files = _files()
  digest = _digest_of(files)  # Before the look: what is read then is what was loaded.
  return digest if provenance.as_loaded(files) else None


def _files() -> tuple[pathlib.Path, ...]:
  package = provenance.PACKAGE
  planner = ("planner/plan.py", "planner/account.py", "planner/program.py")
  beside = (
    "config/families.py",
    "config/network.py",
    "config/rdnet.py",
    "distributed/layout.py",
    "training/step.py",
    "training/optimizer.py",
    *planner,
  )
  return (*sorted((package / "models").glob("*.py")), *(package / name for name in beside))


@functools.cache
def _digest_of(files: tuple[pathlib.Path, ...]) -> str:
  return hashlib.sha256("\n".join(_code(path.read_text()) for path in files).encode()).hexdigest()


def _code(text: str) -> str:
  """A module without comments and docstrings."""
  tree = ast.parse(text)
  for node in ast.walk(tree):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
      node.body = node.body[1:]
  return ast.unparse(tree)


def plan_of(record: dict[str, Any]) -> Plan:
  """A plan from its JSON; `dataclasses.asdict` makes that."""
  return Plan(**record | {"collectives": {kind: tuple(one) for kind, one in record["collectives"].items()}})


def _read(path: pathlib.Path) -> Plan | None:
  try:
    return plan_of(json.loads(path.read_text())["plan"])
  except (OSError, ValueError, KeyError, TypeError):  # Not there, or cut short: asked again.
    return None


def _write(path: pathlib.Path, asked: dict[str, Any], found: Plan) -> None:
  """Keeps an answer, if the disk takes it."""
  with contextlib.suppress(OSError):
    folders.make(path.parent)
    folders.write_whole(path, json.dumps({"question": asked, "plan": dataclasses.asdict(found)}, indent=1))
