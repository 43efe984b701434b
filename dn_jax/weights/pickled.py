"""Reads files that `torch.save` wrote, today's and those before PyTorch 1.6, without PyTorch.

Such a file has a pickle, whose tensors are views of storages, and the storages' bytes: entries of a zip archive, or in
old files what follows the pickle. PyTorch's names for tensors stand for functions of this file, all other names for an
inert `Foreign`: nothing that a pickle brings is run (`dn_jax.data.unpickle`). A tensor becomes an array only once it is
known to be among the weights, and only within its storage.
"""

import contextlib
import dataclasses
import functools
import io
import math
import pathlib
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dn_jax.config.weights_file import WeightsError
from dn_jax.data.unpickle import NAMES, Array, BadPickleError, Function, Unpickler, is_flat
from dn_jax.errors import first_line, shown
from dn_jax.weights.table import State

# torch/serialization.py: `_legacy_save`.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Bytes of a name.
_LONGEST = 1000
# What people call the weights beside an optimizer's state and the like, the usual names first.
_WEIGHTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")
_DTYPES: Mapping[str, np.dtype] = {
  "Half": np.dtype(np.float16),
  "BFloat16": np.dtype(jnp.bfloat16),
  "Float": np.dtype(np.float32),
  "Double": np.dtype(np.float64),
  "ComplexFloat": np.dtype(np.complex64),
  "ComplexDouble": np.dtype(np.complex128),
  "Bool": np.dtype(np.bool_),
  "Byte": np.dtype(np.uint8),
  "Char": np.dtype(np.int8),
  "Short": np.dtype(np.int16),
  "Int": np.dtype(np.int32),
  "Long": np.dtype(np.int64),
}


def read(path: pathlib.Path, say: Callable[[str], None]) -> State:
  """The weights of a file of `torch.save`: a state dict, or the one inside a checkpoint.

  Args:
    path: of the file.
    say: receives a line about which part was taken, and one that names the objects that were left unread.

  Returns:
    Arrays by name, read-only views of the file's bytes; bfloat16 as JAX has it.

  Raises:
    WeightsError: it is damaged, is another kind of file, or its weights are no tensors.
  """
  try:
    with _opened(path) as (found, bytes_of, seen):
      place, state, others = _weights(found)
      arrays = {name: _array(name, value, bytes_of) for name, value in state.items()}
  except BadPickleError as error:
    raise WeightsError(f"{path}: {shown(error)}") from None
  except Exception as error:  # A damaged archive raises nearly any.
    raise WeightsError(f"{path}: is a damaged file of PyTorch's ({first_line(error)})") from None
  if place:
    say(f"its {_listed([place])} is read" + (f", not its {_listed(others)}" if others else ""))
  if seen.foreign:
    say(f"objects of {_listed(seen.foreign)} are left unread")
  return arrays


class Foreign:
  """Stands for a class or function that is not known, for its objects, and for what is made of these."""

  def __init__(self, name: str):
    self.name = name

  def __call__(self, *args: Any, **by_name: Any) -> "Foreign":
    return self

  def __setstate__(self, state: Any) -> None:
    pass

  def __setitem__(self, key: Any, value: Any) -> None:
    pass

  def append(self, value: Any) -> None:
    """A list's, as a pickle calls it."""

  def add(self, value: Any) -> None:
    """A set's, as a pickle calls it."""


class _Dict(dict):
  """An OrderedDict; what a pickle says of its attributes (`_metadata` of a state dict) is left."""

  def __setstate__(self, state: Any) -> None:
    pass


def _ordered(items: Any = ()) -> _Dict:
  """collections.OrderedDict, which Python 2 calls with its items."""
  return _Dict((_key(key), value) for key, value in items)


def _key(value: Any) -> Any:
  """Text where it is text, also Python 2's; a key that cannot be one is kept apart."""
  with contextlib.suppress(UnicodeDecodeError):
    value = _text(value)
  return value if is_flat(value) and not isinstance(value, bytes) else Foreign(type(value).__name__)


def _text(value: Any) -> Any:
  """Python 2's bytes as text, kept once however often a pickle names them; those too long for a name stay bytes."""
  return sys.intern(value.decode()) if isinstance(value, bytes) and len(value) <= _LONGEST else value


@dataclasses.dataclass(frozen=True)
class _Unchanging:
  """A pickle that has made it cannot change it."""

  def __setstate__(self, state: Any) -> None:
    raise BadPickleError("changes a tensor after it is made")


@dataclasses.dataclass(frozen=True)
class _Kind(_Unchanging):
  """The type of a storage's elements."""

  dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Storage(_Unchanging):
  """A part of a storage: `count` elements from `first` on."""

  dtype: np.dtype
  key: str
  first: Any
  count: Any


@dataclasses.dataclass(frozen=True)
class _Tensor(_Unchanging):
  """A view: sizes and strides in elements, from `offset` on."""

  storage: _Storage
  offset: Any
  size: Any
  stride: Any


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Any:
  """torch/_utils.py: `_rebuild_tensor`, and `_v2`, which adds requires_grad, hooks and metadata."""
  return _Tensor(storage, offset, size, stride) if isinstance(storage, _Storage) else storage


def _rebuild_as(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
  """torch/_tensor.py: `_rebuild_from_type_v2`, for a tensor with attributes, or one of a class of its own."""
  return kind if isinstance(kind, Foreign) else function(*arguments)


_TORCH: Mapping[str, Any] = {
  **NAMES,
  "collections.OrderedDict": Function(_ordered),
  "torch._utils._rebuild_tensor": Function(_rebuild_tensor),
  "torch._utils._rebuild_tensor_v2": Function(_rebuild_tensor),
  "torch._utils._rebuild_parameter": Function(lambda data, *others: data),
  "torch._utils._rebuild_parameter_with_state": Function(lambda data, *others: data),
  "torch._tensor._rebuild_from_type_v2": Function(_rebuild_as),
  "torch.Tensor": _Unchanging(),
  "torch.nn.parameter.Parameter": _Unchanging(),
  "torch.Size": Function(lambda *sizes: tuple(*sizes)),
  **{f"torch.{name}Storage": _Kind(dtype) for name, dtype in _DTYPES.items()},
}

# Those that hold a copy of their arguments.
_COPYING = ("collections.OrderedDict", "torch.Size")


@dataclasses.dataclass(frozen=True)
class _Seen:
  """What a file's pickles speak of: foreign names, and the types of storages by key."""

  foreign: dict[str, Foreign] = dataclasses.field(default_factory=dict)
  kinds: dict[str, np.dtype] = dataclasses.field(default_factory=dict)


class _Unpickler(Unpickler):
  def __init__(self, stream: Any, size: int, seen: _Seen):
    super().__init__(stream, size, _TORCH)
    self._seen = seen

  def find_class(self, module: str, name: str) -> Any:
    found = super().find_class(module, name)
    if not isinstance(found, Function):
      return found
    return Function(functools.partial(self._called, f"{module}.{name}", found))

  def _called(self, name: str, function: Callable[..., Any], *arguments: Any, **by_name: Any) -> Any:
    """What a function makes; numpy's objects that are no numbers are foreign."""
    if name in _COPYING:
      self.spend(sum(map(len, arguments)))
    try:
      return function(*arguments, **by_name)
    except BadPickleError:
      return self.foreign(name)

  def foreign(self, name: str) -> Foreign:
    return self._seen.foreign.setdefault(name, Foreign(name))

  def key(self, value: Any) -> Any:
    return _key(value)

  def persistent_load(self, pid: Any) -> _Storage | Foreign:
    """torch/serialization.py: a storage's kind, key, device, elements, and in old files the part of another."""
    word, kind, key, _, count, *views = map(_text, pid[:6])
    if word != "storage" or not isinstance(key, str):
      raise BadPickleError("refers to something that is no storage")
    if not isinstance(kind, _Kind):
      return kind if isinstance(kind, Foreign) else Foreign("a storage of no type")
    self._seen.kinds.setdefault(key, kind.dtype)
    first = 0
    if views and views[0] is not None:
      _, first, count = views[0]
    return _Storage(kind.dtype, key, first, count)


def _unpickled(stream: io.BytesIO, seen: _Seen) -> Any:
  try:
    return _Unpickler(stream, stream.getbuffer().nbytes, seen).load()
  except BadPickleError:
    raise
  except Exception as error:  # A damaged pickle raises nearly any.
    raise BadPickleError(f"has no pickle, or a damaged one ({first_line(error)})") from None


# The pickle's object, a storage's bytes by its key, and what the pickle speaks of.
_Opened = tuple[Any, Callable[[str], Any], _Seen]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[_Opened]:
  """Reads the pickle of a file."""
  with path.open("rb") as file:
    head = file.read(20)
  if head.startswith(b"PK\x03\x04"):
    with zipfile.ZipFile(path) as archive:
      yield _zipped(archive, path.stat().st_size)
  elif head.startswith(b"\x80"):
    yield _legacy(path.read_bytes())
  else:
    raise BadPickleError(f"is no file that torch.save wrote; it begins with {head!r}")


def _zipped(archive: zipfile.ZipFile, size: int) -> _Opened:
  """Today's files: NAME/data.pkl, NAME/data/KEY, NAME/byteorder."""
  entries = {entry.filename: entry for entry in archive.infolist()}
  # PyTorch stores its entries as they are, so that together they are no more than the file.
  if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
    raise BadPickleError("is a compressed zip archive, which torch.save does not write")
  if sum(entry.file_size for entry in archive.infolist()) > size:
    raise BadPickleError("is a damaged file of PyTorch's: its parts are larger than the file")
  roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
  if len(roots) != 1:
    raise BadPickleError("is a zip archive that torch.save did not write: it has no data.pkl")
  (root,) = roots
  if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
    raise BadPickleError("was written on a machine of another byte order")
  seen = _Seen()
  found = _unpickled(io.BytesIO(archive.read(f"{root}data.pkl")), seen)

  @functools.cache
  def bytes_of(key: str) -> bytes:
    if f"{root}data/{key}" not in entries:
      raise BadPickleError(f"has no storage {key!r}")
    return archive.read(f"{root}data/{key}")

  return found, bytes_of, seen


def _legacy(content: bytes) -> _Opened:
  """Files before PyTorch 1.6: five pickles, then each storage as its number of elements and its bytes."""
  stream, seen = io.BytesIO(content), _Seen()
  load = functools.partial(_unpickled, stream, seen)
  if load() != _MAGIC or load() != _PROTOCOL:
    raise BadPickleError("is a pickle that torch.save did not write")
  machine = load()
  if not isinstance(machine, dict) or machine.get("little_endian") is not True:
    raise BadPickleError("was written on a machine of another byte order")
  found, keys = load(), load()
  if not isinstance(keys, list):
    raise BadPickleError("has no list of storages")
  rest = memoryview(content)[stream.tell() :]
  storages: dict[str, memoryview] = {}
  for key in map(_text, keys):
    if not isinstance(key, str) or key not in seen.kinds or len(rest) < 8:
      raise BadPickleError(f"has no storage {key!r}, or one of a type that is not read")
    size = int.from_bytes(rest[:8], "little") * seen.kinds[key].itemsize
    storages[key], rest = rest[8 : 8 + size], rest[8 + size :]

  def bytes_of(key: str) -> memoryview:
    if key not in storages:
      raise BadPickleError(f"has no storage {key!r}")
    return storages[key]

  return found, bytes_of, seen


def _weights(found: Any) -> tuple[tuple[str, ...], dict[Any, Any], list[tuple[str, ...]]]:
  """The dictionary of tensors in a pickle's object: the keys that lead to it, itself, and the keys to all others."""
  if isinstance(found, Foreign):
    raise BadPickleError(f"is a pickled {found.name}, not its weights; save its state_dict()")
  places = sorted(_places(found), key=lambda place: [_WEIGHTS.index(key) if key in _WEIGHTS else 99 for key in place])
  if not places:
    objects = [
      f"its {'.'.join((*place, key))} is a pickled {value.name}"
      for place, each in _dictionaries(found)
      for key, value in _items(each)
      if isinstance(value, Foreign)
    ]
    raise BadPickleError("; ".join(["has no state dict of tensors", *objects[:1]]))
  first, *others = places
  if others and not set(first) <= set(_WEIGHTS):
    raise BadPickleError(f"has several dictionaries of tensors, and which is meant is not known: {_listed(places)}")
  return first, functools.reduce(lambda inside, key: inside[key], first, found), others


def _dictionaries(found: Any) -> list[tuple[tuple[str, ...], Any]]:
  """An object and the dictionaries within it, each with the keys that lead to it."""
  inside: dict[int, tuple[tuple[str, ...], Any]] = {id(found): ((), found)}
  for place, each in (walk := list(inside.values())):  # Each dictionary once, however often the file names it.
    for key, value in _items(each):
      if isinstance(value, dict) and id(value) not in inside and len(place) < 3:
        inside[id(value)] = ((*place, key), value)
        walk.append(inside[id(value)])
  return walk


def _places(found: Any) -> list[tuple[str, ...]]:
  """The keys that lead to dictionaries with tensors; one that holds others is a checkpoint, and none itself."""
  # Numbers alone, such as errors so far, are no weights.
  arrays = lambda each: any(isinstance(value, Array) or getattr(value, "size", ()) != () for _, value in _items(each))
  places = [place for place, each in _dictionaries(found) if arrays(each)]
  return [place for place in places if not any(other[: len(place)] == place != other for other in places)]


def _items(found: Any) -> list[tuple[str, Any]]:
  return [(key, value) for key, value in found.items() if isinstance(key, str)] if isinstance(found, dict) else []


def _array(name: Any, value: Any, bytes_of: Callable[[str], Any]) -> np.ndarray:
  """A tensor of the weights as an array."""
  if not isinstance(name, str):
    raise BadPickleError(f"has among its weights {name if isinstance(name, int) else type(name).__name__}, no name")
  if isinstance(value, Array):
    return value.read()
  if not isinstance(value, _Tensor):
    kind = value.name if isinstance(value, Foreign) else type(value).__name__
    raise BadPickleError(f"{name} is of {kind}, not a plain tensor")
  storage, size, stride = value.storage, value.size, value.stride
  numbers = (storage.first, storage.count, value.offset, *size, *stride)
  if not len(size) == len(stride) <= 32 or not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
    raise BadPickleError(f"{name} has a shape that no tensor has")
  elements = math.prod(size)
  if not elements:
    return np.zeros(size, storage.dtype)
  last = value.offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
  # A view that repeats elements may be of any size; none of a DenseNet's does.
  if max(elements, last + 1) > storage.count:
    raise BadPickleError(f"{name} claims {elements:,} elements of a storage of {storage.count:,}")
  content, width = bytes_of(storage.key), storage.dtype.itemsize
  if (storage.first + storage.count) * width > len(content):
    raise BadPickleError(f"{name} is cut short: its storage has {len(content):,} bytes")
  flat = np.frombuffer(content, storage.dtype, storage.count, storage.first * width)
  strides = [step * width for step in stride]
  return np.lib.stride_tricks.as_strided(flat[value.offset :], size, strides, writeable=False)


def _listed(names: Iterable[Any]) -> str:
  """The first few names, as they are printed."""
  texts = [shown(".".join(name) if isinstance(name, tuple) else name)[:80] for name in names]
  return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")
