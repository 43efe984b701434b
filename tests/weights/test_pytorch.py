"""Weights of other programs, in and out."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from conftest import RECORDS, relative
from variables import variables_of

from dn_jax import weights
from dn_jax.config.about import About
from dn_jax.config.schema import ModelConfig
from dn_jax.config.weights_file import WeightsError
from dn_jax.models.densenet import DenseNet
from dn_jax.training import parity

NETWORKS = {
  "bc": DenseNet((2, 2), 4, 10, 8),
  "plain": DenseNet((2, 3), 4, 10, 16, bottleneck_width=0, compression=1.0),
  "imagenet": DenseNet((1, 2, 1, 1), 4, 7, 8, stem="imagenet"),
}


def exact(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_round_trip_through_a_file_is_bit_for_bit(kind, tmp_path):
  network, said = NETWORKS[kind], []
  variables = variables_of(network)
  weights.write(tmp_path / "w.safetensors", weights.to_pytorch(network, **variables), {"growth_rate": 4})
  again = weights.from_pytorch(network, weights.read(tmp_path / "w.safetensors"), variables, say=said.append)
  assert exact(again, variables)
  assert said == []


read = functools.cache(parity.read)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
@pytest.mark.parametrize("when", ["init", "after_step0", "final"])
def test_a_pytorch_file_comes_back_bit_for_bit_with_all_its_names(path, when):
  with jax.enable_x64(True):
    record = read(path)
    network = record.network.clone(dtype=jnp.float64, param_dtype=jnp.float64)
    state = record.state(when)
    template = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))
    variables = weights.from_pytorch(network, state, template, say=pytest.fail)
    out = weights.to_pytorch(network, **variables)
  out = {name.replace("norm5", "norm_final"): value for name, value in out.items()}
  assert set(out) == set(state)
  for name, value in state.items():
    assert out[name].shape == value.shape, name
    assert "num_batches_tracked" in name or np.array_equal(out[name], value), name


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_file_has_pytorchs_shapes_scalars_included(kind, tmp_path):
  weights.write(tmp_path / "w.safetensors", weights.to_pytorch(NETWORKS[kind], **variables_of(NETWORKS[kind])))
  state = weights.read(tmp_path / "w.safetensors")
  assert {value.shape for name, value in state.items() if name.endswith("num_batches_tracked")} == {()}


def test_half_precision_files_are_folded_in_full():
  network = NETWORKS["bc"]
  half = {name: value.astype(np.float16) for name, value in disagreeing(network).items()}
  full = {name: value.astype(np.float32) for name, value in half.items()}
  template = variables_of(network)
  load = lambda state: weights.from_pytorch(network, state, template, say=lambda line: None)
  assert exact(load(half), load(full))


def old_spelling(name):
  for unit in ("norm1", "norm2", "conv1", "conv2"):
    name = name.replace(f".{unit}.", f".{unit[:4]}.{unit[4:]}.") if "denselayer" in name else name
  return name


def test_the_first_torchvision_files_spelling_and_a_parallel_wrappers_prefix_are_known():
  network = NETWORKS["imagenet"]
  variables = variables_of(network)
  state = weights.to_pytorch(network, **variables)
  old = {"module." + old_spelling(name): value for name, value in state.items()}
  assert "module.features.denseblock1.denselayer1.norm.1.weight" in old
  assert exact(weights.from_pytorch(network, old, variables), variables)


def disagreeing(network, seed=1):
  """A file whose readers each have their own running averages."""
  state = weights.to_pytorch(network, **variables_of(network))
  rng = np.random.RandomState(seed)
  for name in state:
    if "running_" in name:
      center = 0.0 if name.endswith("mean") else 1.0
      state[name] = center + 0.3 * rng.uniform(-1, 1, state[name].shape)
  return {name: value if value.dtype == np.int64 else value.astype(np.float64) for name, value in state.items()}


def evaluate_by_hand(network, state, x):
  """The network's formula from a state dict whose readers keep their own averages; numpy and lax only."""

  def norm_relu(x, name):
    get = lambda part: state[f"{name}.{part}"]
    return jnp.maximum(0, (x - get("running_mean")) / np.sqrt(get("running_var") + 1e-5) * get("weight") + get("bias"))

  def conv(x, name):
    kernel = jnp.asarray(np.transpose(state[f"{name}.weight"], (2, 3, 1, 0)))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

  x = conv(x, "features.conv0")
  for b, layers in enumerate(network.blocks, 1):
    for n in range(1, layers + 1):
      layer = f"features.denseblock{b}.denselayer{n}"
      y = conv(norm_relu(x, f"{layer}.norm1"), f"{layer}.conv1")
      x = jnp.concatenate([x, conv(norm_relu(y, f"{layer}.norm2"), f"{layer}.conv2")], axis=-1)
    if b < len(network.blocks):
      x = conv(norm_relu(x, f"features.transition{b}.norm"), f"features.transition{b}.conv")
      x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
  return norm_relu(x, "features.norm5").mean((1, 2)) @ state["classifier.weight"].T + state["classifier.bias"]


def test_readers_that_disagree_evaluate_exactly_under_inference_and_are_told():
  with jax.enable_x64(True):
    network = NETWORKS["bc"].clone(dtype=jnp.float64, param_dtype=jnp.float64)
    template = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables_of(network))
    state, said = disagreeing(network), []
    x = jnp.asarray(np.random.RandomState(3).randn(2, 8, 8, 3))
    variables = weights.from_pytorch(network, state, template, "inference", said.append)
    expected = jax.jit(lambda: evaluate_by_hand(network, state, x))()
    evaluate = jax.jit(lambda variables: network.apply(variables, x, False))
    assert relative(expected[0], expected[1]) > 0.01  # The pictures make a difference.
    assert relative(evaluate(variables), expected) < 1e-12
    merged = weights.from_pytorch(network, state, template, "train", said.append)
    assert relative(evaluate(merged), expected) > 0.001  # The readers' differences do, too.
    assert len(said) == 2
    assert "folded" in said[0]


def test_readers_that_disagree_keep_scales_and_get_the_mean_under_train():
  network = NETWORKS["bc"]
  state, said = disagreeing(network), []
  variables = weights.from_pytorch(network, state, variables_of(network), "train", said.append)
  assert "their mean is taken" in said[0]
  for unit in weights.units(network):
    if unit.kind == "norm":
      own = variables["params"]
      for name in unit.path:
        own = own[name]
      assert np.array_equal(own["scale"], state[f"{unit.name}.weight"].astype(np.float32))
  # The stem's output has three readers in block 1 with two layers and a transition.
  readers = [
    "features.denseblock1.denselayer1.norm1",
    "features.denseblock1.denselayer2.norm1",
    "features.transition1.norm",
  ]
  mean = np.mean([state[f"{name}.running_mean"][:8] for name in readers], axis=0)
  assert variables["batch_stats"]["stem"]["output"]["mean"] == pytest.approx(mean, rel=1e-6)


def test_everything_that_does_not_fit_is_listed_at_once():
  network = NETWORKS["bc"]
  variables = variables_of(network)
  state = weights.to_pytorch(network, **variables)
  del state["features.conv0.weight"]
  state["features.extra.weight"] = np.zeros(3, np.float32)
  state["classifier.weight"] = np.zeros((1000, 3), np.float32)
  state["classifier.bias"] = np.zeros(10, np.int32)
  state["features.norm5.bias"][0] = np.nan
  state["features.norm5.running_var"][0] = -1
  with pytest.raises(WeightsError) as error:
    weights.from_pytorch(network, state, variables)
  lines = str(error.value).split("\n")[1:]
  assert [line.strip().split(":")[0] for line in lines] == ["missing", "unknown", "values", "values", "shape", "type"]
  for name in (
    "features.conv0.weight",
    "features.extra.weight",
    "classifier.weight",
    "classifier.bias",
    "features.norm5.bias",
    "features.norm5.running_var",
  ):
    assert any(name in line for line in lines)


@pytest.mark.parametrize(
  ("change", "fault"),
  [
    ({"module.classifier.bias": np.zeros(10, np.float32)}, "twice: classifier.bias, as module.classifier.bias too"),
    ({"classifier.bias": [0.0] * 10}, "type: classifier.bias is a list, not an array"),
    ({"features.norm5.weight": np.full(8, 1e300)}, "values: params/last/norm/scale has some beyond float32"),
    ({"nonsense.num_batches_tracked": np.zeros((), np.int64)}, "unknown: nonsense.num_batches_tracked"),
  ],
)
def test_a_tensor_that_would_be_lost_or_overflow_is_named(change, fault):
  network = DenseNet((1,), 4, 10, 4)
  variables = variables_of(network)
  template = jax.eval_shape(lambda: variables)
  state = weights.to_pytorch(network, variables["params"], variables["batch_stats"])
  weights.from_pytorch(network, state, template)
  with pytest.raises(WeightsError, match=re.escape(fault)):
    weights.from_pytorch(network, state | change, template)


def test_wrong_calls_are_told_what_is_wrong():
  network = DenseNet((1,), 4, 10, 4)
  variables = variables_of(network)
  state = weights.to_pytorch(network, variables["params"], variables["batch_stats"])
  with pytest.raises(ValueError, match="disagreement 'folded': one of inference, train"):
    weights.from_pytorch(network, state, variables, "folded")
  with pytest.raises(ValueError, match="the template is of another network: it has no block1/layer2"):
    weights.from_pytorch(DenseNet((2,), 4, 10, 4), state, variables)


def test_files_that_are_not_what_they_say_are_one_line(tmp_path):
  good = tmp_path / "good.safetensors"
  safetensors.numpy.save_file({"a": np.zeros(100, np.float32)}, good)
  for name, content in (("cut", good.read_bytes()[:-50]), ("empty", b""), ("words", b"not weights at all")):
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}\.safetensors: cannot be read"):
      weights.read(path)
  with pytest.raises(WeightsError, match="nowhere"):
    weights.read(tmp_path / "nowhere.safetensors")
  (tmp_path / "weights.npz").touch()
  with pytest.raises(WeightsError, match=r"weights are read from files that end in \.safetensors, \.keras, .* \.pth, "):
    weights.read(tmp_path / "weights.npz")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("blocks", "arrays"), [((2, 1, 1, 2), 86), pytest.param((6, 12, 24, 16), 606, marks=pytest.mark.thorough)]
)
def test_keras_densenets_give_our_logits_and_we_give_theirs(blocks, arrays):
  from keras.src.applications import densenet  # The public ones are those of ImageNet.

  theirs = densenet.DenseNet(blocks, weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
  # Statistics as training leaves them: every reader of a map has the same.
  network = DenseNet(blocks, 32, 10, 64, stem="imagenet", epsilon=1.001e-5)
  ours = variables_of(network, size=64)
  theirs.set_weights(weights.to_keras(network, **ours))
  x = np.random.RandomState(1).randn(2, 64, 64, 3).astype(np.float32)
  logits = jax.jit(lambda: network.apply(ours, x, False))()
  assert relative(logits[0], logits[1]) > 0.01  # The pictures make a difference.
  assert relative(logits, theirs.predict(x, verbose=0)) < 1e-4
  assert exact(weights.from_keras(network, theirs.get_weights(), ours, say=pytest.fail), ours)
  with pytest.raises(WeightsError, match=f"{arrays - 1} arrays, where this network has {arrays}"):
    weights.from_keras(network, theirs.get_weights()[:-1], ours)


def test_a_written_file_is_the_same_each_time_and_whole_or_not_there(tmp_path, monkeypatch):
  state = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.asarray(3, np.int64)}
  about = About(ModelConfig(blocks=(2, 1), growth_rate=4), ("gr\u00fcn", "\udcff"))
  paths = [tmp_path / f"{n}.safetensors" for n in range(12)]
  for path in paths:  # The library's order is drawn anew for each.
    weights.write(path, state, about)
  assert len({path.read_bytes() for path in paths}) == 1
  with safetensors.safe_open(paths[0], "numpy") as file:
    assert file.metadata()["format"] == "pt"
    assert {name: file.get_tensor(name).tolist() for name in state} == {"b": [[0, 1, 2], [3, 4, 5]], "a": 3}
  assert int.from_bytes(paths[0].read_bytes()[:8], "little") % 8 == 0

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(OSError, match="No space"):
    weights.write(tmp_path / "new.safetensors", state, about)
  assert sorted(tmp_path.iterdir()) == sorted(paths)
