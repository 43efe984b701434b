"""Images a second of the stream that training reads, beside torchvision's own loader.

  python experiments/loading.py --torch-python ~/torch/bin/python

Both read the same JPEG files, crop at random to 224 pixels, mirror and normalise. Here mirror and normalisation run on
the device, and count too. The stream reads in threads by default, and is measured with processes as well.
"""

import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import cv2
import jax
import numpy as np

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config.schema import NOT_WRITTEN, Count, Unset, Whole
from dn_jax.data import sources, stream
from dn_jax.data.augment import jitter_light_mirror, normalise
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.system import compilation

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_PEER = pathlib.Path(__file__).parent / "peers" / "torchvision_loader.py"


@dataclasses.dataclass(frozen=True)
class Loading:
  pictures: Annotated[pathlib.Path | None, Unset("generated JPEG files of 500x375 pixels")] = None
  """Read the images CLASS/IMAGE of this folder."""
  count: Count = 1000
  """Generate so many files."""
  batch_size: Count = 64
  """Take so many images per batch."""
  workers: Whole = 2
  """Have so many processes read for torchvision's loader, and for the stream when it uses processes."""
  repeats: Count = 3
  """Measure each so many times, in turns."""
  torch_python: Annotated[pathlib.Path | None, Unset("without torchvision")] = None
  """Start torchvision's loader by this Python."""
  json: Annotated[pathlib.Path | None, NOT_WRITTEN] = None
  """Write all numbers into this file."""


def made_up(folder: pathlib.Path, count: int) -> pathlib.Path:
  """Photograph-like JPEG files: smooth shapes under grain, quality 90, about 60 KB each."""
  rng = np.random.default_rng(0)
  for number in range(count):
    place = folder / f"class{number % 10}"
    place.mkdir(parents=True, exist_ok=True)
    shapes = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 6, shapes.shape)
    picture = np.clip(shapes + grain, 0, 255).astype(np.uint8)
    cv2.imwrite(str(place / f"{number}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
  return folder


def ours(folder: pathlib.Path, batch_size: int, workers: int, *, plain: bool) -> float:
  """Images a second of our stream, without the first two batches of each worker.

  Args:
    folder: of class folders.
    batch_size: images a batch.
    workers: processes; 0: threads.
    plain: no jitter of colours and lighting, like the peer.
  """
  source = sources.class_folders("pictures", folder)
  training = stream.Training(source, 0, 224, batch_size, tuple(range(batch_size)), True, 256)
  change = functools.partial(jitter_light_mirror, **({"jitter": 0, "lighting": 0} if plain else {}))
  on_device = jax.jit(lambda images, key, numbers: normalise(change(images, key, numbers), _MEAN, _STD))
  skipped = 2 * max(workers, 1)
  steps = training.steps_per_epoch + skipped
  batches, key, begin = training.batches(0, steps, workers), jax.random.key(0), 0.0
  for number, columns in enumerate(batches):
    jax.block_until_ready(on_device(columns["image"], key, columns["number"]))
    if number + 1 == skipped:
      begin = time.perf_counter()
  return (steps - skipped) * batch_size / (time.perf_counter() - begin)


def theirs(python: pathlib.Path, folder: pathlib.Path, batch_size: int, workers: int) -> float:
  """Images a second of torchvision's loader, in a process of its own."""
  done = subprocess.run(
    [python, _PEER, folder, str(batch_size), str(workers)], capture_output=True, text=True, check=False
  )
  if done.returncode:
    lines = done.stderr.strip().splitlines() or ["no word"]
    raise UserError(f"torchvision's loader failed: {lines[-1]}")
  return float(done.stdout.split()[-1])


def loading(flags: Loading) -> None:
  command_line.check_file("json", flags.json)
  if flags.torch_python and not os.access(flags.torch_python, os.X_OK):
    raise ConfigurationError("torch-python", flags.torch_python, "is no program")
  with tempfile.TemporaryDirectory() as temporary:
    folder = flags.pictures or made_up(pathlib.Path(temporary), flags.count)
    files = sources.class_folders("pictures", folder)
    if len(files) < flags.batch_size:
      raise ConfigurationError("batch-size", flags.batch_size, f"there are {len(files)} images; at most that")
    measured = functools.partial(ours, folder, flags.batch_size)
    ways = {
      "dn_jax": functools.partial(measured, 0, plain=True),
      "dn_jax, colours and lighting too": functools.partial(measured, 0, plain=False),
    }
    if flags.workers:
      ways[f"dn_jax, {flags.workers} processes"] = functools.partial(measured, flags.workers, plain=True)
    if flags.torch_python:
      ways["torchvision"] = functools.partial(theirs, flags.torch_python, folder, flags.batch_size, flags.workers)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(flags.repeats):
      for name, measure in ways.items():
        rates[name].append(measure())
        print(f"{name}: {rates[name][-1]:,.0f} images/s", file=sys.stderr)
  print(f"{len(files):,} images, batches of {flags.batch_size}, {os.cpu_count()} processors, {platform.machine()}")
  for name, found in rates.items():
    beside = ""
    if "torchvision" in rates and name != "torchvision":
      ratios = [a / b for a, b in zip(found, rates["torchvision"], strict=True)]
      beside = f"   {statistics.median(ratios):.2f} of torchvision's ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{name:36s}{statistics.median(found):8,.0f} images/s{beside}")
  if flags.json:
    flags.json.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
  compilation.keep_compiled_programs()
  command_line.main(lambda: loading(parse(Loading, __doc__)))
