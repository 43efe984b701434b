"""What a network says of pictures.

python experiments/predict.py runs/one cat.jpg dog.jpg
python experiments/predict.py densenet121.safetensors --model.name densenet-121 --labels imagenet.txt photos/
python experiments/predict.py runs/one 'photos/*.jpg' --json > said.json
python experiments/predict.py runs/one cat.jpg --cam maps/     # where in the picture it sees its class
"""

import dataclasses
import glob
import itertools
import json
import pathlib
import sys
from collections.abc import Collection
from typing import Annotated

import tyro

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config.trained import Asked, Which
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.system import folders


@dataclasses.dataclass(frozen=True)
class Where:
  dir: pathlib.Path | None = None
  """Folder of a run's data set, if it has moved since."""


def predict(
  source: Annotated[pathlib.Path, tyro.conf.Positional],
  files: Annotated[tuple[str, ...], tyro.conf.Positional],
  asked: Annotated[Asked, tyro.conf.arg(name="")] = Asked(),
  top: int = 3,
  json_lines: Annotated[bool, tyro.conf.arg(name="json")] = False,
  cam: pathlib.Path | None = None,
  batch_size: int = 32,
  checkpoint: Which = "reported",
  data: Where = Where(),
) -> None:
  """Classifies pictures.

  Args:
    source: a run's folder, or a file of weights (.safetensors, .pth) in PyTorch's names.
    files: pictures, folders of pictures, and patterns such as 'photos/*.jpg'.
    top: how many classes to name.
    json_lines: print a line of JSON for each picture.
    cam: folder for a class activation map of each picture: what each place adds to the likeliest class.
    batch_size: pictures at a time.
    checkpoint: of a run, the network whose error it reports, the last, or the best on validation.
  """
  for flag, value in (("top", top), ("batch-size", batch_size)):
    if value < 1:
      raise ConfigurationError(flag, value, "must be at least 1")
  import numpy as np

  from dn_jax.data import pictures
  from dn_jax.inference import load
  from dn_jax.inference.predict import Predictor, prepared
  from dn_jax.report import activation
  from dn_jax.system import compilation

  paths = _found(files, pictures.SUFFIXES)
  compilation.keep_compiled_programs()
  known = load.load(
    folders.of("source", source), asked, checkpoint, data.dir, lambda line: print(line, file=sys.stderr)
  )
  predictor = Predictor(known, batch_size, activations=cam is not None)
  if cam:
    try:
      cam.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ConfigurationError("cam", cam, f"cannot be written ({error.strerror})") from None
  bad = 0
  for part in itertools.batched(paths, batch_size):
    good, seen = [], []
    for path in part:
      try:
        seen.append(prepared(pictures.read(path), known.input))
        good.append(path)
      except pictures.BadPictureError as error:
        print(f"skipped: {error}", file=sys.stderr)
        bad += 1
    if not good:
      continue
    said = predictor(np.stack(seen))
    for row, path in enumerate(good):
      chances = said.probabilities[row]
      likeliest = [(known.name_of(label), float(chances[label])) for label in np.argsort(-chances, kind="stable")[:top]]
      if json_lines:
        found = [{"class": name, "probability": chance} for name, chance in likeliest]
        print(json.dumps({"picture": str(path), "classes": found}))
      else:
        print(f"{path}  " + "  ".join(f"{name} {chance:.1%}" for name, chance in likeliest))
      if cam:
        name, chance = likeliest[0]
        activation.write(_place(cam, path, paths), seen[row], said.activations[row], f"{name} {chance:.1%}")
  if bad:
    raise UserError(f"{bad} of {len(paths)} files are no pictures that can be read, see above")


def _found(files: tuple[str, ...], suffixes: Collection[str]) -> list[pathlib.Path]:
  """Pictures of files, folders and patterns, in the order given, each once."""
  result: dict[pathlib.Path, None] = {}
  if not files:
    raise UserError("pictures: give files, folders or patterns")
  for name in files:
    path = pathlib.Path(name)
    if path.is_dir():
      found = sorted(each for each in path.rglob("*") if each.suffix.lower() in suffixes and each.is_file())
    elif path.exists():
      found = [path]
    else:
      found = sorted(each for each in map(pathlib.Path, glob.glob(name, recursive=True)) if each.is_file())
    if not found:
      what = "has no pictures" if path.is_dir() else "there is no such file, and no pattern that finds one"
      raise UserError(f"{name}: {what}")
    result |= dict.fromkeys(found)
  return list(result)


def _place(folder: pathlib.Path, path: pathlib.Path, paths: list[pathlib.Path]) -> pathlib.Path:
  """A picture's map; of pictures of one name the folder's name is in it."""
  alike = sum(other.stem == path.stem for other in paths) > 1
  return folder / (("_".join(path.with_suffix("").parts[-2:]) if alike else path.stem) + ".png")


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  command_line.main(lambda: parse(predict, __doc__))
