"""Unpickles numbers, bytes, strings, lists, dictionaries and numpy arrays; refuses every other object by name.

A pickle names functions and gives their arguments. Here the names that numpy's arrays need stand for functions of this
file, and no other name is looked up: nothing that a pickle brings is run. `dn_jax.weights.pickled` adds PyTorch's.
"""

import io
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dn_jax.errors import first_line


class BadPickleError(Exception):
  """A pickle that is damaged, or holds other objects; the message says what."""


def unpickle(content: bytes) -> dict[Any, Any]:
  """Unpickles a dictionary, of any protocol, Python 2's too.

  Args:
    content: the pickle.

  Returns:
    The dictionary. Strings of Python 2 are bytes. Its values that were numpy arrays are arrays, of booleans, numbers or
    text; one that lies deeper, in a list, stays unread.

  Raises:
    BadPickleError: it is damaged, is no dictionary, or holds an object of another kind (named as MODULE.NAME).
  """
  try:
    found = Unpickler(io.BytesIO(content), len(content)).load()
    if not isinstance(found, dict):
      raise BadPickleError("is no pickled dictionary")
    return {key: value.read() if isinstance(value, Array) else value for key, value in found.items()}
  except BadPickleError:
    raise
  except Exception as error:  # A damaged pickle raises nearly any.
    raise BadPickleError(f"is no pickle, or a damaged one ({first_line(error)})") from None


class Function:
  """Stands for a function that a pickle names; the pickle can call it, and change nothing about it."""

  __slots__ = ("_function",)

  def __init__(self, function: Callable[..., Any]):
    self._function = function

  def __call__(self, *args: Any) -> Any:
    return self._function(*args)

  def __setstate__(self, state: Any) -> None:
    raise BadPickleError("changes a function")


class _Dtype:
  """A numpy dtype of booleans, numbers or text: no objects, no fields."""

  __slots__ = ("value",)

  def __init__(self, kind: str | bytes, *flags: Any):
    kind = kind[:_NAME].decode("latin1") if isinstance(kind, bytes) else kind
    if not isinstance(kind, str) or not re.fullmatch(r"[<>=|]?[biufSU][0-9]{1,6}", kind):
      raise BadPickleError(f"holds numpy.dtype({str(kind)[:20]!r}); only arrays of numbers are read")
    self.value = np.dtype(kind)

  def __setstate__(self, state: Any) -> None:
    _, byte_order, *of_objects = state[:5]  # numpy/core/src/multiarray/descriptor.c, arraydescr_reduce
    if any(each is not None for each in of_objects):
      raise BadPickleError("holds numpy.dtype with fields; only arrays of numbers are read")
    byte_order = byte_order.decode("latin1") if isinstance(byte_order, bytes) else byte_order
    if byte_order != "|":
      self.value = self.value.newbyteorder(byte_order)


class Array:
  """An array before it is read; its state is what `numpy.ndarray.__reduce__` gives."""

  __slots__ = ("_data", "_dtype", "_order", "_shape")

  def __setstate__(self, state: Any) -> None:
    self._shape, self._dtype, column_major, self._data = state[-4:]  # The first of five is a version.
    self._order = "F" if column_major else "C"

  def read(self) -> np.ndarray:
    if not isinstance(self._dtype, _Dtype) or not isinstance(self._data, bytes | bytearray):
      raise BadPickleError("holds a numpy array of objects; only arrays of numbers are read")
    return np.frombuffer(self._data, self._dtype.value).reshape(self._shape, order=self._order)


# Stands for the class numpy.ndarray.
_NDARRAY = object()


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> Array:
  """As numpy's: an empty array, whose state comes next."""
  if kind is not _NDARRAY:
    raise BadPickleError("holds an array of another class than numpy.ndarray")
  return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
  """As numpy's, for protocol 5."""
  array = Array()
  array.__setstate__((shape, dtype, order == "F", data))
  return array


def _scalar(dtype: Any, data: Any) -> bool | int | float:
  """A Python number, of numpy's."""
  if not isinstance(dtype, _Dtype) or dtype.value.kind not in "biuf":
    raise BadPickleError("holds a numpy scalar that is no number")
  return np.frombuffer(data, dtype.value, 1)[0].item()


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
NAMES: Mapping[str, Any] = {
  "numpy.ndarray": _NDARRAY,
  "numpy.dtype": Function(_Dtype),
  "numpy.core.numeric._frombuffer": Function(_from_buffer),
  "numpy._core.numeric._frombuffer": Function(_from_buffer),
  **{f"{module}._reconstruct": Function(_reconstruct) for module in _NUMPY},
  **{f"{module}.scalar": Function(_scalar) for module in _NUMPY},
  # Python 3 writes empty bytes so in protocols below 3.
  "__builtin__.bytes": Function(lambda: b""),
  "builtins.bytes": Function(lambda: b""),
}


def is_flat(value: Any) -> bool:
  """Whether a value may be hashed, which takes long for a large number, and for a tuple has no bound on its depth."""
  return _is_plain(value) or (isinstance(value, tuple) and len(value) <= _FEW and all(map(_is_plain, value)))


def _is_plain(value: Any) -> bool:
  if isinstance(value, int):
    return value.bit_length() <= _BITS
  return isinstance(value, str | bytes | float | None)


# A pickle names what it has made again and again in two bytes each; what takes longer than that is bounded. Members of
# a tuple that is a key, and arguments, that cost nothing; bits of a number that is a key; characters of a name.
_FEW, _BITS, _NAME = 16, 1024, 1000


# The one in C allocates what an opcode asks for before it has read so much.
class Unpickler(pickle._Unpickler):
  """Reads one pickle of a stream.

  Args:
    stream: of bytes; it gives no more of them than it has, whatever is asked for.
    size: how many bytes it has.
    names: what names in the pickle stand for; `find_class` refuses all others.
  """

  def __init__(self, stream: Any, size: int, names: Mapping[str, Any] = NAMES):
    super().__init__(stream, encoding="bytes")
    self._names, self._left = names, size

  def find_class(self, module: str, name: str) -> Any:
    if len(module) + len(name) > _NAME:
      raise BadPickleError(f"names {(module or name)[:40]!r}..., of {len(module) + len(name):,} characters")
    asked = f"{module}.{name}"
    if asked == "_codecs.encode":
      return Function(self._encode)
    return self._names[asked] if asked in self._names else self.foreign(asked)

  def foreign(self, name: str) -> Any:
    """What stands for a name that is not known."""
    raise BadPickleError(f"holds an object of {name[:80]!r}, which is not built")

  def get_extension(self, code: int) -> None:
    raise BadPickleError("holds an object by a number of copyreg, which is not built")

  def key(self, value: Any) -> Any:
    """What stands for a dictionary's key or a set's member."""
    if not is_flat(value):
      raise BadPickleError(f"has a key that is a {type(value).__name__} of objects")
    return value

  def _encode(self, text: Any, encoding: Any) -> bytes:
    """Bytes, as Python 3 writes them in protocols below 3; together no more than the pickle itself."""
    if encoding != "latin1" or not isinstance(text, str):
      raise BadPickleError("holds text in another encoding than latin1")
    self.spend(len(text))
    return text.encode("latin1")

  def spend(self, count: int) -> None:
    """Counts what a function copies: a pickle names it again and again in a few bytes.

    Raises:
      BadPickleError: together it is more than the pickle's bytes.
    """
    self._left -= count
    if self._left < 0:
      raise BadPickleError("builds more than its size holds")

  def _load_bytearray(self) -> None:
    (size,) = struct.unpack("<Q", self.read(8))
    self.append(bytearray(self.read(size)))

  def _load_dict(self) -> None:
    items = self.pop_mark()
    self.append({self.key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

  def _load_item(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self.stack[-1][self.key(key)] = value

  def _load_items(self) -> None:
    items = self.pop_mark()
    for key, value in zip(items[::2], items[1::2], strict=True):
      self.stack[-1][self.key(key)] = value

  def _load_members(self) -> None:
    members = self.pop_mark()
    for each in members:
      self.stack[-1].add(self.key(each))

  def _load_frozen(self) -> None:
    self.append(frozenset(map(self.key, self.pop_mark())))

  def _load_called(self) -> None:
    """A call, or an object: no class is at hand whose object could be made otherwise."""
    arguments, made = self.stack.pop(), self.stack.pop()
    self._call(made, arguments, {})

  def _load_object_by_names(self) -> None:
    by_name, arguments, made = self.stack.pop(), self.stack.pop(), self.stack.pop()
    self._call(made, arguments, by_name)

  def _call(self, made: Any, arguments: Any, by_name: Any) -> None:
    if (count := len(arguments) + len(by_name)) > _FEW:
      self.spend(count)
    self.append(made(*arguments, **by_name))

  dispatch = pickle._Unpickler.dispatch | {
    pickle.BYTEARRAY8[0]: _load_bytearray,
    pickle.DICT[0]: _load_dict,
    pickle.SETITEM[0]: _load_item,
    pickle.SETITEMS[0]: _load_items,
    pickle.ADDITEMS[0]: _load_members,
    pickle.FROZENSET[0]: _load_frozen,
    pickle.REDUCE[0]: _load_called,
    pickle.NEWOBJ[0]: _load_called,
    pickle.NEWOBJ_EX[0]: _load_object_by_names,
  }
