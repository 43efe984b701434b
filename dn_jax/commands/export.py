"""A trained network as one file: its weights, or its inference as a program that runs without this package.

  python experiments/export.py runs/one --to network.safetensors   # PyTorch's names, and a description of the network
  python experiments/export.py runs/one --to network.jaxexport     # jax.export: uint8 images -> logits

This runs the second:

  run = jax.export.deserialize(bytearray(pathlib.Path("network.jaxexport").read_bytes()))
  logits = run.call(images)    # uint8 [n, size, size, 3], or 1 for grey images; any n
"""

import pathlib
import sys
from typing import Annotated

import tyro

from dn_jax.commands import command_line
from dn_jax.config.trained import Asked, Moved, Which
from dn_jax.errors import ConfigurationError
from dn_jax.system import folders

_WEIGHTS, _PROGRAM = ".safetensors", ".jaxexport"


def export(
  source: Annotated[pathlib.Path, tyro.conf.Positional],
  to: pathlib.Path,
  asked: Annotated[Asked, tyro.conf.arg(name="")] = Asked(),
  checkpoint: Which = "reported",
  platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
  data: Moved = Moved(),
) -> None:
  """Writes a network into a file.

  Args:
    source: a run's folder, or a file of weights (.safetensors, .pth) in PyTorch's names.
    to: file, .safetensors or .jaxexport.
    checkpoint: of a run, the network whose error it reports, the last, or the best on validation.
    platforms: of a .jaxexport.
  """
  if to.suffix not in (_WEIGHTS, _PROGRAM):
    raise ConfigurationError("to", to, f"must end in {_WEIGHTS} or {_PROGRAM}")
  if to.parent != pathlib.Path() and not to.parent.is_dir():
    raise ConfigurationError("to", to, f"{to.parent} is not a folder")
  if strange := set(platforms) - {"cpu", "cuda", "rocm", "tpu"}:
    raise ConfigurationError("platforms", " ".join(sorted(strange)), "some of cpu, cuda, rocm, tpu")
  from dn_jax.inference import load
  from dn_jax.inference.predict import exported
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  say = lambda line: print(line, file=sys.stderr)
  known = load.load(folders.of("source", source), asked, checkpoint, data.dir, say)
  if to.suffix == _WEIGHTS:
    load.write(to, known)
  else:
    try:
      folders.write_whole(to, exported(known, platforms))
    except OSError as error:
      raise ConfigurationError("to", to, f"cannot be written ({error.strerror})") from None
  print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB, {known.num_classes} classes, {known.input.size} pixels a side")


main = command_line.program(export, __doc__)
