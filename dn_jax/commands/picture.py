"""A figure for a paper, as SVG, PNG (300 dpi) or PDF.

  python experiments/picture.py diagram --to network.svg \\
    --model.name densenet-bc-100-12
  python experiments/picture.py reuse runs/one --to reuse.pdf
  python experiments/picture.py reuse densenet121.pth --to reuse.png \\
    --model.name densenet-121
  python experiments/picture.py curves runs/one runs/two --to curves.svg
  python experiments/picture.py sizes runs/cifar_table --to sizes.svg \\
    --data.name cifar10+
  python experiments/picture.py heat runs/ablation --to heat.png

Each has a --help of its own.
"""

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated

import tyro

from dn_jax.commands import command_line
from dn_jax.commands.flags import choose
from dn_jax.commands.network import DataName
from dn_jax.config import datasets, weights_file
from dn_jax.config.network import check_images, complete_model, is_for_imagenet
from dn_jax.config.schema import DataConfig, ModelConfig, Unset
from dn_jax.config.trained import Which
from dn_jax.errors import ConfigurationError, UserError, near, reason, shown
from dn_jax.system import folders

if TYPE_CHECKING:
  from matplotlib.figure import Figure

  from dn_jax.report.ablation import Cell
  from dn_jax.runs.collection import Run

Folder = Annotated[pathlib.Path, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Data:
  name: Annotated[str | None, Unset("that of the runs")] = None
  """Draw this data set, if the runs are of several: cifar10, cifar10+ or another."""


def draw_diagram(to: pathlib.Path, model: ModelConfig = ModelConfig(), data: DataName = DataName()) -> None:
  """The network as blocks and transitions, and its first dense block with all connections.

  Args:
    to: write this file, .svg, .png or .pdf.
    model: the DenseNet or RDNet.
    data: the data set of the images.
  """
  command_line.check_figure("to", to)
  complete = complete_model(dataclasses.replace(model, remat=None))
  shape, classes = _input(complete, data.name)
  check_images(complete, min(shape[:2]), 2)
  if complete.blocks is None:
    raise ConfigurationError(
      "model.family", complete.family, "has no dense blocks to draw; take a DenseNet or an RDNet"
    )
  from dn_jax.models import build
  from dn_jax.report import diagram, words

  _save(diagram.draw(build.build(complete, classes), shape, words.network(complete)), to)


def draw_reuse(
  source: Folder, to: pathlib.Path, model: ModelConfig = ModelConfig(), checkpoint: Which = "reported"
) -> None:
  """Mean absolute weights from each layer of a dense block to each later one (the paper's figure 5).

  Args:
    source: read this run's folder, or a file of weights (.safetensors, .pth, .keras, ...) or
      hf://OWNER/NAME[@REVISION][/FILE].
    to: write this file, .svg, .png or .pdf.
    model: the DenseNet of a file of weights; a run knows its own.
    checkpoint: take of a run the network whose error it reports, its last one, or its best on validation.
  """
  command_line.check_figure("to", to)
  source = weights_file.source(source, lambda line: print(line, file=sys.stderr))
  from dn_jax.inference import load
  from dn_jax.models import reuse
  from dn_jax.report import reuse_map, words
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  if source.is_dir():
    if model != ModelConfig():
      raise ConfigurationError("model", "(given)", f"{source} is a run's folder, which knows its network")
    loaded = load.trained_by(source, checkpoint, lambda line: print(line, file=sys.stderr))
    if loaded.config.model.blocks is None:
      raise UserError(f"{source}: is a {loaded.config.model.family} network; it has no dense blocks")
    title = f"{words.run(loaded.config)}, epoch {loaded.epoch}"
    network, params = loaded.network, loaded.params
  else:
    _, network, variables = load.network_of_file(source, model, "train", lambda line: print(line, file=sys.stderr))
    params = variables["params"]
    title = source.name
  _save(reuse_map.draw(reuse.mean_absolute_weights(network, params), title), to)


def draw_curves(sources: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional], to: pathlib.Path) -> None:
  """Curves by epoch: of one run, loss and error; of several, test and train errors (the paper's figure 4, right).

  Args:
    sources: read these runs, or folders of runs; runs that differ in their seeds alone share a line.
    to: write this file, .svg, .png or .pdf.
  """
  command_line.check_figure("to", to)
  if not sources:
    raise UserError("curves: give one or more folders of runs")
  from dn_jax.report import ablation, curves, words
  from dn_jax.report.figures import records_of
  from dn_jax.runs import records as run_records

  found = [run for folder in sources for run in _runs(folder)]
  if len(found) == 1:
    run = found[0]
    if not (records := run_records.read_records(run.folder)):
      raise UserError(f"{run.folder}: no epoch of this run is done yet")
    return _save(curves.draw_one(records, words.run(run.config)), to)
  groups = records_of(ablation.cells_of(found), finished=False)
  figures = curves.draw_many(groups, "Error by epoch")
  if not figures:
    raise UserError(f"{', '.join(map(str, sources))}: no epoch of these runs is done yet")
  if len(figures) > 1:
    raise UserError(f"curves: {len(groups)} lines do not fit one figure; give fewer folders")
  return _save(figures[0], to)


def draw_sizes(runs: Folder, to: pathlib.Path, data: Data = Data(), published: bool = True) -> None:
  """Test error against parameters and FLOPs by kind of network (the paper's figure 4, left and middle).

  Args:
    runs: read runs from this folder.
    to: write this file, .svg, .png or .pdf.
    data: the data set.
    published: draw the paper's errors too, hollow, if it has a column for the data set.
  """
  command_line.check_figure("to", to)
  from dn_jax.report import tradeoff
  from dn_jax.report.figures import published_column

  name, cells = _cells(runs, data.name)
  if not any(cell.finished for cell in cells):
    raise UserError(f"{runs}: no run on {name} is finished")
  column = published_column(cells) if published else None
  _save(tradeoff.draw(cells, f"Test error by size, {name}", column), to)


def draw_heat(runs: Folder, to: pathlib.Path, data: Data = Data()) -> None:
  """Test error by depth and growth rate, or by two other flags that are numbers.

  Args:
    runs: read runs from this folder.
    to: write this file, .svg, .png or .pdf.
    data: the data set.
  """
  command_line.check_figure("to", to)
  from dn_jax.report import heat

  name, cells = _cells(runs, data.name)
  if (figure := heat.draw(cells, f"Test error on {name}")) is None:
    differ = ", ".join(cells[0].values) or "none"
    fits = f"no heat map: it wants finished runs that differ in two numbers, such as depth and growth rate ({differ})"
    raise UserError(f"{runs}: {fits}")
  _save(figure, to)


def _input(model: ModelConfig, data: str | None) -> tuple[tuple[int, int, int], int]:
  """(height, width, channels) and classes."""
  if is_for_imagenet(model) and data is None:
    return (224, 224, 3), 1000
  info = datasets.info_of(DataConfig((data or "cifar10").removesuffix("+")))
  if info.streamed:
    raise ConfigurationError("data.name", data, near(data, datasets.CATALOG))
  return info.image_shape, info.num_classes


def _runs(folder: pathlib.Path) -> "list[Run]":
  return list(command_line.runs_in(folders.of("runs", folder)).runs)


def _cells(folder: pathlib.Path, data: str | None) -> "tuple[str, list[Cell]]":
  """The name of a data set and a folder's cells on it."""
  from dn_jax.report.figures import by_data

  groups = by_data(_runs(folder))
  if data is None and len(groups) == 1:
    return next(iter(groups.items()))
  if data not in groups:
    fits = near(data, groups) if data else f"the runs are of several; one of {', '.join(groups)}"
    raise ConfigurationError("data.name", data or "(unset)", fits)
  return data, groups[data]


def _save(figure: "Figure", to: pathlib.Path) -> None:
  from dn_jax.report import style

  try:
    style.save(figure, to)
  except OSError as error:
    raise ConfigurationError("to", to, f"cannot be written ({reason(error)})") from None
  print(shown(to))


FIGURES = {
  "diagram": draw_diagram,
  "reuse": draw_reuse,
  "curves": draw_curves,
  "sizes": draw_sizes,
  "heat": draw_heat,
}


def main() -> None:
  """Runs the command with the flags of `sys.argv`."""
  command_line.main(lambda: choose(FIGURES, __doc__))
