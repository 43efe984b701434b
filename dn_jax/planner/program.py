"""The text of a compiled program, read as XLA prints it: computations, their instructions, where arrays lie.

https://openxla.org/xla/operation_semantics has the instructions, https://openxla.org/xla/tiled_layout the layouts.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

# Memory spaces of a layout, as `S(1)`: 0 is the device's memory (HBM), 1 a TPU's fast memory beside its units (VMEM).
HBM, FAST = 0, 1


@dataclasses.dataclass(frozen=True)
class Array:
  """An array as laid out: its bytes, padded to whole tiles, and its memory space."""

  size: int
  space: int = HBM


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  kind:       the operation, such as `fusion`
  result:     its arrays, those of a tuple in their order
  operands:   names of instructions of the same computation
  arguments:  the text between the operation's brackets
  attributes: the text after them
  root:       whether the computation returns it
  """

  name: str
  kind: str
  result: tuple[Array, ...]
  operands: tuple[str, ...]
  arguments: str
  attributes: str
  root: bool

  @property
  def size(self) -> int:
    """Bytes of the result."""
    return sum(array.size for array in self.result)

  @property
  def cycles(self) -> int:
    """A TPU compiler's estimate; 0 where it says none."""
    found = _CYCLES.search(self.attributes)
    return int(found[1]) if found else 0

  @property
  def trips(self) -> int | None:
    """How often a loop's body runs; None where the compiler does not know."""
    found = _TRIPS.search(self.attributes)
    return int(found[1]) if found else None

  def called(self, role: str) -> tuple[str, ...]:
    """Names of the computations in an attribute: `calls`, `to_apply`, `body`, `branch_computations` and others."""
    found = re.search(rf"\b{role}=(?:{{([^}}]*)}}|%?([\w.\-]+))", self.attributes)
    if not found:
      return ()
    return tuple(_NAME.findall(found[1])) if found[1] is not None else (found[2],)


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name, in the order in which they run."""

  instructions: Mapping[str, Instruction]

  @functools.cached_property
  def root(self) -> Instruction:
    """The instruction that it returns."""
    return next(each for each in self.instructions.values() if each.root)

  @functools.cached_property
  def parameters(self) -> Mapping[int, Instruction]:
    """By their numbers."""
    return {int(each.arguments): each for each in self.instructions.values() if each.kind == "parameter"}

  @functools.cached_property
  def users(self) -> Mapping[str, tuple[tuple[Instruction, int], ...]]:
    """Of each instruction, those that take it, and as which operand."""
    found: dict[str, list[tuple[Instruction, int]]] = {}
    for instruction in self.instructions.values():
      for place, name in enumerate(instruction.operands):
        found.setdefault(name, []).append((instruction, place))
    return {name: tuple(each) for name, each in found.items()}


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program: its computations by name, and the name of the one that runs."""

  computations: Mapping[str, Computation]
  entry: str

  @property
  def loops(self) -> int:
    """Loops anywhere in it."""
    return sum(each.kind == "while" for one in self.computations.values() for each in one.instructions.values())


def read(text: str) -> Program:
  """The program of a text, such as `jax.stages.Compiled.as_text` returns.

  Raises:
    ValueError: it has no entry computation, or a line that is no instruction.
  """
  computations: dict[str, Computation] = {}
  entry = None
  instructions: dict[str, Instruction] | None = None
  for line in text.splitlines():
    if instructions is None:
      if begun := _COMPUTATION.match(line):
        instructions = {}
        computations[begun[2]] = Computation(instructions)
        entry = begun[2] if begun[1] else entry
    elif line.startswith("}"):
      instructions = None
    elif line.strip():
      instruction = _instruction(line)
      instructions[instruction.name] = instruction
  if entry is None:
    raise ValueError("the program's text has no entry computation")
  return Program(computations, entry)


def arrays(text: str) -> tuple[Array, ...]:
  """The arrays of a type, such as `bf16[128,12]{0,1:T(8,128)(2,1)S(1)}` or a tuple of such, in their order.

  The minor dimensions are padded to whole tiles: with batch 128 in the lanes of `T(8,128)`, 12 channels take 16.
  """
  return tuple(_array(*each) for each in _ARRAY.findall(text))


def _array(element: str, dimensions: str, layout: str) -> Array:
  bits = 8 if element == "pred" else int((re.search(r"\d+", element) or "0")[0])
  shape = [int(size) for size in dimensions.split(",") if size]
  order, _, rest = layout.strip("{}").partition(":")
  minor_first = [int(each) for each in order.split(",") if each] or [*reversed(range(len(shape)))]
  sizes = [shape[each] for each in minor_first]
  if tile := _TILE.search(rest):
    # The second tile, as (2,1) of bfloat16, orders what lies in the first and pads nothing. A scalar fills a tile.
    tiled = [int(each) for each in reversed(tile[1].split(",")) if each.isdigit()]
    sizes = sizes or [1]
    sizes = [-(-size // each) * each for size, each in zip(sizes, tiled, strict=False)] + sizes[len(tiled) :]
  if wide := _BITS.search(rest):
    bits = int(wide[1])
  space = _SPACE.search(rest)
  return Array(math.prod(sizes) * bits // 8, int(space[1]) if space else HBM)


def _instruction(line: str) -> Instruction:
  begun = _INSTRUCTION.match(line)
  if not begun:
    raise ValueError(f"no instruction: {line[:80]}")
  rest = line[begun.end() :]
  end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
  operation = _OPERATION.match(rest, end)
  if not operation:
    raise ValueError(f"no operation: {line[:80]}")
  close = _closing(rest, operation.end() - 1)
  arguments = rest[operation.end() : close - 1]
  operands = () if operation[1] in ("parameter", "constant") else tuple(_NAME.findall(arguments))
  return Instruction(begun[2], operation[1], arrays(rest[:end]), operands, arguments, rest[close:], root=bool(begun[1]))


def _closing(text: str, start: int) -> int:
  """The place after the bracket that closes the one at `start`."""
  depth = 0
  for bracket in _BRACKET.finditer(text, start):
    depth += 1 if bracket[0] == "(" else -1
    if not depth:
      return bracket.end()
  raise ValueError(f"a bracket that is not closed: {text[:80]}")


_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = ")
_OPERATION = re.compile(r"\s*([\w\-]+)\(")
_BRACKET = re.compile(r"[()]")
_NAME = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+|f\d+e\d+\w*|c\d+)\[([\d,]*)\](\{[^}]*\})?")
_TILE = re.compile(r"T\(([^)]*)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_BITS = re.compile(r"E\((\d+)\)")
# A TPU's compiler writes it beside each instruction; every compiler the other, where it knows.
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
