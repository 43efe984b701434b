"""Files as `torch.save` writes them (torch/serialization.py), made without PyTorch; also such as it never wrote."""

import dataclasses
import io
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

KINDS = {"float32": "Float", "float16": "Half", "float64": "Double", "int64": "Long", "uint8": "Byte", "bool": "Bool"}


@dataclasses.dataclass(frozen=True)
class Name:
  """Pickled as the name of a class or function, which need not exist."""

  module: str
  name: str

  def __call__(self):  # As the pickler wants it of what a pickle calls.
    raise AssertionError


@dataclasses.dataclass(frozen=True)
class Call:
  """Pickled as a call of a name, or of what another call returns, and a state for what it returns itself."""

  function: "Name | Call"
  arguments: tuple
  state: Any = None

  __call__ = Name.__call__


@dataclasses.dataclass(frozen=True)
class Storage:
  """Pickled as a reference to a storage."""

  kind: str
  key: str
  count: Any
  view: tuple | None = None


class _Pickler(pickle._Pickler):
  def __init__(self, stream, protocol, legacy, python2):
    super().__init__(stream, protocol)
    self.legacy, self.python2 = legacy, python2

  def persistent_id(self, value):
    if not isinstance(value, Storage):
      return None
    reference = ("storage", Name("torch", f"{value.kind}Storage"), value.key, "cpu", value.count)
    return (*reference, value.view) if self.legacy else reference

  def save(self, value, save_persistent_id=True):
    if isinstance(value, Name):
      self.write(f"c{value.module}\n{value.name}\n".encode())
    elif isinstance(value, Call):
      self.save_reduce(value.function, value.arguments, value.state)
    elif isinstance(value, str) and self.python2:
      self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode())
    else:
      super().save(value, save_persistent_id)


REBUILD = Name("torch._utils", "_rebuild_tensor_v2")


def view(storage, size, stride, offset=0):
  return Call(REBUILD, (storage, offset, size, stride, False, Call(Name("collections", "OrderedDict"), ())))


class Saved:
  """A file in the making: arrays become tensors, each with a storage of its own."""

  def __init__(self):
    self.storages: dict[str, bytes] = {}
    self.widths: dict[str, int] = {}

  def storage(self, values):
    key = str(len(self.storages))
    self.storages[key], self.widths[key] = values.tobytes(), values.itemsize
    return Storage(KINDS[values.dtype.name], key, values.size)

  def tensor(self, array):
    strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).reshape(array.shape).strides)
    return view(self.storage(np.ascontiguousarray(array)), array.shape, strides)

  def tensors(self, arrays):
    return {name: self.tensor(np.asarray(value)) for name, value in arrays.items()}

  def content(self, value, legacy=False, protocol=2):
    """The file, of today or of before PyTorch 1.6."""
    return self.legacy(value, protocol) if legacy else self.zipped(value, protocol)

  def zipped(self, value, protocol=2):
    parts = {f"data/{key}": content for key, content in self.storages.items()}
    return zipped({"data.pkl": pickled(value, protocol), "byteorder": b"little", **parts})

  def legacy(self, value, protocol=2, python2=False):
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    pickles = [0x1950A86A20F9469CFC6C, 1001, machine, value, sorted(self.storages)]
    parts = [pickled(each, protocol, True, python2) for each in pickles]
    for key in sorted(self.storages):
      parts += [struct.pack("<q", len(self.storages[key]) // self.widths[key]), self.storages[key]]
    return b"".join(parts)


def pickled(value, protocol=2, legacy=False, python2=False):
  stream = io.BytesIO()
  _Pickler(stream, protocol, legacy, python2).dump(value)
  return stream.getvalue()


def zipped(parts, compression=zipfile.ZIP_STORED):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", compression) as archive:
    for name, content in parts.items():
      archive.writestr(f"archive/{name}", content)
  return stream.getvalue()
