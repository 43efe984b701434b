"""Opens Keras's files without Keras: `.keras`, `.weights.h5`, and the `.h5` of Keras 2; finds batch norm's epsilon.

A `.keras` file is a zip archive of config.json and model.weights.h5. https://keras.io/api/models/model_saving_apis
"""

import contextlib
import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dn_jax.errors import UserError, first_line

if TYPE_CHECKING:
  import h5py

SUFFIXES = (".keras", ".h5", ".hdf5")
# Of the batch norms of `keras.applications`.
EPSILON = 1.001e-5
# Less is nothing in float32.
LEAST = 1e-12
# A file of weights holds hardly more than it is long: they do not compress.
_EXPANSION, _FREE = 4, 2**24


class KerasFileError(UserError):
  """A file that cannot be read as Keras's."""


def is_keras(path: pathlib.PurePath) -> bool:
  """Whether a file's name is of one of Keras's files."""
  return path.name.lower().endswith(SUFFIXES)


def check_size(path: pathlib.Path, size: int) -> None:
  """Refuses a content of so many bytes that the file must be made to fill memory.

  Raises:
    KerasFileError: it does not fit the file's own size.
  """
  if size > _EXPANSION * path.stat().st_size + _FREE:
    raise KerasFileError(f"{path}: cannot be read; it claims to hold {size:,} bytes, far more than it is long")


@contextlib.contextmanager
def opened(path: pathlib.Path) -> "Iterator[h5py.File]":
  """Opens a file's HDF5 part.

  Raises:
    KerasFileError: h5py is not installed, or the file is not what its name says.
  """
  try:
    import h5py
  except ImportError:
    raise KerasFileError(f"{path}: Keras's files need an extra: pip install -e '.[keras]'") from None
  source = io.BytesIO(_member(path, "model.weights.h5")) if path.suffix.lower() == ".keras" else path
  try:
    file = h5py.File(source, "r")
  except (OSError, RuntimeError, ValueError) as error:
    raise KerasFileError(f"{path}: cannot be read as HDF5 ({first_line(error)})") from None
  with file:
    yield file


def epsilon_of(path: pathlib.Path) -> tuple[float, bool]:
  """What the batch norms of a file add to variances, and whether the file says so.

  Files of weights alone do not; `keras.applications`'s networks have 1.001e-5.

  Raises:
    KerasFileError: the file cannot be read, or its batch norms differ.
  """
  if (config := _config(path)) is None:
    return EPSILON, False
  epsilons = list(_epsilons(config))
  if wrong := [each for each in epsilons if not isinstance(each, int | float) or not LEAST <= each < 1]:
    raise KerasFileError(f"{path}: a batch norm's epsilon is {json.dumps(wrong[0])[:60]}, not {LEAST} to 1")
  found = set(epsilons)
  if not found:
    return EPSILON, False
  if len(found) > 1:
    raise KerasFileError(f"{path}: its batch norms have different epsilons ({', '.join(map(str, sorted(found)))})")
  return float(found.pop()), True


def layers(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
  """Class and configuration of each layer of a file's model, in order, also of models within it.

  None of a file of weights alone, nor of a model whose configuration does not list its layers.

  Raises:
    KerasFileError: the file cannot be read.
  """
  found, rest, is_model = [], [_config(path)], True
  while rest:
    value = rest.pop()
    own = value.get("config") if isinstance(value, dict) else None
    inner = own.get("layers") if isinstance(own, dict) else own
    if isinstance(inner, list):
      rest += reversed(inner)
    elif isinstance(own, dict) and not is_model:
      found.append((str(value.get("class_name")), own | {"calls": value.get("inbound_nodes")}))
      rest += [own["layer"]] if "layer" in own else []
    is_model = False
  return found


def _config(path: pathlib.Path) -> Any:
  """The configuration of a file's model; None in a file of weights alone."""
  try:
    if path.suffix.lower() == ".keras":
      return json.loads(_member(path, "config.json"))
    with opened(path) as file:
      text = file.attrs.get("model_config")
      return None if text is None else json.loads(text)
  except (ValueError, RecursionError, OSError, RuntimeError, KeyError, TypeError) as error:
    raise KerasFileError(f"{path}: its model's configuration cannot be read ({first_line(error)})") from None


def _epsilons(config: Any) -> Iterator[Any]:
  """Every batch norm's epsilon in a configuration, at any depth."""
  rest = [config]
  while rest:
    value = rest.pop()
    if isinstance(value, dict):
      own = value.get("config")
      if str(value.get("class_name")).endswith("BatchNormalization") and isinstance(own, dict):
        yield own.get("epsilon")
      rest += value.values()
    elif isinstance(value, list):
      rest += value


def _member(path: pathlib.Path, name: str) -> bytes:
  """A file of a `.keras` archive."""
  try:
    with zipfile.ZipFile(path) as archive:
      check_size(path, archive.getinfo(name).file_size)
      return archive.read(name)
  except KeyError:
    raise KerasFileError(f"{path}: cannot be read as .keras; there is no {name} in it") from None
  except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
    raise KerasFileError(f"{path}: cannot be read as .keras ({first_line(error)})") from None
