"""What a compiled program does, by its text: cycles, bytes to and from memory, kernels, exchanges.

Counted over the entry computation, what it calls included. The body of a loop counts once in cycles and bytes, and as
often as it runs in kernels. Of a conditional the cheapest branch counts: the others are for what seldom happens.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable

from dn_jax.planner.program import FAST, HBM, Array, Computation, Instruction, Program


@dataclasses.dataclass(frozen=True, order=True)
class Work:
  """Of a computation.

  cycles: by a TPU compiler's own estimate, one instruction after another
  hbm:    bytes that instructions read from and write to the device's memory, as laid out
  fast:   bytes that they read from and write to the fast memory beside a TPU's units
  """

  cycles: int = 0
  hbm: int = 0
  fast: int = 0

  def __add__(self, other: "Work") -> "Work":
    return Work(self.cycles + other.cycles, self.hbm + other.hbm, self.fast + other.fast)


def work(program: Program) -> Work:
  """Cycles and traffic of a program.

  Every operand is read once and every result written once, by each instruction that has it. Of an operand that a
  fusion only slices, the slices are read; of a buffer that is updated in place, the updated part is written.
  """
  return _work(program, program.computations[program.entry])


def kernels(program: Program) -> dict[str, int]:
  """The kernels that a GPU runs, by kind; the loops' bodies as often as they run, once where that is unknown.

  A library's convolution or product counts as one, though it may be several.
  """
  return dict(sorted(_kernels(program, program.computations[program.entry]).items()))


def exchanges(program: Program) -> dict[str, tuple[int, int]]:
  """The exchanges between devices, wherever they are: by kind, their number and the bytes of their results."""
  found: dict[str, tuple[int, int]] = {}
  for computation in program.computations.values():
    for instruction in computation.instructions.values():
      # The result of an asynchronous start may have its operands besides; that of its end has not.
      kind = instruction.kind.removesuffix("-done")
      if kind in _COLLECTIVES:
        count, total = found.get(kind, (0, 0))
        found[kind] = (count + 1, total + instruction.size)
  return found


_COLLECTIVES = (
  *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
  *("collective-permute", "collective-broadcast"),
)
# They move nothing.
_FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
  *("opt-barrier", "add-dependency", "domain"),
}
# Custom calls that name memory and move nothing.
_NAMES_MEMORY = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast|SliceBitcast|Sharding)"')


def _is_free(instruction: Instruction) -> bool:
  return instruction.kind in _FREE or bool(_NAMES_MEMORY.search(instruction.attributes))


# Cycles and traffic


def _work(program: Program, computation: Computation) -> Work:
  total = Work()
  for instruction in computation.instructions.values():
    total += Work(instruction.cycles)
    match instruction.kind:
      case "while":
        total += _work(program, _only(program, instruction, "body"))
      case "call":
        total += _work(program, _only(program, instruction, "to_apply"))
      case "conditional":
        total += min(_work(program, each) for each in _branches(program, instruction))
      case kind if kind.endswith("-done"):
        if begun := _start_of(computation, instruction):
          total += _traffic(program, computation, begun)
      case kind if not kind.endswith(("-start", "-update")) and not _is_free(instruction):
        total += _traffic(program, computation, instruction)
  return total


def _only(program: Program, instruction: Instruction, role: str) -> Computation:
  return program.computations[instruction.called(role)[0]]


def _branches(program: Program, instruction: Instruction) -> list[Computation]:
  roles = ("branch_computations", "true_computation", "false_computation")
  return [program.computations[name] for role in roles for name in instruction.called(role)]


def _start_of(computation: Computation, done: Instruction) -> Instruction | None:
  """An asynchronous instruction as if it were not: the operands of its start, the result of its end."""
  start = done
  while start.operands and not start.kind.endswith("-start"):
    start = computation.instructions[start.operands[0]]
  if not start.kind.endswith("-start"):
    return None
  return dataclasses.replace(start, kind=start.kind.removesuffix("-start"), result=done.result)


def _traffic(program: Program, computation: Computation, instruction: Instruction) -> Work:
  bytes_of = Counter()
  for place, name in enumerate(instruction.operands):
    operand = computation.instructions[name]
    part = _read(program, instruction, place)
    whole = operand.size
    for array in operand.result:
      bytes_of[array.space] += round(array.size * min(1, part / whole)) if whole else 0
  for array in _written(program, computation, instruction):
    bytes_of[array.space] += array.size
  return Work(0, bytes_of[HBM], bytes_of[FAST])


def _read(program: Program, instruction: Instruction, place: int) -> float:
  """Bytes that an instruction reads of an operand, at most; infinite: all of it."""
  match instruction.kind:
    case "slice" | "dynamic-slice" | "gather" if place == 0:
      return instruction.size
    case "dynamic-update-slice" if place == 0:
      return 0
    case "fusion" | "async" if inner := instruction.called("calls"):
      inside = program.computations[inner[0]]
      return _read_of(program, inside, inside.parameters[place], lambda updated: 0 if updated else math.inf)
  return math.inf


def _read_of(
  program: Program, inside: Computation, value: Instruction, beyond: Callable[[bool], float], updated: bool = False
) -> float:
  """Bytes that a fused computation reads of a value that it is given.

  Args:
    program: of the computation.
    inside: the fused computation.
    value: one of its parameters, or what has the same bytes.
    beyond: what is read of a value that the computation returns, given whether it was updated in place.
    updated: whether the value was.
  """
  total = beyond(updated) if value.root else 0.0
  for user, place in inside.users.get(value.name, ()):
    match user.kind:
      case "bitcast":
        total += _read_of(program, inside, user, beyond, updated)
      case "tuple" if user.root:
        total += beyond(updated)
      case "dynamic-update-slice" if place == 0:
        total += _read_of(program, inside, user, beyond, updated=True)
      case "fusion":
        inner = _only(program, user, "calls")
        outside = functools.partial(_read_of, program, inside, user, beyond)
        total += _read_of(program, inner, inner.parameters[place], outside, updated)
      case _:
        total += _read(program, user, place)
  return total


def _written(program: Program, computation: Computation, instruction: Instruction) -> tuple[Array, ...]:
  """What an instruction of a computation writes of its result."""
  if instruction.kind == "dynamic-update-slice":
    part = computation.instructions[instruction.operands[1]].size
    return tuple(dataclasses.replace(array, size=min(array.size, part)) for array in instruction.result)
  inner = instruction.called("calls") if instruction.kind in ("fusion", "async") else ()
  if not inner:
    return instruction.result
  inside = program.computations[inner[0]]
  made = [inside.instructions[name] for name in inside.root.operands] if inside.root.kind == "tuple" else [inside.root]
  if len(made) != len(instruction.result):  # Tuples within a tuple.
    return instruction.result
  return tuple(
    dataclasses.replace(array, size=min(array.size, _written_to(program, inside, each)))
    for array, each in zip(instruction.result, made, strict=True)
  )


def _written_to(program: Program, inside: Computation, value: Instruction) -> float:
  while value.kind == "bitcast":
    value = inside.instructions[value.operands[0]]
  if value.kind == "dynamic-update-slice" or (value.kind == "fusion" and len(value.result) == 1):
    return _written(program, inside, value)[0].size
  return math.inf


# Kernels


def _kernels(program: Program, computation: Computation) -> Counter[str]:
  total: Counter[str] = Counter()
  for instruction in computation.instructions.values():
    match instruction.kind:
      case "while":
        trips = instruction.trips
        body = _kernels(program, _only(program, instruction, "body"))
        total += Counter({kind: count * (1 if trips is None else trips) for kind, count in body.items()})
      case "call":
        total += _kernels(program, _only(program, instruction, "to_apply"))
      case "conditional":
        total += min((_kernels(program, each) for each in _branches(program, instruction)), key=Counter.total)
      case kind if not _is_free(instruction) and not kind.endswith(("-done", "-update")):
        total[_kind_of_kernel(program, instruction)] += 1
  return total


def _kind_of_kernel(program: Program, instruction: Instruction) -> str:
  kind = instruction.kind.removesuffix("-start")
  inside = program.computations[instruction.called("calls")[0]] if instruction.called("calls") else None
  if kind == "async" and inside:
    return _kind_of_kernel(program, inside.root)
  if kind in _COLLECTIVES:
    return "exchange"
  if kind == "custom-call":
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return next((name for part, name in _LIBRARIES.items() if target and part in target[1].lower()), "other library")
  if kind != "fusion" or not inside:
    return kind
  within = {each.kind for each in _all_within(program, inside)}
  if within <= {"parameter", "constant", "broadcast", "bitcast"} and not any(
    each.kind == "parameter" for each in inside.instructions.values()
  ):
    return "memset"
  if within <= {"parameter", "copy", "bitcast"}:
    return "copy"
  return next((name for kind, name in _FUSED.items() if kind in within), "fusion")


# By a part of the call's target; `cudnn$conv` and `cublas$gemm`, `cublas$lt$matmul` among others.
_LIBRARIES = {"conv": "convolution", "gemm": "product", "matmul": "product", "topk": "sort", "sort": "sort"}
# What a fusion is called after, the first that is in it.
_FUSED = {"convolution": "convolution", "dot": "product", "reduce": "reduction"}


def _all_within(program: Program, computation: Computation) -> list[Instruction]:
  found = []
  for instruction in computation.instructions.values():
    found.append(instruction)
    if instruction.kind == "fusion":
      found += _all_within(program, _only(program, instruction, "calls"))
  return found
