"""A digest of what a program is made of: its functions, and every value that they close over.

Two functions with one digest are one program, as long as the packages of `KNOWN` are the same: of their functions the
names count, and what these close over, but not the globals that these read. A function from elsewhere counts with the
globals that it reads. A value of a kind that is not known here has no digest.
"""

import dataclasses
import enum
import functools
import hashlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Packages whose code is told apart by digests of files or by versions, see `dn_jax.system.kept_programs`.
KNOWN = {"dn_jax", "jax", "jaxlib", "flax", "optax", "chex", "numpy", "ml_dtypes"}
_PYTHON = {"builtins", "collections", "functools", "math", "operator", "types", "typing"}


class UnknownError(TypeError):
  """A value without a digest."""


def digest(value: Any) -> str:
  """The digest of a value, which another process finds too.

  Args:
    value: numbers, text, numpy's arrays and dtypes, devices and shardings, containers, dataclasses, and functions.

  Raises:
    UnknownError: it, or something in it, is of another kind.
  """
  return _Digests().of(value).hex()


class _Digests:
  """Digests of one value's parts; a part that several others share is looked at once."""

  def __init__(self) -> None:
    # With the values, so that no id is used again.
    self._done: dict[int, tuple[Any, bytes]] = {}
    self._open: list[int] = []

  def of(self, value: Any) -> bytes:
    if id(value) in self._done:
      return self._done[id(value)][1]
    if id(value) in self._open:  # A function that calls itself.
      return b"again %d" % self._open.index(id(value))
    self._open.append(id(value))
    kind, *parts = _parts(value)
    found = hashlib.blake2b(kind.encode(), digest_size=32)
    children = [self.of(part) for part in parts]
    for child in sorted(children) if kind in ("set", "frozenset") else children:
      found.update(len(child).to_bytes(8) + child)
    self._open.pop()
    self._done[id(value)] = (value, found.digest())
    return found.digest()


def _parts(value: Any) -> Iterator[Any]:
  """The kind of a value in words, then its parts."""
  kind = type(value)
  if name := _name(value):
    yield f"named {name}"
  elif value is None or kind in (bool, int, float, complex, str, bytes, type(...)):
    yield f"{kind.__name__} {value!r}"
  elif kind in (tuple, list, set, frozenset):
    yield from (kind.__name__, *value)
  elif kind in (dict, types.MappingProxyType):
    yield from ("dict", *value.items())
  elif kind is types.FunctionType:
    yield from _of_function(value)
  elif kind is types.MethodType:
    yield from ("method", value.__func__, value.__self__)
  elif kind is functools.partial:
    yield from ("partial", value.func, value.args, value.keywords)
  elif kind is types.CodeType:
    yield from ("code", value.co_code, value.co_flags, value.co_names, value.co_varnames, value.co_freevars)
    yield from (value.co_cellvars, value.co_consts)
  elif isinstance(value, np.dtype):
    yield f"dtype {value.str} {value.name}"
  elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind != "O":
    yield from ("array", value.dtype, value.shape, value.tobytes())
  elif isinstance(value, jax.Device):
    yield f"device {value.platform} {value.device_kind} {value.id} {value.process_index}"
  elif isinstance(value, PartitionSpec):
    yield f"spec {value!r}"
  elif isinstance(value, Mesh):
    yield from ("mesh", value.axis_names, value.devices.shape, tuple(value.devices.flat), repr(value.axis_types))
  elif isinstance(value, NamedSharding):
    yield from ("sharding", value.mesh, value.spec, value.memory_kind)
  elif name := _name(kind):
    yield from _of_instance(name, value)
  else:
    raise UnknownError(f"{kind.__module__}.{kind.__qualname__}")


def _of_instance(name: str, value: Any) -> Iterator[Any]:
  """Of a named class, whose code is known: the values of its fields."""
  if isinstance(value, enum.Enum):
    yield f"member {name}.{value.name}"
  elif dataclasses.is_dataclass(value):
    yield f"fields of {name}"
    yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
  elif isinstance(value, tuple) and hasattr(value, "_fields"):
    yield from (f"fields of {name}", *value)
  else:
    raise UnknownError(name)


def _of_function(function: types.FunctionType) -> Iterator[Any]:
  yield f"function {function.__module__}.{function.__qualname__}"
  yield from (function.__code__, function.__defaults__, function.__kwdefaults__)
  try:
    yield from (cell.cell_contents for cell in function.__closure__ or ())
  except ValueError:  # A cell that is filled later.
    raise UnknownError(function.__qualname__) from None
  if _root(function.__module__) not in KNOWN:
    for name in sorted(_names(function.__code__)):
      if name in function.__globals__:
        yield name, function.__globals__[name]


def _names(code: types.CodeType) -> set[str]:
  """The names that a function's code reads, those of the functions in it too: globals and attributes."""
  within = [const for const in code.co_consts if isinstance(const, types.CodeType)]
  return set(code.co_names).union(*map(_names, within))


def _name(value: Any) -> str | None:
  """The name under which a module of a known package, or that module itself, is found; None: it has none."""
  if isinstance(value, types.ModuleType):
    return value.__name__ if _is_known(value.__name__) and sys.modules.get(value.__name__) is value else None
  module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
  if not (isinstance(module, str) and isinstance(name, str) and _is_known(module)):
    return None
  found = functools.reduce(lambda outer, part: getattr(outer, part, None), name.split("."), sys.modules.get(module))
  return f"{module}.{name}" if found is value else None


def _is_known(module: str) -> bool:
  return _root(module) in KNOWN | _PYTHON


def _root(module: str | None) -> str:
  return (module or "").partition(".")[0]
