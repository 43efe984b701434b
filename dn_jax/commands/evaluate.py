"""Top-1 and top-5 error of a run's network on any split, or of a file of weights on any images; by class too.

  python experiments/evaluate.py runs/cifar10+_densenet-bc-100-12_seed0 --split test
  python experiments/evaluate.py --weights densenet121.safetensors --model.name densenet-121 \\
    --data.name folder --data.dir photos --crops 10
  python experiments/evaluate.py runs/one --confusion confused     # confused.svg and confused.csv

Of at most 20 classes each has its error printed. Of five or fewer no top-5 error is.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Le

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config import weights_file
from dn_jax.config.schema import BitDepth, Channels, Count, DataConfig, Rate
from dn_jax.config.trained import Asked, Which
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.runs import rounding
from dn_jax.system import folders


@dataclasses.dataclass(frozen=True)
class Pictures:
  name: str | None = None
  """With --weights: folder, or a data set of TFDS such as imagenet2012."""
  dir: pathlib.Path | None = None
  """Folder of the data set; of a run, if it has moved since."""
  test_split: str | None = None
  """With --weights: the split of a data set of TFDS; by default test, or validation where there is none."""
  workers: Annotated[int, Ge(0), Le(1024)] | None = None
  """Processes that decode; 0: threads of this one. By default as the run has it, else 0."""
  bad_share: Rate | None = None
  """Share of the images that may be unreadable; these do not count. By default as the run has it, else 0.01."""
  max_pixels: Count | None = None
  """Pixels of an image file, above which it counts as unreadable. By default as the run has it, else 100 million."""
  bit_depth: BitDepth | None = None
  """With --weights: bits that the values of 16-bit files use; by default as the file says, else 16."""
  channels: Channels | None = None
  """With --weights: 1 for grey images; a network takes those that it was trained on, and no others."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  run: Annotated[pathlib.Path | None, tyro.conf.Positional] = None
  """The run's folder; or give --weights."""
  split: Literal["train", "valid", "test"] = "test"
  """Of a run's data set."""
  checkpoint: Which = "reported"
  """Of a run, the network whose error it reports, the last, or the best on validation."""
  weights: pathlib.Path | None = None
  """A file of weights (.safetensors, .pth, .keras, ...) or hf://OWNER/NAME[@REVISION][/FILE]."""
  asked: Annotated[Asked, tyro.conf.arg(name="")] = Asked()
  crops: Literal[1, 10] = 1
  """1: the middle of each image; 10: its corners, its middle and their mirror images, probabilities averaged."""
  batch_size: Count = 256
  """Crops at a time."""
  confusion: pathlib.Path | None = None
  """Write who was taken for whom into FILE.svg and FILE.csv."""
  data: Pictures = Pictures()


def evaluate(flags: Evaluation) -> None:
  """Measures a network, and prints its errors."""
  run, weights, data = flags.run, flags.weights, flags.data
  if (run is None) == (weights is None):
    raise UserError("give a run's folder, or --weights FILE")
  if run is not None and (flags.asked != Asked() or data.name or data.test_split or data.bit_depth or data.channels):
    raise UserError(f"{run}: a run knows its network, pictures and sizes; those flags are for --weights")
  if weights is not None and weights.is_dir():
    raise ConfigurationError("weights", weights, "is a folder; of a run, give it without --weights")
  weights_file.refuse_missing(weights)
  command_line.check_confusion(flags.confusion)
  from dn_jax.inference import load
  from dn_jax.inference.evaluate import How, of_classifier, of_run
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  say = lambda line: print(line, file=sys.stderr)
  given = {name: value for name, value in vars(data).items() if value is not None}
  how = How(flags.batch_size, flags.crops, flags.confusion is not None)
  if run is not None:
    found = of_run(folders.of("run", run), flags.split, flags.checkpoint, given, how, say)
    within = f" and {found.steps:,} steps of the next" if found.steps else ""
    print(f"{flags.split}, {found.pictures:,} pictures, network of epoch {found.epoch}{within}")
  else:
    pictures = DataConfig(**{"name": "folder"} | given)
    known = load.load(weights_file.of("weights", weights, say), flags.asked, flags.checkpoint, None, say)
    found = of_classifier(known, pictures, how, say)
    for line in found.said:
      say(line)
    print(f"{found.pictures:,} pictures, {how.crops} crop{'s' * (how.crops > 1)} of {known.input.size} pixels")
  print(f"top-1 error: {rounding.in_words(found.error)} %")
  if found.top5_error is not None:
    print(f"top-5 error: {rounding.in_words(found.top5_error)} %")
  for line in command_line.class_lines(found.class_errors):
    print(line)
  if flags.confusion:
    title = f"{run.name}, {flags.split}" if run else f"{weights.name} on {data.dir or data.name}"
    command_line.write_confusion(flags.confusion, found, title)


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  command_line.main(lambda: evaluate(parse(Evaluation, __doc__)))
