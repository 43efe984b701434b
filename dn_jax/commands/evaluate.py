"""Top-1 and top-5 error of runs' networks on any split, or of a file of weights on any images; by class too.

  python experiments/evaluate.py runs/cifar10+_densenet-bc-100-12_seed0
  python experiments/evaluate.py runs/ablation --split valid       # a table
  python experiments/evaluate.py densenet121.safetensors \\
    --model.name densenet-121 --data.dir photos --crops 10
  python experiments/evaluate.py runs/one --confusion confused       # .svg,.csv

Of one network with at most 20 classes the error of each is printed. Of five or fewer no top-5 error is. Each of several
runs is measured on its own data set; one that cannot be measured is named, the others are measured, and the exit code
is 2.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Ge, Le

from dn_jax.commands import command_line
from dn_jax.commands.flags import parse
from dn_jax.config import weights_file
from dn_jax.config.network import name_of
from dn_jax.config.resolve import data_name
from dn_jax.config.schema import NOT_WRITTEN, BitDepth, Channels, Count, DataConfig, Rate, Unset
from dn_jax.config.trained import Asked, Which
from dn_jax.errors import ConfigurationError, UserError, in_a_line, shown, shown_lines
from dn_jax.runs import collection, records, rounding
from dn_jax.system import folders, hub

if TYPE_CHECKING:
  from dn_jax.inference.evaluate import Measured


@dataclasses.dataclass(frozen=True)
class Images:
  name: Annotated[str | None, Unset("folder")] = None
  """Measure a file of weights on folder, or on a data set of TFDS such as imagenet2012."""
  dir: Annotated[pathlib.Path | None, Unset("as the run has it, else TFDS's own, ~/tensorflow_datasets")] = None
  """Read the data set from this folder; of a run, if it has moved since."""
  test_split: Annotated[str | None, Unset("test, or validation where there is none")] = None
  """Measure a file of weights on this split of a data set of TFDS."""
  workers: Annotated[Annotated[int, Ge(0), Le(1024)] | None, Unset("as the run has it, else 0")] = None
  """Read and decode images by this number of processes; 0: by threads of this one."""
  bad_share: Annotated[Rate | None, Unset("as the run has it, else 0.01")] = None
  """Leave out unreadable images up to this share of all, 0 to 1; more stop the command."""
  max_pixels: Annotated[Count | None, Unset("as the run has it, else 100000000")] = None
  """Count an image file of more pixels than these as unreadable."""
  bit_depth: Annotated[BitDepth | None, Unset("as the file of weights says, else 16")] = None
  """Say how many bits the values of 16-bit image files use, with a file of weights."""
  channels: Annotated[Channels | None, Unset("as the network was trained")] = None
  """Turn images to grey by 1, with a file of weights; a network takes the channels that it was trained on."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  sources: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional] = ()
  """Measure these runs, each by its folder or all by the folder around them; or one file of weights (.safetensors,
  .pth, .keras, ...) or hf://OWNER/NAME[@REVISION][/FILE]."""
  split: Literal["train", "valid", "test"] = "test"
  """Measure a run on this split of its data set."""
  checkpoint: Which = "reported"
  """Take of a run the network whose error it reports, its last one, or its best on validation."""
  weights: Annotated[pathlib.Path | None, Unset("what stands before all flags")] = None
  """Measure this file of weights, which may also stand before all flags."""
  asked: Annotated[Asked, tyro.conf.arg(name="")] = Asked()
  crops: Literal[1, 10] = 1
  """Look at the middle of each image, or at ten crops: its corners, its middle and their mirror images, probabilities
  averaged."""
  batch_size: Count = 256
  """Take so many crops at a time."""
  confusion: Annotated[pathlib.Path | None, NOT_WRITTEN] = None
  """Write whom the network takes for whom into FILE.svg and FILE.csv."""
  data: Images = Images()


def evaluate(flags: Evaluation) -> None:
  """Measures networks, and prints their errors.

  Raises:
    UserError: a flag that does not fit; or some of several runs could not be measured.
  """
  (sources, lost), data = _sources(flags), flags.data
  runs = [each for each in sources if each.is_dir()]
  if runs and (flags.asked != Asked() or data.name or data.test_split or data.bit_depth or data.channels):
    raise UserError(f"{runs[0]}: a run knows its network, images and sizes; those flags are for a file of weights")
  if flags.confusion and len(sources) + lost > 1:
    raise ConfigurationError("confusion", flags.confusion, f"is of one network; there are {len(sources) + lost} runs")
  command_line.check_confusion(flags.confusion)
  from dn_jax.inference import load
  from dn_jax.inference.evaluate import How, of_classifier, of_run
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  given = {name: value for name, value in vars(data).items() if value is not None}
  how = How(flags.batch_size, flags.crops, flags.confusion is not None)
  measured = lambda run: of_run(run, flags.split, flags.checkpoint, given, how, _say)
  if lost or len(runs) > 1:
    return _table(runs, lost, flags.split, measured)
  source = sources[0]
  if runs:
    found, title = measured(source), f"{source.name}, {flags.split}"
    within = f" and {found.steps:,} steps of the next" if found.steps else ""
    print(f"{flags.split}, {found.pictures:,} images, network of epoch {found.epoch}{within}")
  else:
    images = DataConfig(**{"name": "folder"} | given)
    known = load.load(source, flags.asked, flags.checkpoint, None, _say)
    found, title = of_classifier(known, images, how, _say), f"{source.name} on {data.dir or data.name}"
    for line in found.said:
      _say(line)
    print(f"{found.pictures:,} images, {how.crops} crop{'s' * (how.crops > 1)} of {known.input.size} pixels")
  print(f"top-1 error: {rounding.in_words(found.error)} %")
  if found.top5_error is not None:
    print(f"top-5 error: {rounding.in_words(found.top5_error)} %")
  for line in command_line.class_lines(found.class_errors):
    print(line)
  if flags.confusion:
    command_line.write_confusion(flags.confusion, found, title)
  return None


def _say(line: str) -> None:
  print(line, file=sys.stderr)


def _not_measured(error: UserError | OSError, what: str = "") -> None:
  """Names what cannot be measured; raises an error that no person can mend."""
  if (line := in_a_line(error)) is None:
    raise error
  _say(f"not measured: {what}{shown_lines(line)}")


def _sources(flags: Evaluation) -> tuple[list[pathlib.Path], int]:
  """The runs' folders, each once, or the file of weights; and of several sources how many are not there, each named."""
  if not flags.sources and flags.weights is None:
    raise UserError("give runs' folders, or a file of weights")
  if flags.sources and flags.weights is not None:
    raise ConfigurationError("weights", flags.weights, f"give it, or {flags.sources[0]}; not both")
  if flags.weights is None:
    return _several(flags.sources) if len(flags.sources) > 1 else (_found(flags.sources[0]), 0)
  if flags.weights.is_dir():
    raise ConfigurationError("weights", flags.weights, "is a folder; of a run, give it without --weights")
  weights_file.refuse_missing(flags.weights)
  return [weights_file.of("weights", flags.weights, _say)], 0


def _several(sources: Sequence[pathlib.Path]) -> tuple[list[pathlib.Path], int]:
  """`_sources` of several words, none of which may be a file of weights."""
  for source in sources:
    address = hub.address_of("source", source) if hub.is_address(source) else None
    if address or (source.name.lower().endswith(weights_file.SUFFIXES) and not folders.of("source", source).is_dir()):
      raise UserError(f"{address or source}: a file of weights is measured alone")
  found: dict[pathlib.Path, pathlib.Path] = {}  # By the place that it is in.
  lost = 0
  for source in sources:
    try:
      folder = folders.of("source", source)
      if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a run's folder")
      beside_runs = folder.name in (collection.REPORT, collection.JOBS)  # As runs/ablation/* has them too.
      if beside_runs and folder.exists() and not (folder / "config.json").exists():
        continue
      for run in _found(folder):
        found.setdefault(run.resolve(), run)
    except (UserError, OSError) as error:
      _not_measured(error)
      lost += 1
  if not found:
    raise UserError(f"{' '.join(map(shown, sources))}: hold no run")
  return list(found.values()), lost


def _found(source: pathlib.Path) -> list[pathlib.Path]:
  """The runs of a folder of runs; the one run's folder, or the file of weights."""
  path = weights_file.of("source", source, _say)
  if path.is_dir() and not (path / "config.json").exists():
    return [run.folder for run in command_line.runs_in(path).runs]
  return [weights_file.source(path, _say)]


def _table(runs: Sequence[pathlib.Path], lost: int, split: str, measured: "Callable[[pathlib.Path], Measured]") -> None:
  """Prints a line for each run that can be measured.

  Raises:
    UserError: some cannot, each named as it is met, or `lost` were named before.
  """
  import rich.markup
  import rich.table

  table = rich.table.Table(title=f"Errors on {split}")
  for column in ("run", "data", "network"):
    table.add_column(column, overflow="fold")
  for column in ("epoch", "images", "top-1, %", "top-5, %"):
    table.add_column(column, justify="right")
  console = command_line.console()
  for run in runs:
    name = rich.markup.escape(shown(run))
    try:
      with console.status(name):
        config, found = records.read_config(run), measured(run)
    except (UserError, OSError) as error:
      _not_measured(error, f"{shown(run)}: ")
      continue
    errors = ("" if each is None else rounding.in_words(each) for each in (found.error, found.top5_error))
    epoch = f"{found.epoch}{f' and {found.steps:,} steps' if found.steps else ''}"
    table.add_row(name, data_name(config), name_of(config.model), epoch, f"{found.pictures:,}", *errors)
  if table.row_count:
    console.print(table)
  asked = len(runs) + lost
  if table.row_count < asked:
    raise UserError(f"{asked - table.row_count} of {asked} runs could not be measured, see above")


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  command_line.main(lambda: evaluate(parse(Evaluation, __doc__)))
