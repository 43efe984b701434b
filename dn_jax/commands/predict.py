"""Classifies images by a trained network.

  python experiments/predict.py runs/one cat.jpg dog.jpg
  python experiments/predict.py densenet121.safetensors photos/ \\
    --model.name densenet-121 --labels imagenet.txt
  python experiments/predict.py runs/one 'photos/*.jpg' --json > said.json
  python experiments/predict.py runs/one cat.jpg --cam maps/

A file that cannot be read is named and skipped.
"""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config import weights_file
from dn_jax.config.schema import BitDepth, Channels, Count, Unset
from dn_jax.config.trained import Asked, Moved, Which
from dn_jax.errors import ConfigurationError, UserError, reason, shown


@dataclasses.dataclass(frozen=True)
class Files(Moved):
  max_pixels: Count = 100_000_000
  """Count an image file of more pixels than these as unreadable."""
  bit_depth: Annotated[BitDepth | None, Unset("as the network was trained, else 16")] = None
  """Say how many bits the values of 16-bit image files use."""
  channels: Annotated[Channels | None, Unset("as the network was trained")] = None
  """Turn images to grey by 1; a network takes the channels that it was trained on, and no others."""


@dataclasses.dataclass(frozen=True)
class Prediction:
  source: Annotated[pathlib.Path, tyro.conf.Positional]
  """Read this run's folder, or a file of weights (.safetensors, .pth, .keras, ...) or hf://OWNER/NAME[@REVISION][/FILE]."""
  files: Annotated[tuple[str, ...], tyro.conf.Positional]
  """Classify these images, folders of images, and patterns such as 'photos/*.jpg'."""
  asked: Annotated[Asked, tyro.conf.arg(name="")] = Asked()
  top: Count = 3
  """Print so many of the likeliest classes."""
  json: bool = False
  """Print a line of JSON for each image."""
  cam: Annotated[pathlib.Path | None, Unset("not drawn")] = None
  """Draw where each image shows its likeliest class into this folder: a map of each place's share of the logit."""
  batch_size: Count = 32
  """Classify so many images at a time."""
  checkpoint: Which = "reported"
  """Take of a run the network whose error it reports, its last one, or its best on validation."""
  data: Files = Files()


def predict(asked: Prediction) -> None:
  """Classifies images, and prints the likeliest classes of each."""
  say = lambda line: print(line, file=sys.stderr)
  source = weights_file.source(asked.source, say)
  if not asked.files:
    raise UserError("images: give files, folders or patterns")
  import numpy as np

  from dn_jax.data import image_files
  from dn_jax.inference import load
  from dn_jax.inference.predict import Predictor, prepared
  from dn_jax.report import activation
  from dn_jax.system import compilation, stderr

  stderr.drop_lines()
  paths = _found(asked.files, say)
  compilation.keep_compiled_programs()
  known = load.load(source, asked.asked, asked.checkpoint, asked.data.dir, say)
  known.input.check(asked.data.channels)
  cam = asked.cam
  predictor = Predictor(known, asked.batch_size, activations=cam is not None)
  if cam:
    try:
      cam.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ConfigurationError("cam", cam, f"cannot be written ({reason(error)})") from None
  places = _places(cam, paths) if cam else {}
  bit_depth = asked.data.bit_depth or known.input.bit_depth
  how = image_files.Reading(asked.data.max_pixels, bit_depth, known.input.channels)
  warned, bad = how.bit_depth is not None, 0
  for part in itertools.batched(paths, asked.batch_size):
    good, seen = [], []
    for path in part:
      try:
        seen.append(prepared(image_files.read(path, how), known.input))
        good.append(path)
        if not warned and (warning := image_files.shallow(image_files.bits_used(path.read_bytes()))):
          say(f"{shown(path)}: {warning}")
          warned = True
      except image_files.BadPictureError as error:
        print(f"skipped: {error}", file=sys.stderr)
        bad += 1
    if not good:
      continue
    said = predictor(np.stack(seen))
    for row, path in enumerate(good):
      chances = said.probabilities[row]
      likeliest = [
        (known.name_of(label), float(chances[label])) for label in np.argsort(-chances, kind="stable")[: asked.top]
      ]
      if asked.json:
        found = [{"class": name, "probability": chance} for name, chance in likeliest]
        print(json.dumps({"picture": str(path), "classes": found}))
      else:
        print(f"{shown(path)}  " + "  ".join(f"{shown(name)} {chance:.1%}" for name, chance in likeliest))
      if cam:
        name, chance = likeliest[0]
        activation.write(
          places[path], seen[row], said.activations[row], shown(path.name), f"{shown(name)} {chance:.1%}"
        )
  if bad:
    raise UserError(f"{bad} of {len(paths)} files cannot be read as images, see above")


def _found(files: tuple[str, ...], say: Callable[[str], None]) -> list[pathlib.Path]:
  """The image files that files, folders and patterns name, in their order, each once."""
  from dn_jax.data import walk

  result: dict[pathlib.Path, None] = {}
  for name in files:
    path, passed = pathlib.Path(name), walk.Passed()
    if path.is_dir():
      folder = walk.Walk(path, "files")
      found, passed = [path / each for each in folder.images(path)], folder.passed
    elif path.exists():
      found = [path]
    else:
      found = walk.matches(name, passed)
    line = passed.line()
    if not found:
      what = "has no images" if path.is_dir() else "there is no such file, and no pattern that finds one"
      raise UserError(f"{shown(name)}: {what}" + (f" ({line})" if line else ""))
    if line:
      say(f"{shown(name)}: {line}")
    result |= dict.fromkeys(found)
  return list(result)


def _places(folder: pathlib.Path, paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, pathlib.Path]:
  """A file of its own for each image's map: its name, with as many folders' names before it as tell it from others."""
  names = {path: path.stem for path in paths}
  for depth in range(2, max(len(path.parts) for path in paths) + 2):
    # Some file systems take capital letters for small ones.
    often = collections.Counter(name.casefold() for name in names.values())
    for path, name in names.items():
      if often[name.casefold()] > 1:
        parts = [part for part in path.parts[-depth:] if part != path.anchor]
        whole = depth > len(path.parts)  # Images of one folder that differ in their suffixes alone.
        names[path] = "_".join(parts if whole else [*parts[:-1], path.stem])
  taken: set[str] = set()
  result = {}
  for path, name in names.items():
    short = os.fsdecode(os.fsencode(name)[-200:])  # A file system takes 255 bytes.
    numbered = (short, *(f"{short}-{n}" for n in range(2, len(paths) + 2)))
    name = next(each for each in numbered if each.casefold() not in taken)
    taken.add(name.casefold())
    result[path] = folder / f"{name}.png"
  return result


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  command_line.main(lambda: predict(parse(Prediction, __doc__)))
