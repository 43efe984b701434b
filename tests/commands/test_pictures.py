"""picture: each picture from a command, and what bad input gets."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import untrained
from conftest import FIXTURES, call

from dn_jax import weights
from dn_jax.config.network import complete_model
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.models import build
from dn_jax.report import curves, diagram, heat, reuse_map, tradeoff
from dn_jax.runs.records import CHECKPOINTS, write_records
from dn_jax.training import loop, optimizer, step
from dn_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  folder = untrained.grid(tmp_path_factory.mktemp("table"), [10, 16], [4, 8], 2, epochs=4)
  (folder / "notes.txt").write_text("foreign")
  return folder


@pytest.fixture
def seen(monkeypatch):
  """What the drawing functions are called with, by module."""
  calls = {}
  for module, name in (
    (curves, "draw_one"),
    (curves, "draw_many"),
    (diagram, "draw"),
    (heat, "draw"),
    (reuse_map, "draw"),
    (tradeoff, "draw"),
  ):
    drawn = getattr(module, name)
    watch = lambda *args, drawn=drawn, name=f"{module.__name__.rpartition('.')[2]}.{name}": (
      calls.setdefault(name, args) and drawn(*args)
    )
    monkeypatch.setattr(module, name, watch)
  return calls


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_a_diagram_is_drawn_from_the_flags_of_train_py(suffix, tmp_path, seen, capsys):
  to = tmp_path / f"a.{suffix}"
  untrained.script("picture", "diagram", "--model.depth", 22, "--model.growth-rate", 6, "--to", to)
  network, shape, title = seen["diagram.draw"]
  assert (network.blocks, network.growth_rate, network.num_classes, shape) == ((3, 3, 3), 6, 10, (32, 32, 3))
  assert title == "DenseNet-BC (L=22, k=6)"
  assert to.stat().st_size > 10_000
  assert capsys.readouterr().out.strip() == str(to)


def test_a_diagram_of_a_named_network_has_its_pictures(tmp_path, seen):
  untrained.script("picture", "diagram", "--model.name", "densenet-121", "--to", tmp_path / "a.svg")
  network, shape, _ = seen["diagram.draw"]
  assert (network.blocks, network.num_classes, shape) == ((6, 12, 24, 16), 1000, (224, 224, 3))


def test_a_table_is_drawn_as_heat_map_and_by_size(table, tmp_path, seen):
  untrained.script("picture", "heat", table, "--to", tmp_path / "heat.svg")
  untrained.script("picture", "sizes", table, "--to", tmp_path / "sizes.svg")
  for name in ("heat.draw", "tradeoff.draw"):
    cells = seen[name][0]
    places = sorted((cell.values["model.depth"], cell.values["model.growth-rate"]) for cell in cells)
    assert places == [(10, 4), (10, 8), (16, 4), (16, 8)]
  assert seen["tradeoff.draw"][2] is None  # The paper has no digits.
  assert {path.name for path in tmp_path.iterdir()} == {"heat.svg", "sizes.svg"}


def test_published_points_stand_beside_runs_on_the_papers_pictures(tmp_path, seen):
  folder = tmp_path / "runs"
  for augment in (False, True):
    config = RunConfig(DataConfig("cifar10", augment=augment), ModelConfig(name="densenet-40-12"), epochs=3)
    untrained.run(folder, config, 50.0)
  to = ("--to", tmp_path / "a.svg")
  untrained.script("picture", "sizes", folder, "--data.name", "cifar10+", *to)
  assert seen.pop("tradeoff.draw")[2] == "c10+"
  untrained.script("picture", "sizes", folder, "--data.name", "cifar10+", "--no-published", *to)
  assert seen["tradeoff.draw"][2] is None


def test_one_runs_curves_are_loss_and_error_and_several_ones_are_lines(table, tmp_path, seen):
  first, second, *_ = sorted(path for path in table.iterdir() if path.is_dir())
  untrained.script("picture", "curves", first, "--to", tmp_path / "one.svg")
  assert [record.epoch for record in seen["curves.draw_one"][0]] == [1, 2, 3, 4]
  untrained.script("picture", "curves", first, second, "--to", tmp_path / "two.svg")
  (groups,) = [list(seen.pop("curves.draw_many")[0].values())]
  assert sum(map(len, groups)) == 2
  untrained.script("picture", "curves", table, "--to", tmp_path / "all.svg")
  assert [len(group) for group in seen["curves.draw_many"][0].values()] == [2, 2, 2, 2]


def test_curves_of_runs_that_go_on_still_are_drawn(tmp_path, seen):
  folder = untrained.grid(tmp_path / "runs", [10], [4, 8], 1, epochs=3)
  for summary in folder.glob("*/summary.json"):
    summary.unlink()
  untrained.script("picture", "curves", folder, "--to", tmp_path / "a.svg")
  assert [len(records) for (records,) in seen["curves.draw_many"][0].values()] == [3, 3]


def mean_weights(state, blocks, growth_rate, entering, compression):
  """The map of a PyTorch state dict, by its names and layout [out, in, height, width]."""
  result = []
  for b, layers in enumerate(blocks, start=1):
    last = f"features.transition{b}.conv.weight" if b < len(blocks) else "classifier.weight"
    names = [f"features.denseblock{b}.denselayer{n}.conv1.weight" for n in range(1, layers + 1)]
    bounds = [0, *(entering + growth_rate * n for n in range(layers + 1))]
    block = np.full((layers + 1, layers + 1), np.nan)
    for target, name in enumerate([*names, last]):
      for source in range(target + 1):
        block[source, target] = np.abs(state[name][:, bounds[source] : bounds[source + 1]]).mean()
    result.append(block)
    entering = int(compression * bounds[-1])
  return result


@pytest.mark.slow
@pytest.mark.parametrize(
  "spelling", ["norm1", *(pytest.param(s, marks=pytest.mark.thorough) for s in ("norm.1", "module."))]
)
def test_the_reuse_map_of_a_file_of_weights_is_that_of_its_arrays(spelling, tmp_path, seen):
  record = np.load(FIXTURES / "pytorch_bc22_k12.npz")
  state = {name.removeprefix("final/"): record[name] for name in record if name.startswith("final/")}
  expected = mean_weights(state, (3, 3, 3), 12, 24, 0.5)
  if spelling == "norm.1":
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value for name, value in state.items()}
  elif spelling == "module.":
    state = {f"module.{name}": value for name, value in state.items()}
  weights.write(tmp_path / "w.safetensors", state)
  flags = ("--model.depth", 22, "--model.growth-rate", 12)
  untrained.script("picture", "reuse", tmp_path / "w.safetensors", *flags, "--to", tmp_path / "a.png")
  found, _ = seen["reuse_map.draw"]
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_classes_and_channels_are_those_of_the_file(tmp_path, seen):
  rng = np.random.default_rng(0)
  network = build.build(complete_model(ModelConfig(depth=10, growth_rate=4)), 7)
  shapes = jax.eval_shape(lambda key: network.init(key, jnp.zeros((1, 8, 8, 1)), False), jax.random.key(0))
  variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)
  state = weights.to_pytorch(network, **variables)
  weights.write(tmp_path / "w.safetensors", state)
  flags = ("--model.depth", 10, "--model.growth-rate", 4)
  untrained.script("picture", "reuse", tmp_path / "w.safetensors", *flags, "--to", tmp_path / "a.png")
  for ours, theirs in zip(seen["reuse_map.draw"][0], mean_weights(state, (1, 1, 1), 4, 8, 0.5), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.fixture(scope="module")
def with_checkpoints(tmp_path_factory):
  """A run of three epochs with checkpoints of all, the second the best; its state's kernels are 1, 2 and 3."""
  folder = tmp_path_factory.mktemp("runs")
  config = resolve(
    RunConfig(DataConfig("digits", validation=100), ModelConfig(depth=10, growth_rate=4), epochs=3, report="best")
  )
  own = untrained.run(folder, config, 5.0)
  network = build.build(config.model, 10)
  sgd = optimizer.make(config.optimizer, lambda _: 0.0)
  shapes = jax.eval_shape(lambda key: step.create_state(network, sgd, key, (8, 8, 1)), jax.random.key(0))
  state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  records = untrained.records_of(config, 0.05)

  records = [dataclasses.replace(r, valid_error=v) for r, v in zip(records, (0.3, 0.1, 0.2), strict=True)]
  write_records(own, records)
  with Checkpoints(own / CHECKPOINTS, 2, print) as checkpoints:
    for n, record in enumerate(records, start=1):
      params = jax.tree.map(lambda leaf, n=n: leaf + n, state.params)
      checkpoints.save(record.step, state.replace(params=params), records[:n], loop.Begun(), None)
  return own


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "weight"), [((), 2), (("--checkpoint", "last"), 3), (("--checkpoint", "best"), 2)])
def test_the_reuse_map_of_a_run_is_that_of_the_checkpoint_asked_for(flags, weight, with_checkpoints, tmp_path, seen):
  untrained.script("picture", "reuse", with_checkpoints, *flags, "--to", tmp_path / "a.svg")
  blocks, title = seen["reuse_map.draw"]
  assert {value for block in blocks for value in block.flat if not np.isnan(value)} == {weight}
  assert title.endswith(f"epoch {weight}")


@pytest.mark.slow
def test_bad_input_is_one_line_that_names_it(table, tmp_path, capsys):
  record = np.load(FIXTURES / "pytorch_bc22_k12.npz")
  state = {name.removeprefix("final/"): record[name] for name in record if name.startswith("final/")}
  weights.write(tmp_path / "w.safetensors", state)
  empty = tmp_path / "empty"
  empty.mkdir()
  one = untrained.grid(tmp_path / "one", [10], [4], 1, epochs=2)
  begun = untrained.run(tmp_path / "begun", RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4)))
  to = ("--to", tmp_path / "a.svg")
  weights.write(tmp_path / "other.safetensors", {"classifier.weight": np.zeros(3, np.float32)})
  for words, said in (
    (("reuse", tmp_path / "other.safetensors", *to), "the weights do not fit the network"),
    (("diagram", "--to", tmp_path / "a.gif"), "a.gif: must end in .png, .svg, .pdf"),
    (("diagram", "--to", tmp_path / "no" / "a.svg"), "is no file in a folder that can be written"),
    (("diagram", "--model.name", "resnet-110", *to), "--model.family resnet: has no dense blocks"),
    (("diagram", "--model.depth", 41, *to), "--model.depth 41"),
    (("diagram", "--model.name", "densenet-12", *to), "did you mean densenet-121"),
    (("reuse", tmp_path / "none.pth", *to), "there is no such run's folder or file of weights"),
    (("reuse", table, *to), "not a run's folder"),
    (("reuse", tmp_path / "w.safetensors", *to), "its dense block 1 has 3 layers, not 16; give --model.depth 22"),
    (("reuse", begun, "--model.depth", 10, *to), "is a run's folder, which knows its network"),
    (("curves", tmp_path / "none", *to), "is not a folder"),
    (("curves", empty, *to), "holds no run"),
    (("curves", begun, *to), "no epoch of this run is done yet"),
    (("sizes", begun.parent, *to), "no run on digits is finished"),
    (("sizes", table, "--data.name", "digit", *to), "--data.name digit: did you mean digits?"),
    (("heat", one, *to), "no heat map"),
    (("heat", table / "notes.txt", *to), "is not a folder"),
  ):
    line = untrained.refused(capsys, "picture", *words)
    assert line.startswith("error: ")
    assert said in line, (words, line)
  assert not (tmp_path / "a.svg").exists()


@pytest.mark.parametrize("name", ["a.jpg", "a", "no/such/folder.png"])
def test_a_place_that_cannot_hold_a_figure_is_refused(name, tmp_path, capsys):
  line = untrained.refused(capsys, "picture", "diagram", "--to", tmp_path / name)
  assert line.startswith(f"error: --to {tmp_path / name}: ")


def test_a_flag_that_is_no_number_is_refused_as_train_py_does(tmp_path):
  done = call("experiments/picture.py", "diagram", "--model.depth", "many", "--to", tmp_path / "a.svg")
  assert done.returncode == 2
  assert "Traceback" not in done.stderr + done.stdout
