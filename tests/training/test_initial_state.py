"""Fine-tuning: a run that starts from a file of weights."""

import json

import jax
import numpy as np
import pytest
from conftest import call, metrics
from photographs import class_folders, halves

from dn_jax import weights
from dn_jax.config import weights_file
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.inference.load import trained_by
from dn_jax.models import build
from dn_jax.training import initial_state


def command(folder, out, *flags):
  return [
    *("experiments/train.py", "--data.name", "folder", "--data.dir", str(folder), "--data.size", "16"),
    *("--epochs", "1", "--batch-size", "8", "--out", str(out), *flags),
  ]


@pytest.fixture(scope="module")
def trained_file(tmp_path_factory):
  """A network of two classes that a run has trained, as a file that says what it is."""
  root = tmp_path_factory.mktemp("trained")
  class_folders(root / "photos", classes=("day", "night"), each=20)
  network = ("--model.depth", "10", "--model.growth-rate", "4")
  done = call(*command(root / "photos", root / "run", *network))
  assert done.returncode == 0, done.stderr
  done = call("experiments/export.py", root / "run", "--to", root / "network.safetensors")
  assert done.returncode == 0, done.stderr
  return root / "network.safetensors"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  return halves(tmp_path_factory.mktemp("three"))


def load(folder):
  network = trained_by(folder, "last", pytest.fail)
  return network.params, network.batch_stats


@pytest.mark.slow
def test_frozen_parts_of_a_fine_tuned_network_are_the_files(trained_file, photos, tmp_path):
  flags = ("--weights", str(trained_file), "--reset-classifier", "--freeze-statistics")
  parts = ("--freeze", "stem", "block1", "transition1", "block2/layer1", "--optimizer.classifier-rate", "10")
  done = call(*command(photos, tmp_path / "run", *flags, *parts))
  assert done.returncode == 0, done.stderr
  # Neither depth nor growth rate was given: the file says what network it is.
  assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["depth"] == 10
  params, batch_stats = load(tmp_path / "run")
  theirs, statistics = load(trained_file.parent / "run")
  jax.tree.map(np.testing.assert_array_equal, batch_stats, statistics)
  for name in ("stem", "block1", "transition1"):
    jax.tree.map(np.testing.assert_array_equal, params[name], theirs[name])
  assert not np.array_equal(
    params["block3"]["layer1"]["conv1"]["kernel"], theirs["block3"]["layer1"]["conv1"]["kernel"]
  )
  assert params["classifier"]["kernel"].shape[1] == 3
  again = call(*command(photos, tmp_path / "run", *flags))
  assert again.returncode == 2
  assert "--freeze: ['stem', 'block1', 'transition1', 'block2/layer1'] -> []" in again.stderr


@pytest.mark.thorough
def test_a_moving_average_is_what_is_tested_kept_and_gone_on_with(photos, tmp_path):
  network = ("--model.blocks", "1", "--model.growth-rate", "4", "--optimizer.label-smoothing", "0.1")
  averaged = (*network, "--optimizer.average", "0.99")
  for name, flags in (("plain", network), ("averaged", averaged)):
    done = call(*command(photos, tmp_path / name, *flags))
    assert done.returncode == 0, done.stderr
  plain, found = (metrics(tmp_path / name)[0] for name in ("plain", "averaged"))
  assert found["train_loss"] == plain["train_loss"]
  assert found["test_loss"] != plain["test_loss"]
  evaluated = call("experiments/evaluate.py", tmp_path / "averaged")
  assert f"top-1 error: {100 * found['test_error']:.2f} %" in evaluated.stdout


def resolved(file, **changes):
  return resolve(RunConfig(DataConfig("cifar10"), **({"weights": file} | changes)))


def test_a_run_starts_with_the_files_numbers_and_a_fresh_classifier_where_asked(trained_file):
  config = resolved(trained_file)
  network = build.build(config.model, 2)
  state = weights.read(trained_file)
  found = initial_state.variables(config, network, jax.random.key(0), (32, 32, 3), pytest.fail)
  np.testing.assert_array_equal(found["params"]["classifier"]["kernel"], state["classifier.weight"].T)
  asked = resolved(trained_file, reset_classifier=True)
  fresh = [
    initial_state.variables(asked, build.build(config.model, 5), jax.random.key(seed), (32, 32, 3), pytest.fail)
    for seed in (0, 0, 1)
  ]
  heads = [variables["params"]["classifier"]["kernel"] for variables in fresh]
  assert heads[0].shape[1] == 5
  np.testing.assert_array_equal(heads[0], heads[1])
  assert not np.array_equal(heads[0], heads[2])
  for variables in fresh:
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["block1"], found["params"]["block1"])


def test_a_file_of_all_but_the_classifier_will_do(trained_file, tmp_path):
  rest = {name: value for name, value in weights.read(trained_file).items() if not name.startswith("classifier.")}
  weights.write(tmp_path / "rest.safetensors", rest, weights_file.about(trained_file))
  config = resolved(tmp_path / "rest.safetensors", reset_classifier=True)
  found = initial_state.variables(config, build.build(config.model, 7), jax.random.key(0), (32, 32, 3), pytest.fail)
  assert found["params"]["classifier"]["kernel"].shape[1] == 7
  assert found["params"]["classifier"]["kernel"].any()
  config = resolved(tmp_path / "rest.safetensors")
  with pytest.raises(ConfigurationError, match=r"rest\.safetensors: have no classifier; give --reset-classifier"):
    initial_state.variables(config, build.build(config.model, 2), jax.random.key(0), (32, 32, 3), pytest.fail)


def test_a_file_of_a_wrapped_network_starts_a_run_and_it_is_said(trained_file, tmp_path):
  wrapped = {f"module.net.{name}": value for name, value in weights.read(trained_file).items()}
  weights.write(tmp_path / "wrapped.SAFETENSORS", wrapped, weights_file.about(trained_file))
  config, said = resolved(tmp_path / "wrapped.SAFETENSORS"), []
  network = build.build(config.model, 2)
  found = initial_state.variables(config, network, jax.random.key(0), (32, 32, 3), said.append)
  plain = initial_state.variables(resolved(trained_file), network, jax.random.key(0), (32, 32, 3), pytest.fail)
  jax.tree.map(np.testing.assert_array_equal, found, plain)
  assert said == [f"{tmp_path}/wrapped.SAFETENSORS: names of weights: module.net. taken off"]


def test_a_file_of_other_classes_or_another_network_is_refused(trained_file):
  config = resolved(trained_file)
  with pytest.raises(ConfigurationError, match="are of 2 classes, and the images of 5; give --reset-classifier"):
    initial_state.variables(config, build.build(config.model, 5), jax.random.key(0), (32, 32, 3), pytest.fail)
  other = resolved(trained_file, model=ModelConfig(depth=16, growth_rate=4))
  said = r"of another network: its dense block 1 has 1 layer, not 2; give --model.growth-rate 4 --model.depth 10$"
  with pytest.raises(UserError, match=said):
    initial_state.variables(other, build.build(other.model, 2), jax.random.key(0), (32, 32, 3), pytest.fail)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"reset_classifier": True}, "--reset-classifier True: every classifier is fresh"),
    ({"freeze": ("stem", "block4")}, "--freeze block4: did you mean block3"),
    ({"freeze": ("block1/layer17",)}, "--freeze block1/layer17: did you mean "),
    ({"freeze": ("body",)}, "--freeze body: "),
    ({"model": ModelConfig(name="resnet-110"), "freeze": ("stem",)}, "--freeze stem: is for the parts of a network"),
    ({"model": ModelConfig(depth=10), "freeze": ("stem", "block1", "block2", "block3", "transition1", "transition2",
      "last", "classifier")}, "nothing is left to train"),
  ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changes, message):
  with pytest.raises(ConfigurationError, match=message):
    resolved(None, **changes)
