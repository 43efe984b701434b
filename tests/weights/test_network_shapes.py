"""The network that a file's shapes are of, and the answer to those who asked for another."""

import dataclasses

import numpy as np
import pytest
from variables import variables_of

from dn_jax import weights
from dn_jax.commands import flags
from dn_jax.config import weights_file
from dn_jax.config.about import About
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.inference import load
from dn_jax.models import build
from dn_jax.weights import shapes

SMALL = ModelConfig(blocks=(2, 1), growth_rate=4)
MODELS = {
  "bc": SMALL,
  "depth": ModelConfig(depth=10, growth_rate=4),
  "plain": ModelConfig(depth=7, growth_rate=3, bottleneck=False),
  "halved": ModelConfig(blocks=(2, 1), growth_rate=3, bottleneck=False, compression=0.5, initial_channels=6),
  "b": ModelConfig(blocks=(1, 1, 1), growth_rate=4, compression=1.0),
  "third": ModelConfig(blocks=(3, 2, 1), growth_rate=5, compression=0.3, initial_channels=11),
  "of two digits": ModelConfig(blocks=(3, 1), growth_rate=12, compression=0.45, initial_channels=40),
  "wide": ModelConfig(blocks=(2, 1), growth_rate=4, bottleneck_width=2),
  "one": ModelConfig(blocks=(2,), growth_rate=4),
  "imagenet": ModelConfig(blocks=(1, 2, 1, 1), growth_rate=4, stem="imagenet"),
}


def state_of(model, classes=10):
  network = build.build(complete_model(model), classes)
  return weights.to_pytorch(network, **variables_of(network))


def asked_for(words):
  """The network of flags, by its parts alone."""
  return dataclasses.replace(complete_model(flags.parse(RunConfig, args=words.split()).model), name=None)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_tell_the_network_and_its_flags_ask_for_it(name):
  found = shapes.model_of(state_of(MODELS[name]))
  assert found == complete_model(MODELS[name])
  assert asked_for(shapes.flags_of(found)) == found


@pytest.mark.parametrize(
  ("model", "words"),
  [
    (ModelConfig(depth=10, growth_rate=4), "--model.growth-rate 4 --model.depth 10"),
    (ModelConfig(depth=40), "--model.depth 40"),
    (ModelConfig(), "--model.name densenet-bc-100-12"),
    (ModelConfig(name="densenet-121"), "--model.name densenet-121"),
    (
      ModelConfig(name="densenet-121", growth_rate=16),
      "--model.blocks 6 12 24 16 --model.growth-rate 16 --model.stem imagenet",
    ),
    (
      ModelConfig(
        depth=40, bottleneck=False, compression=0.5, initial_channels=24
      ),  # pytorchcv's densenet40_k12_cifar10.
      "--model.bottleneck False --model.compression 0.5 --model.initial-channels 24 --model.depth 40",
    ),
  ],
)
def test_flags_are_the_fewest_that_ask_for_a_network(model, words):
  assert shapes.flags_of(complete_model(model)) == words
  assert asked_for(words) == dataclasses.replace(complete_model(model), name=None)


@pytest.mark.parametrize(
  ("file", "asked", "said"),
  [
    (SMALL, ModelConfig(depth=10), "it has 2 dense blocks, not 3"),
    (SMALL, ModelConfig(blocks=(2, 3), growth_rate=4), "its dense block 2 has 1 layer, not 3"),
    (SMALL, ModelConfig(blocks=(2, 1), growth_rate=5), "its growth rate is 4, not 5"),
    (SMALL, ModelConfig(blocks=(2, 1), growth_rate=4, bottleneck=False), "its layers have bottlenecks"),
    (MODELS["plain"], ModelConfig(blocks=(1, 1, 1), growth_rate=3), "its layers have no bottlenecks"),
    (SMALL, MODELS["wide"], "its bottlenecks are 4 times the growth rate wide, not 2"),
    (SMALL, ModelConfig(blocks=(2, 1), growth_rate=4, initial_channels=9), "its stem has 8 channels, not 9"),
    (SMALL, ModelConfig(blocks=(2, 1), growth_rate=4, compression=1.0), "its transition 1 keeps 8 channels, not 16"),
    (SMALL, ModelConfig(blocks=(2, 1), growth_rate=4, stem="imagenet"), "its stem is that for CIFAR, not imagenet's"),
    (MODELS["imagenet"], ModelConfig(depth=10), "its stem is that for ImageNet, not cifar's"),
  ],
)
def test_a_wrong_flag_is_answered_with_the_first_difference_and_the_flags_that_fit(file, asked, said, tmp_path):
  path = tmp_path / "w.safetensors"
  weights.write(path, {f"module.{name}": value for name, value in state_of(file).items()})
  with pytest.raises(UserError) as error:
    load.network_of_file(path, asked, "inference", lambda line: None)
  right = shapes.flags_of(complete_model(file))
  assert str(error.value) == f"{path}: is of another network: {said}; give {right}"


def refused(path, state, model=SMALL):
  weights.write(path, state)
  with pytest.raises(UserError) as error:
    load.network_of_file(path, model, "inference", pytest.fail)
  return str(error.value).removeprefix(f"{path}: ")


def test_where_no_name_is_known_one_stands_beside_one_that_was_expected(tmp_path):
  state = {"layer1.0.conv1.weight": np.zeros((4, 3, 3, 3), np.float32), "fc.weight": np.zeros((10, 4), np.float32)}
  answer = refused(tmp_path / "w.safetensors", state)
  begin = "the weights do not fit the network (it has fc.weight, where features.conv0.weight was expected, and "
  assert answer.startswith(begin)
  assert "give" not in answer


def test_a_deep_stem_is_no_network_that_flags_ask_for(tmp_path):
  # As timm's densenetblur121d has it: three 3x3 convolutions.
  state = state_of(MODELS["imagenet"])
  state["features.conv0.weight"] = np.zeros((4, 3, 3, 3), np.float32)
  state |= {
    f"features.norm0.{part}": np.ones(4, np.float32) for part in ("weight", "bias", "running_mean", "running_var")
  }
  state["features.conv2.weight"] = np.zeros((8, 4, 3, 3), np.float32)
  answer = refused(tmp_path / "w.safetensors", state, ModelConfig(blocks=(1, 2, 1, 1), growth_rate=4, stem="imagenet"))
  assert answer == "the weights do not fit the network (unknown: features.conv2.weight, and 5 more)"


@pytest.mark.parametrize(
  ("change", "answer"),
  [
    ({}, "is of another network: it has 2 dense blocks, not 3; give --model.blocks 2 1 --model.growth-rate 4"),
    ({"features.conv0.weight": np.zeros(3, np.float32)}, "has 50 tensors, too few for the network's 9000 layers"),
  ],
)
def test_a_network_that_is_not_the_shapes_is_refused_before_its_network_is_built(change, answer, tmp_path, monkeypatch):
  state = state_of(SMALL) | change
  monkeypatch.setattr(build, "build", lambda *_: pytest.fail("was built"))
  assert len(state) == 50  # Of three layers, a transition, the stem, the last norm and the classifier.
  asked = ModelConfig(blocks=(3000,) * 3, growth_rate=4)
  weights.write(tmp_path / "w.safetensors", state)
  with pytest.raises(UserError) as error:
    load.network_of_file(tmp_path / "w.safetensors", asked, "inference", pytest.fail)
  assert str(error.value) == f"{tmp_path}/w.safetensors: {answer}"


def test_a_file_that_says_it_is_a_residual_network_is_named_and_no_flag(tmp_path):
  weights.write(tmp_path / "w.safetensors", {"a": np.zeros(3)}, About(ModelConfig(family="resnet", depth=20)))
  with pytest.raises(UserError, match=r"^/.*w\.safetensors: says that it is a resnet; weights are read of DenseNet"):
    load.network_of_file(tmp_path / "w.safetensors", ModelConfig(), "inference", pytest.fail)
  with pytest.raises(ConfigurationError, match=r"^--model\.family resnet: "):
    load.network_of_file(tmp_path / "w.safetensors", ModelConfig(family="resnet", depth=20), "inference", pytest.fail)


@pytest.mark.parametrize("digits", ["99999999999", "9" * 5000])
def test_numbers_that_no_layer_has_are_a_name_that_is_not_known(digits, tmp_path):
  names = (
    f"features.denseblock{digits}.denselayer1.conv1.weight",
    f"features.stage{digits}.trans{digits}.conv.conv.weight",
  )
  for name in names:
    answer = refused(tmp_path / "w.safetensors", state_of(SMALL) | {name: np.zeros((2, 2, 1, 1), np.float32)})
    assert answer == f"the weights do not fit the network (unknown: {name})"
    assert shapes.model_of({name: np.zeros((2, 2, 1, 1))}) is None


def test_where_the_network_is_right_the_wrong_tensor_is_named_and_no_flag(tmp_path):
  state = state_of(SMALL)
  state["features.norm5.bias"][0] = np.nan
  answer = refused(tmp_path / "w.safetensors", state)
  assert answer == "the weights do not fit the network (values: features.norm5.bias has some that are not finite)"


def test_a_file_that_is_not_there_is_refused_unless_its_run_has_begun(tmp_path):
  missing = tmp_path / "nowhere.pth"
  with pytest.raises(ConfigurationError, match=r"--weights .*nowhere\.pth: there is no such file"):
    weights_file.refuse_missing(missing, tmp_path / "run")
  with pytest.raises(ConfigurationError, match="is a folder"):
    weights_file.refuse_missing(tmp_path)
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  weights_file.refuse_missing(missing, tmp_path / "run")
  weights_file.refuse_missing(None)
