"""Files that Keras writes, read without it, against the networks that wrote them."""

import sys
import zipfile

import h5py
import jax
import numpy as np
import pytest
from conftest import call
from keras_written import write

from dn_jax import weights
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.config.weights_file import SUFFIXES
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.inference import load
from dn_jax.weights.files import READERS

BLOCKS = (1, 2, 1, 1)
MODEL = ModelConfig(blocks=BLOCKS, growth_rate=32, stem="imagenet")
NAMES = ("net.keras", "net.weights.h5", "net.h5")


def randomised(network):
  """Gives a Keras network weights and running averages as of training."""
  rng = np.random.default_rng(0)
  new = []
  for weight in network.weights:
    value = rng.standard_normal(weight.shape).astype(np.float32)
    if weight.ndim == 1:
      value = 0.1 * value + (1 if weight.path.endswith(("gamma", "moving_variance")) else 0)
    new.append(value / max(1, np.prod(weight.shape[:-1])) ** 0.5)
  network.set_weights(new)
  return network


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder with a small DenseNet of Keras's in each kind of file, its images and its logits."""
  from keras.src.applications import densenet  # The public ones are those of ImageNet.

  folder = tmp_path_factory.mktemp("keras")
  network = randomised(
    densenet.DenseNet(BLOCKS, weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None)
  )
  network.save(folder / "net.keras")
  network.save_weights(folder / "net.weights.h5")
  network.save(folder / "net.h5")
  images = np.random.default_rng(1).standard_normal((2, 64, 64, 3)).astype(np.float32)
  return folder, images, np.asarray(network.predict_on_batch(images))


def loaded(path, model=MODEL, say=lambda _: None):
  return load.network_of_file(path, model, "inference", say)


def logits(path, images, model=MODEL):
  complete, network, variables = loaded(path, model)
  assert complete.epsilon == 1.001e-5
  return np.asarray(network.apply(variables, images, False))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_keras_files_give_keras_logits(saved, name):
  folder, images, theirs = saved
  assert np.abs(logits(folder / name, images) - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.slow
def test_a_file_of_weights_alone_says_which_epsilon_is_taken_and_others_have_their_own(saved, tmp_path):
  folder, *_ = saved
  said = []
  loaded(folder / "net.weights.h5", say=said.append)
  assert any("1.001e-05 as in Keras's DenseNets" in line for line in said)
  said.clear()
  loaded(folder / "net.keras", say=said.append)
  assert not any("epsilon" in line or "variances" in line for line in said)
  # A network whose norms add something else.
  other = changed(folder / "net.keras", tmp_path / "other.keras", '"epsilon": 1.001e-05', '"epsilon": 0.001')
  complete, *_ = loaded(other)
  assert complete.epsilon == 0.001
  config = RunConfig(DataConfig("cifar10"), MODEL, weights=other)
  assert resolve(config).model.epsilon == 0.001
  with pytest.raises(ConfigurationError, match=r"--model.epsilon 0.01: .*other.keras says 0.001 of its batch norms"):
    loaded(other, ModelConfig(blocks=BLOCKS, growth_rate=32, stem="imagenet", epsilon=0.01))
  elu = changed(folder / "net.keras", tmp_path / "elu.keras", '"activation": "relu"', '"activation": "elu"')
  with pytest.raises(UserError, match=r"elu.keras: conv1_relu has the activation elu"):
    loaded(elu)
  mixed = changed(folder / "net.keras", tmp_path / "mixed.keras", '"epsilon": 1.001e-05', '"epsilon": 0.001', 1)
  with pytest.raises(UserError, match="different epsilons"):
    loaded(mixed)


def changed(path, new, old_text, new_text, count=-1):
  """A copy of a .keras file with another configuration."""
  with zipfile.ZipFile(path) as one, zipfile.ZipFile(new, "w") as other:
    for name in one.namelist():
      content = one.read(name)
      if name == "config.json":
        assert old_text in content.decode()
        content = content.decode().replace(old_text, new_text, count).encode()
      other.writestr(name, content)
  return new


@pytest.mark.thorough
def test_a_densenet_within_another_model_is_read_and_what_else_that_does_is_named(saved, tmp_path):
  import keras
  from keras.src.applications import densenet

  _, images, _ = saved
  base = densenet.DenseNet(BLOCKS, include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg")
  whole = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Rescaling(1.0), base, keras.layers.Dense(5)])
  randomised(whole)
  theirs = np.asarray(whole.predict_on_batch(images))
  for layer in base.layers[:20]:  # Keras 2's files have them behind the others.
    layer.trainable = False
  for name in ("whole.keras", "whole.h5"):
    whole.save(tmp_path / name)
    said = []
    _, network, variables = loaded(tmp_path / name, say=said.append)
    assert np.abs(np.asarray(network.apply(variables, images, False)) - theirs).max() < 1e-5 * np.abs(theirs).max()
    assert any("what these layers do is left out: rescaling" in line for line in said)


@pytest.mark.thorough
def test_keras_bfloat16_is_read(saved, tmp_path):
  import keras

  folder, *_ = saved
  network = keras.models.load_model(folder / "net.keras")
  half = keras.models.clone_model(network, clone_function=_in_bfloat16)
  half.set_weights(network.get_weights())
  half.save_weights(tmp_path / "half.weights.h5")
  ours, halves = weights.read(folder / "net.keras"), weights.read(tmp_path / "half.weights.h5", lambda _: None)
  assert ours.keys() == halves.keys()
  assert {value.dtype.name for value in halves.values()} == {"bfloat16"}
  for name, value in ours.items():
    np.testing.assert_allclose(halves[name].astype(np.float32), value, rtol=2**-8)


def _in_bfloat16(layer):
  return type(layer).from_config(layer.get_config() | {"dtype": "bfloat16"})


NETWORKS = {
  "imagenet": ModelConfig(blocks=(1, 2, 7), growth_rate=4, stem="imagenet", initial_channels=8),
  "bottleneck": ModelConfig(blocks=(2, 2), growth_rate=4, bottleneck=True, compression=0.5, stem="cifar"),
  # A transition and the layer after it have the shapes of a bottleneck.
  "basic": ModelConfig(blocks=(2, 3, 1), growth_rate=4, bottleneck=False, compression=1.0, stem="cifar"),
  "compressed": ModelConfig(blocks=(1, 1, 2), growth_rate=4, bottleneck=False, compression=0.5, stem="cifar"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_told_apart_by_their_order_and_their_shapes(name, tmp_path):
  network, variables = write(tmp_path / "net.weights.h5", NETWORKS[name])
  state = weights.read(tmp_path / "net.weights.h5", lambda _: None)
  found = weights.from_pytorch(network, state, variables, say=pytest.fail)
  jax.tree.map(np.testing.assert_array_equal, found, {each: variables[each] for each in found})


def linked(file):
  del file["layers/conv2d_1/vars/0"]
  file["layers/conv2d_1/vars/0"] = h5py.SoftLink("/layers/conv2d/vars/0")


def linked_outside(file):
  del file["layers/conv2d"]
  file["layers/conv2d"] = h5py.ExternalLink("/etc/passwd", "/layers")


def kept_outside(file):
  replace(file, shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)])


def virtual(file):
  layout = h5py.VirtualLayout((4,), "f4")
  layout[:] = h5py.VirtualSource("/etc/passwd", "data", (4,))
  del file["layers/conv2d_1/vars/0"]
  file["layers/conv2d_1/vars"].create_virtual_dataset("0", layout)


def objects(file):
  replace(file, data=["a", "b"], dtype=h5py.string_dtype())


def integers(file):
  replace(file, data=np.arange(4))


def huge(file):
  replace(file, shape=(2**20, 2**20), dtype="f4", chunks=(2**10, 2**10))


def empty(file):
  replace(file, data=h5py.Empty("f4"))


def endless(file):
  file["layers/conv2d/layers"] = file["layers"]


def of_several(file):
  file["layers/depthwise_conv2d/vars/0"] = np.zeros((3, 3, 4, 1), "f4")


def unknown(file):
  file["layers/normalization/vars/0"] = np.zeros(3, "f4")


def odd(file):
  file["layers/lstm/cell/vars/0"] = np.zeros((3, 3), "f4")


def shorter(file):
  del file["layers/conv2d_1"]


def two_heads(file):
  file.copy("layers/dense", "layers/dense_1")


def bare(file):
  del file["layers"]


def replace(file, **what):
  del file["layers/conv2d_1/vars/0"]
  file["layers/conv2d_1/vars"].create_dataset("0", **what)


FAULTS = {
  linked: "is a link, which is not followed",
  linked_outside: "is a link, which is not followed",
  kept_outside: "is kept in another file",
  virtual: "is kept in another file",
  objects: "holds object, no numbers with a fraction",
  integers: "holds int64, no numbers with a fraction",
  huge: "far more than it is long",
  empty: "cannot be read",
  endless: "stands at two places",
  of_several: "whose order it does not say",
  unknown: r"layers/normalization has weights of shapes \[\(3,\)\]",
  odd: "layers/lstm has weights in cell",
  shorter: "whose shapes are not a DenseNet's",
  two_heads: "has 2 dense layers",
  bare: "has no layers as Keras writes them",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_file_that_leads_elsewhere_or_is_no_densenets_is_one_line(fault, tmp_path):
  path = tmp_path / "net.weights.h5"
  write(path, NETWORKS["bottleneck"])
  with h5py.File(path, "a") as file:
    fault(file)
  with pytest.raises(UserError, match=rf"net.weights.h5: .*{FAULTS[fault]}") as caught:
    weights.read(path, pytest.fail)
  assert "\n" not in str(caught.value)


def zipped(path, members):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(name, content)


def test_damaged_archives_are_one_line_at_every_command(tmp_path):
  write(tmp_path / "net.weights.h5", NETWORKS["bottleneck"])
  content = (tmp_path / "net.weights.h5").read_bytes()
  (tmp_path / "cut.weights.h5").write_bytes(content[: len(content) // 2])
  (tmp_path / "garbage.keras").write_bytes(b"PK\3\4 no archive")
  zipped(tmp_path / "none.keras", {"config.json": "{}"})
  zipped(tmp_path / "bomb.keras", {"config.json": "{}", "model.weights.h5": bytes(2**26)})
  zipped(tmp_path / "deep.keras", {"config.json": "[" * 10**6, "model.weights.h5": content})
  zipped(tmp_path / "wrong.keras", {"config.json": "{}", "model.weights.h5": b"no HDF5"})
  zipped(
    tmp_path / "epsilon.keras",
    {"config.json": '{"class_name": "BatchNormalization", "config": {"epsilon": "0"}}', "model.weights.h5": content},
  )
  for path in tmp_path.glob("*"):
    if path.name == "net.weights.h5":
      continue
    done = call("experiments/export.py", path, "--to", tmp_path / "new.safetensors", "--model.name", "densenet-121")
    assert (done.returncode, done.stdout) == (2, ""), path
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: "), line
  assert not (tmp_path / "new.safetensors").exists()


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
  write(tmp_path / "net.weights.h5", NETWORKS["bottleneck"])
  monkeypatch.setitem(sys.modules, "h5py", None)
  with pytest.raises(UserError, match=r"net.weights.h5: Keras's files need an extra: pip install -e '.\[keras\]'"):
    weights.read(tmp_path / "net.weights.h5", pytest.fail)


def test_the_suffixes_that_are_looked_for_are_those_that_are_read():
  assert set(SUFFIXES) == set(READERS)
