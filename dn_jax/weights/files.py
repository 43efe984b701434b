"""Files of weights: a reader for each suffix, and the one kind that is written."""

import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import safetensors
import safetensors.numpy

from dn_jax.config import keras_file
from dn_jax.config.about import About
from dn_jax.config.check import adapter
from dn_jax.config.weights_file import METADATA, WeightsError
from dn_jax.errors import first_line, shown
from dn_jax.system import folders
from dn_jax.weights import keras_files, names, pickled, shapes
from dn_jax.weights.table import State

Say = Callable[[str], None]
# By the end of a file's name, in lower case; the first that fits.
READERS: dict[str, Callable[[pathlib.Path, Say], State]] = {
  ".safetensors": lambda path, say: safetensors.numpy.load_file(path),
  **dict.fromkeys(keras_file.SUFFIXES, keras_files.read),
  **dict.fromkeys((".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".dat", ".tar"), pickled.read),
}


def read(path: pathlib.Path, say: Say = print) -> State:
  """Arrays by torchvision's names from a `.safetensors` file, PyTorch's (`dn_jax.weights.pickled`), or Keras's.

  Args:
    path: of the file; its suffix, in any case, says of which kind it is (`READERS`).
    say: receives a line about what was taken from the file or left, and about names that were translated.

  Raises:
    WeightsError: no such file, cut short, or not what its name says; names that are the same when translated.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise WeightsError(f"{path}: cannot be read; there is no such file")
  reader = next((each for end, each in READERS.items() if path.name.lower().endswith(end)), None)
  if reader is None:
    raise WeightsError(f"{path}: weights are read from files that end in {', '.join(READERS)}")
  told = lambda line: say(f"{shown(path)}: {line}")
  try:
    state = reader(path, told)
  except (OSError, safetensors.SafetensorError, TypeError, KeyError, AttributeError) as error:
    raise WeightsError(f"{path}: cannot be read as {path.suffix[1:]} ({first_line(error)})") from None
  try:
    return names.translated(state, told)
  except WeightsError as error:
    raise shapes.in_a_line(path, error) from None


def write(path: pathlib.Path, state: Mapping[str, np.ndarray], about: About | None = None) -> None:
  """Writes a state dict as safetensors, whole or not at all; `about` goes into the file's metadata.

  The same tensors and description always give the same bytes. An `OSError` says that the file cannot be written.
  """
  # As ASCII: a class's name need not be UTF-8.
  said = (
    json.dumps(adapter(About).dump_python(about, mode="json", exclude_none=True, warnings=False)) if about else None
  )
  metadata = {"format": "pt"} | ({METADATA: said} if said else {})
  content = safetensors.numpy.save({name: np.asarray(value, order="C") for name, value in state.items()}, metadata)
  folders.write_whole(pathlib.Path(path), _ordered(content))


def _ordered(content: bytes) -> bytes:
  """A safetensors file whose metadata stand in the order of their names: the library shuffles them at each start.

  Format: 8 bytes that give the header's length, the header (JSON, with spaces up to a multiple of 8), the tensors.
  """
  end = 8 + int.from_bytes(content[:8], "little")
  header = json.loads(content[8:end])
  header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text + content[end:]
