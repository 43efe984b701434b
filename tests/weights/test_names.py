"""Names of other programs and wrappers: the same weights, and their logits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FIXTURES
from variables import variables_of

from dn_jax import weights
from dn_jax.models.densenet import DenseNet
from dn_jax.weights import WeightsError

NETWORK = DenseNet((2, 1), 4, 3, 8)


def exact(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def put_before(prefix):
  return lambda name: prefix + name


def of_a_sequential(place):
  return lambda name: re.sub(r"^classifier\.", f"classifier.{place}.", name)


def first_files(name):
  return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name)


def pytorchcvs(name):
  """As `state_dict` of its DenseNet has them; see also the files that it made."""
  kinds = {"norm": "bn", "conv": "conv"}
  layer = r"denseblock(\d+)\.denselayer(\d+)\.(norm|conv)([12])"
  name = re.sub(layer, lambda found: f"stage{found[1]}.unit{found[2]}.conv{found[4]}.{kinds[found[3]]}", name)
  transition = r"transition(\d+)\.(norm|conv)"
  name = re.sub(
    transition, lambda found: f"stage{int(found[1]) + 1}.trans{int(found[1]) + 1}.conv.{kinds[found[2]]}", name
  )
  return name.replace("conv0", "init_block").replace("norm5", "post_activ.bn").replace("classifier", "output")


def bare(name):
  return name.removeprefix("features.")


SPELLINGS = {
  "module": (put_before("module."), ["names of weights: module. taken off"]),
  "compiled": (put_before("_orig_mod."), ["names of weights: _orig_mod. taken off"]),
  "lightning": (put_before("model."), ["names of weights: model. taken off"]),
  "stacked": (put_before("model._orig_mod.module."), ["names of weights: model._orig_mod.module. taken off"]),
  "wrapper": (put_before("densenet121."), ["names of weights: densenet121. taken off"]),
  "wrappers": (put_before("module.net.backbone."), ["names of weights: module.net.backbone. taken off"]),
  "within": (
    lambda name: name.replace("features.", "features.module."),
    ["names of weights: module. taken off"],
  ),
  "compiled within": (
    lambda name: re.sub(r"(denseblock\d)", r"\1._orig_mod", name),
    ["names of weights: _orig_mod. taken off"],
  ),
  "bare": (bare, ["names of weights: features. put before"]),
  "a backbone, and a classifier beside it": (
    lambda name: name.replace("features.", "encoder."),
    ["names of weights: encoder. taken off, features. put before"],
  ),
  "old": (first_files, []),
  "old in a wrapper": (
    lambda name: "module.densenet121." + first_files(name),
    ["names of weights: module.densenet121. taken off"],
  ),
  "all of it": (
    lambda name: "module.densenet121." + first_files(of_a_sequential(0)(name)),
    ["names of weights: module.densenet121. taken off, classifier.0 read as classifier"],
  ),
  "a sequential": (of_a_sequential(0), ["names of weights: classifier.0 read as classifier"]),
  "dropout before it": (
    lambda name: "net." + of_a_sequential(1)(name),
    ["names of weights: net. taken off, classifier.1 read as classifier"],
  ),
  "pytorchcv": (pytorchcvs, ["names of weights: pytorchcv's read as torchvision's"]),
  "pytorchcv in a wrapper": (
    lambda name: "module." + pytorchcvs(name),
    ["names of weights: module. taken off, pytorchcv's read as torchvision's"],
  ),
}


@pytest.fixture(scope="module")
def variables():
  return variables_of(NETWORK)


@pytest.fixture(scope="module")
def state(variables):
  return weights.to_pytorch(NETWORK, **variables)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_is_read_as_torchvisions_and_what_changed_is_said_once(spelling, variables, state, tmp_path):
  spell, expected = SPELLINGS[spelling]
  spelled = {spell(name): value for name, value in state.items()}
  assert len(spelled) == len(state)
  said = []
  assert exact(weights.from_pytorch(NETWORK, spelled, variables, say=said.append), variables)
  assert said == expected
  said.clear()
  weights.write(tmp_path / "w.SAFETENSORS", spelled)
  read = weights.read(tmp_path / "w.SAFETENSORS", said.append)
  assert exact(weights.from_pytorch(NETWORK, read, variables, say=said.append), variables)
  assert said == [f"{tmp_path}/w.SAFETENSORS: {line}" for line in expected]


def test_an_averaged_model_of_pytorchs_is_the_network_within(variables, state):
  averaged = {"n_averaged": np.array(7), **{f"module.{name}": value for name, value in state.items()}}
  assert exact(weights.from_pytorch(NETWORK, averaged, variables), variables)


@pytest.mark.parametrize(
  ("more", "fault"),
  [
    (lambda state: {f"module.{name}": value for name, value in state.items()}, "twice: features.conv0.weight, as "),
    (lambda state: {"module.classifier.bias": state["classifier.bias"]}, "twice: classifier.bias, as module."),
    (lambda state: {"features.norm_final.bias": state["features.norm5.bias"]}, "twice: features.norm5.bias, as "),
    (lambda state: {"model.model.classifier.bias": state["classifier.bias"]}, "twice: classifier.bias, as model."),
  ],
)
def test_names_given_twice_are_refused(more, fault, variables, state, tmp_path):
  with pytest.raises(WeightsError, match=re.escape(fault)):
    weights.from_pytorch(NETWORK, state | more(state), variables)
  # Of a file, in one line.
  path = tmp_path / "w.safetensors"
  weights.write(path, state | more(state))
  with pytest.raises(WeightsError) as error:
    weights.read(path, pytest.fail)
  line, count = str(error.value), len(more(state))
  assert line.startswith(f"{path}: the weights do not fit the network (twice: ")
  assert "\n" not in line
  assert (f", and {count - 1} more)" in line) == (count > 1)


@pytest.mark.parametrize(
  ("more", "unknown"),
  [
    (lambda state: {f"teacher.{name}": value for name, value in state.items()}, "teacher.features.conv0.weight"),
    (lambda state: {"other.classifier.bias": state["classifier.bias"]}, "other.classifier.bias"),
    (lambda state: {"classifier.3.bias": state["classifier.bias"]}, "classifier.3.bias"),
    (lambda state: {"conv0.bias": state["classifier.bias"]}, "conv0.bias"),
    (lambda state: {"features.conv0.bias": state["classifier.bias"]}, "features.conv0.bias"),
    (lambda state: {"features.conv1.weight": state["features.conv0.weight"]}, "features.conv1.weight"),
  ],
)
def test_a_second_network_or_layer_beside_the_first_is_refused(more, unknown, variables, state):
  with pytest.raises(WeightsError, match=re.escape(f"unknown: {unknown}")):
    weights.from_pytorch(NETWORK, state | more(state), variables)


# As tests/fixtures/pytorch/make.py built them.
FROM_ELSEWHERE = {
  "timm": DenseNet((2, 1, 1, 2), 4, 5, 8, stem="imagenet"),
  "pytorchcv_cifar": DenseNet((2, 2, 2), 4, 10, 8, bottleneck_width=0),
  "pytorchcv_cifar_bc": DenseNet((2, 2, 2), 4, 10, 8),
  "pytorchcv_imagenet": DenseNet((2, 1, 1, 2), 4, 5, 8, stem="imagenet"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_ELSEWHERE)
def test_networks_of_timm_and_pytorchcv_give_the_logits_that_they_gave_there(name):
  network, number = FROM_ELSEWHERE[name], list(FROM_ELSEWHERE).index(name)
  size = 32 if "cifar" in name else 224
  images = np.random.RandomState(number).randn(2, size, size, 3) * [[[[1]]], [[[3]]]]
  said = []
  state = weights.read(FIXTURES / "pytorch" / f"{name}.pth", said.append)
  template = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), False))
  variables = weights.from_pytorch(network, state, template, say=said.append)
  assert any("different running averages" in line for line in said)  # As every one was drawn.
  logits = jax.jit(lambda: network.apply(variables, jnp.asarray(images, jnp.float32), False))()
  expected = np.load(FIXTURES / "pytorch" / "logits.npz")[name]
  assert np.abs(expected[0] - expected[1]).max() > 0.01  # The images make a difference.
  assert np.abs(logits - expected).max() < 1e-5
