"""RDNets in timm's names: its weights give its logits here, and go back as they came."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import FIXTURES, call, relative
from photographs import halves
from variables import variables_of

from dn_jax import weights
from dn_jax.commands import flags
from dn_jax.config import weights_file, zoo
from dn_jax.config.network import complete_model
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.inference import load, predict
from dn_jax.inference.load import Asked, trained_by
from dn_jax.models import build
from dn_jax.training import initial_state
from dn_jax.weights import WeightsError, shapes

# As tests/fixtures/rdnet/make.py built it with timm.
MODEL = ModelConfig(
  family="rdnet",
  blocks=(1, 2, 2, 1),
  growth_rates=(8, 5, 12, 16),
  initial_channels=8,
  downsample=(1, 3),
  patch_size=2,
)
FLAGS = (
  "--model.family rdnet --model.blocks 1 2 2 1 --model.growth-rates 8 5 12 16 --model.initial-channels 8 "
  "--model.downsample 1 3 --model.patch-size 2"
)
TIMM, NAVER = FIXTURES / "rdnet" / "timm.safetensors", FIXTURES / "rdnet" / "naver.pth"


@functools.cache
def timm():
  return safetensors.numpy.load_file(TIMM)


def built(model=MODEL, classes=5, **changes):
  return build.build(complete_model(model), classes).clone(**changes)


def template_of(network, size=32):
  return jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), False))


def exact(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def same_bytes(state, expected):
  content = lambda each: {name: (value.dtype, value.shape, value.tobytes()) for name, value in each.items()}
  return content(state) == content(expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-10), (jnp.float32, 1e-5)])
def test_timms_weights_give_timms_logits(dtype, tolerance):
  expected = np.load(FIXTURES / "rdnet" / "logits.npz")["logits"]
  images = np.random.RandomState(0).randn(3, 27, 30, 3) * [[[[1]]], [[[1]]], [[[3]]]]
  with jax.enable_x64(dtype == jnp.float64):
    network = built(dtype=dtype, param_dtype=dtype)
    variables = weights.from_pytorch(network, timm(), template_of(network), say=pytest.fail)
    logits = jax.jit(lambda: network.apply(variables, jnp.asarray(images, dtype), False))()
    assert logits.dtype == dtype
    assert relative(expected[0], expected[1]) > 0.01  # The images make a difference.
    assert relative(np.asarray(logits), expected) < tolerance


def test_the_files_of_its_authors_are_the_same_network():
  said = []
  theirs = weights.read(NAVER, said.append)
  assert same_bytes(theirs, timm())
  assert said == [f"{NAVER}: its model is read"]


def test_a_file_goes_out_as_it_came_in_and_says_what_network_it_is(tmp_path):
  found = load.load(TIMM, Asked(model=MODEL), "reported", None, pytest.fail)
  assert same_bytes(weights.to_pytorch(found.network, found.params, found.batch_stats), timm())
  load.write(tmp_path / "w.safetensors", dataclasses.replace(found, classes=tuple("abcde")))
  assert same_bytes(safetensors.numpy.load_file(tmp_path / "w.safetensors"), timm())
  assert weights_file.about(tmp_path / "w.safetensors").model == found.model
  again = load.load(tmp_path / "w.safetensors", Asked(), "reported", None, pytest.fail)
  assert (again.network, again.classes, again.input.size) == (found.network, tuple("abcde"), found.input.size)
  assert exact(again.params, found.params)


def test_predictions_are_the_networks():
  found = load.load(TIMM, Asked(model=MODEL), "reported", None, pytest.fail)
  images = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3), np.uint8)
  normalised = (images.astype(np.float32) - found.input.mean) / found.input.std
  logits = jax.jit(lambda: found.network.apply({"params": found.params}, normalised, False))()
  chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(predict.Predictor(found, 4)(images).probabilities, chances, rtol=1e-4)


def asked_for(words):
  """The network of flags, by its parts alone."""
  return dataclasses.replace(complete_model(flags.parse(RunConfig, args=words.split()).model), name=None)


def state_of(model, classes=5):
  network = built(model, classes)
  return weights.to_pytorch(network, variables_of(network)["params"], {})


def test_shapes_tell_the_network_and_its_flags_ask_for_it():
  found = shapes.model_of(timm())
  assert found == complete_model(MODEL)
  assert shapes.flags_of(found) == FLAGS
  assert asked_for(FLAGS) == found
  assert (shapes.classes_of(timm()), shapes.channels_of(timm())) == (5, 3)


RDNETS = [name for name, published in zoo.NETWORKS.items() if published.model.get("family") == "rdnet"]


@pytest.mark.parametrize("name", RDNETS)
def test_the_shapes_of_a_published_network_tell_its_name(name):
  network = built(ModelConfig(name=name), 1000)
  params = template_of(network, 224)["params"]
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), params)
  found = shapes.model_of(weights.to_pytorch(network, zeros, {}))
  # Stochastic depth has no shape.
  assert found == dataclasses.replace(complete_model(ModelConfig(name=name)), name=None, survival=1.0)
  assert shapes.flags_of(found) == f"--model.name {name}"


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"blocks": (1, 2, 2), "growth_rates": (8, 5, 12), "downsample": (1,)}, "it has 4 dense blocks, not 3"),
    ({"blocks": (1, 2, 3, 1)}, "its dense block 3 has 2 layers, not 3"),
    ({"growth_rates": (8, 5, 16, 16)}, "the growth rate of its dense block 3 is 12, not 16"),
    ({"initial_channels": 16}, "its stem has 8 channels, not 16"),
    ({"patch_size": 4}, "its stem cuts images into patches of 2 pixels a side, not 4"),
    ({"downsample": (1, 2)}, "its transition 2 keeps the map's size"),
    ({"downsample": (1,)}, "its transition 3 halves the map's size"),
    ({"compression": 0.9}, "its transition 2 keeps 8 channels, not 16"),
  ],
)
def test_a_wrong_flag_is_answered_with_the_first_difference_and_the_flags_that_fit(changes, said):
  with pytest.raises(UserError) as error:
    load.network_of_file(TIMM, dataclasses.replace(MODEL, **changes), "inference", pytest.fail)
  assert str(error.value) == f"{TIMM}: is of another network: {said}; give {FLAGS}"


def test_a_densenet_is_no_rdnet_and_the_answer_has_the_flags(tmp_path):
  with pytest.raises(UserError) as error:
    load.network_of_file(TIMM, ModelConfig(), "inference", pytest.fail)
  assert str(error.value) == f"{TIMM}: is of another network: it is an RDNet, not a DenseNet; give {FLAGS}"
  network = build.build(complete_model(ModelConfig(blocks=(2, 1), growth_rate=4)), 10)
  weights.write(tmp_path / "w.safetensors", weights.to_pytorch(network, **variables_of(network)))
  with pytest.raises(UserError, match=r"it is a DenseNet, not an RDNet; give --model.blocks 2 1 --model.growth-rate 4"):
    load.network_of_file(tmp_path / "w.safetensors", MODEL, "inference", pytest.fail)


def overlapping(state):
  own = {name: value for name, value in state.items() if not name.startswith("stem.")}
  return own | {
    "stem.0.weight": np.zeros((8, 3, 3, 3), np.float32),
    "stem.1.weight": np.zeros((8, 8, 3, 3), np.float32),
    "stem.2.weight": np.ones(8, np.float32),
  }


def normed_first(state):
  return {name.replace("head.norm.", "norm_pre."): value for name, value in state.items()}


def without_scale(state):
  return {name: value for name, value in state.items() if not name.endswith(".gamma")}


def without_biases(state):
  return {name: value for name, value in state.items() if name != "stem.0.bias"}


def wider(state):
  name = "dense_stages.0.0.dense_block0.layers.layers.2.weight"
  return state | {name: np.zeros((24, 8, 1, 1), np.float32)}


def excited(state):
  name = "dense_stages.1.2.dense_block0.layers.layers.5.fc"
  return state | {f"{name}.weight": np.zeros((5, 5, 1, 1), np.float32), f"{name}.bias": np.zeros(5, np.float32)}


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (overlapping, "is an RDNet whose stem is of overlapping 3x3 convolutions (timm's `overlap`)"),
    (normed_first, "is an RDNet with a norm before its pool (timm's `head_norm_first`)"),
    (without_scale, "is an RDNet without layer scale"),
    (without_biases, "the weights do not fit the network (missing: stem.0.bias)"),
    (wider, "the weights do not fit the network (shape: dense_stages.0.0.dense_block0.layers.layers.2.weight is (24, "),
    (excited, "the weights do not fit the network (unknown: dense_stages.1.2.dense_block0.layers.layers.5.fc."),
  ],
)
@pytest.mark.parametrize("model", [MODEL, ModelConfig()])
def test_a_relative_is_refused_in_a_line_whatever_was_asked_for(change, said, model, tmp_path):
  weights.write(tmp_path / "w.safetensors", change(timm()))
  with pytest.raises(UserError) as error:
    load.network_of_file(tmp_path / "w.safetensors", model, "inference", pytest.fail)
  line = str(error.value).removeprefix(f"{tmp_path}/w.safetensors: ")
  assert len(line.splitlines()) == 1
  if model == MODEL or said.startswith("is an RDNet"):
    assert line.startswith(said)
  else:
    assert line == f"is of another network: it is an RDNet, not a DenseNet; give {FLAGS}"


WRAPPED = {
  "module": (lambda name: f"module.{name}", ["module. taken off"]),
  "lightning": (lambda name: f"model._orig_mod.{name}", ["model._orig_mod. taken off"]),
  "a wrapper": (lambda name: f"net.rdnet.{name}", ["net.rdnet. taken off"]),
  "compiled within": (lambda name: re.sub(r"(dense_block\d)\.", r"\1._orig_mod.", name), ["_orig_mod. taken off"]),
  "authors'": (lambda name: name.replace("stem.", "stem.stem."), []),
  "authors' in a wrapper": (lambda name: "net." + name.replace("stem.", "stem.stem."), ["net. taken off"]),
  "a sequential": (lambda name: name.replace("head.fc.", "head.fc.1."), ["head.fc.1 read as head.fc"]),
}


@pytest.mark.parametrize("spelling", WRAPPED)
def test_wrappers_are_taken_off_and_named(spelling):
  spell, changes = WRAPPED[spelling]
  network, said = built(), []
  template = template_of(network)
  expected = weights.from_pytorch(network, timm(), template, say=pytest.fail)
  spelled = {spell(name): value for name, value in timm().items()}
  assert exact(weights.from_pytorch(network, spelled, template, say=said.append), expected)
  assert said == [f"names of weights: {each}" for each in changes]


@pytest.mark.parametrize(
  ("more", "fault"),
  [
    ({"stem.stem.0.bias": "stem.0.bias"}, "twice: stem.0.bias, as stem.stem.0.bias too"),
    ({"module.head.fc.bias": "head.fc.bias"}, "twice: head.fc.bias, as module.head.fc.bias too"),
    ({"teacher.stem.0.bias": "stem.0.bias"}, "unknown: teacher.stem.0.bias"),
    ({"dense_stages.0.2.dense_block0.gamma": "stem.0.bias"}, "unknown: dense_stages.0.2.dense_block0.gamma"),
    ({"features.denseblock1.denselayer1.norm1.bias": "stem.0.bias"}, "unknown: features.denseblock1.denselayer1."),
  ],
)
def test_tensors_beside_the_networks_are_refused(more, fault):
  network = built()
  state = timm() | {name: timm()[value] for name, value in more.items()}
  with pytest.raises(WeightsError, match=re.escape(fault)):
    weights.from_pytorch(network, state, template_of(network))


def test_halves_are_read_and_what_is_not_finite_is_named():
  network = built()
  template = template_of(network)
  half = {name: value.astype(np.float16) for name, value in timm().items()}
  full = {name: value.astype(np.float32) for name, value in half.items()}
  assert exact(*(weights.from_pytorch(network, each, template) for each in (half, full)))
  gamma = "dense_stages.2.2.dense_block1.gamma"
  with pytest.raises(WeightsError, match=f"values: {gamma} has some that are not finite"):
    weights.from_pytorch(network, timm() | {gamma: np.full(12, np.nan, np.float32)}, template)


def test_a_file_that_says_nothing_is_prepared_for_as_timm_prepares(tmp_path):
  # The published networks' patches have 4 pixels; smaller ones are for small images.
  network = built(dataclasses.replace(MODEL, patch_size=4))
  state = weights.to_pytorch(network, variables_of(network)["params"], {})
  weights.write(tmp_path / "w.safetensors", state)
  asked = Asked(model=dataclasses.replace(MODEL, patch_size=4))
  found = load.load(tmp_path / "w.safetensors", asked, "reported", None, pytest.fail)
  assert (found.input.size, found.input.resize, found.input.interpolation) == (224, 248, "bicubic")
  np.testing.assert_allclose(found.input.mean / 255, [0.485, 0.456, 0.406], rtol=1e-9)
  np.testing.assert_allclose(found.input.std / 255, [0.229, 0.224, 0.225], rtol=1e-9)
  # What a file says goes before.
  said = dataclasses.replace(found, input=dataclasses.replace(found.input, resize=256, interpolation="bilinear"))
  load.write(tmp_path / "w.safetensors", said)
  again = load.load(tmp_path / "w.safetensors", Asked(), "reported", None, pytest.fail)
  assert (again.input.size, again.input.resize, again.input.interpolation) == (224, 256, "bilinear")
  small = load.load(TIMM, Asked(model=MODEL), "reported", None, pytest.fail)
  assert (small.input.size, small.input.resize, small.input.interpolation) == (32, 32, "bilinear")


def resolved(**changes):
  return resolve(RunConfig(DataConfig("cifar10"), MODEL, **({"weights": TIMM} | changes)))


def test_a_run_starts_with_the_files_numbers_and_a_fresh_classifier_where_asked(tmp_path):
  start = lambda config, classes: initial_state.variables(
    config, build.build(config.model, classes), jax.random.key(0), (32, 32, 3), pytest.fail
  )
  found = start(resolved(), 5)
  np.testing.assert_array_equal(found["params"]["classifier"]["kernel"], timm()["head.fc.weight"].T)
  with pytest.raises(ConfigurationError, match="are of 5 classes, and the images of 10; give --reset-classifier"):
    start(resolved(), 10)
  rest = {name: value for name, value in timm().items() if not name.startswith("head.fc.")}
  weights.write(tmp_path / "rest.safetensors", rest)
  with pytest.raises(ConfigurationError, match="have no classifier; give --reset-classifier"):
    start(resolved(weights=tmp_path / "rest.safetensors"), 10)
  for file in (TIMM, tmp_path / "rest.safetensors"):
    fresh = start(resolved(weights=file, reset_classifier=True), 10)
    assert fresh["params"].pop("classifier")["kernel"].shape == (32, 10)
    assert exact(fresh["params"], {name: found["params"][name] for name in fresh["params"]})


@pytest.mark.slow
def test_a_run_from_timms_file_keeps_what_is_frozen_and_is_exported_in_its_names(tmp_path):
  done = call(
    "experiments/train.py", "--data.name", "folder", "--data.dir", halves(tmp_path / "photos"), "--data.size", "16",
    "--epochs", "1", "--batch-size", "8", "--out", tmp_path / "run", *FLAGS.split(), "--weights", TIMM,
    "--reset-classifier", "--freeze", "stem", "block1", "transition1", "block3/layer2",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert json.loads((tmp_path / "run" / "config.json").read_text())["weights"] == str(TIMM)
  done = call("experiments/export.py", tmp_path / "run", "--to", tmp_path / "w.safetensors")
  assert done.returncode == 0, done.stderr
  found = safetensors.numpy.load_file(tmp_path / "w.safetensors")
  assert {name: value.shape for name, value in found.items() if "head.fc" not in name} == {
    name: value.shape for name, value in timm().items() if "head.fc" not in name
  }
  frozen = ("stem.", "dense_stages.0.", "dense_stages.1.0.", "dense_stages.1.1.", "dense_stages.2.2.dense_block1.")
  kept = {name for name, value in timm().items() if np.array_equal(found[name], value)}
  assert kept == {name for name in timm() if name.startswith(frozen)}
  measured = call("experiments/evaluate.py", tmp_path / "w.safetensors", "--data.dir", tmp_path / "photos")
  assert measured.returncode == 0, measured.stderr
  assert "1 crop of 16 pixels" in measured.stdout
  network = trained_by(tmp_path / "run", "last", pytest.fail)
  assert exact(load.load(tmp_path / "w.safetensors", Asked(), "last", None, pytest.fail).params, network.params)


def test_a_residual_networks_weights_are_refused():
  with pytest.raises(ConfigurationError, match=r"are read of DenseNet or RDNet alone, not of resnet"):
    resolve(RunConfig(DataConfig("cifar10"), ModelConfig(name="resnet-110"), weights=TIMM))
