"""The training step against runs of the PyTorch implementation."""

import contextlib
import json
import re

import jax
import numpy as np
import pytest
from conftest import RECORDS, call
from variables import variables_of

from dn_jax import weights
from dn_jax.errors import UserError
from dn_jax.models.densenet import DenseNet
from dn_jax.training import parity

# The record that is sooner compared, under a policy whose gradients are written by hand: compiled for several tests.
IMAGENET, QUICK = RECORDS[1], "layer_by_layer"


def cases():
  """What policies have in common is compared without records too, see models/test_densenet.py."""
  for path in RECORDS:
    for remat in ("none", QUICK):
      for dtype in ("float64", "float32"):
        here = (path, remat, dtype) == (IMAGENET, QUICK, "float64")
        if remat == QUICK or (remat, dtype) == ("none", "float64"):
          marks = [pytest.mark.slow] if here else [pytest.mark.slow, pytest.mark.thorough]
          yield pytest.param(path, remat, dtype, marks=marks, id=f"{path.stem}-{remat}-{dtype}")


@contextlib.contextmanager
def optimised(whether):
  before = jax.config.values["jax_disable_most_optimizations"]
  jax.config.update("jax_disable_most_optimizations", not whether)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize(("path", "remat", "dtype"), list(cases()))
def test_training_step_follows_the_record(path, remat, dtype):
  # Compiling is most of it for the one record, and for the other what unoptimised convolutions take.
  with optimised(path != IMAGENET):
    differences = parity.compare(parity.read(path), remat, dtype)
  kinds = {one.kind for one in differences}
  assert {
    "losses",
    "step-0 logits",
    "step-0 gradients",
    "parameters after step 0",
    "running statistics after step 0",
  } <= kinds
  if dtype == "float64":
    assert {"parameters after the last step", "evaluation logits"} <= kinds
  assert [one for one in differences if not one.fits] == []


def tampered(tmp_path, record=IMAGENET, **changes):
  with np.load(record) as file:
    arrays = {name: file[name] for name in file.files}
  for name, change in changes.items():
    arrays[name] = change(arrays[name])
  np.savez(tmp_path / "record.npz", **arrays)
  return tmp_path / "record.npz"


@pytest.mark.slow
def test_a_number_that_is_off_by_a_thousandth_is_found(tmp_path):
  wrong = {
    "losses": "losses",
    "final/classifier.bias": "parameters after the last step",
    "grad_step0/features.denseblock2.denselayer1.conv1.weight": "step-0 gradients",
    "after_step0/features.norm_final.running_var": "running statistics after step 0",
  }
  path = tampered(tmp_path, **dict.fromkeys(wrong, lambda value: value * 1.001))
  found = {one.kind: one.where for one in parity.compare(parity.read(path), QUICK, "float64") if not one.fits}
  assert set(found) == set(wrong.values())
  assert all(name.endswith(found[kind]) for name, kind in wrong.items() if kind != "losses")


def test_a_record_that_lacks_a_tensor_is_refused_not_compared_on_the_rest(tmp_path):
  with np.load(RECORDS[0]) as file:
    arrays = {name: file[name] for name in file.files}
  del arrays["grad_step0/features.conv0.weight"]
  arrays["final/classifier.bias"] = arrays["final/classifier.bias"][:1]
  np.savez(tmp_path / "record.npz", **arrays)
  with pytest.raises(UserError) as error:
    parity.read(tmp_path / "record.npz")
  assert "grad_step0/features.conv0.weight is missing" in str(error.value)
  assert "final/classifier.bias is (1,), not (10,)" in str(error.value)


@pytest.mark.parametrize(
  ("name", "change", "fault"),
  [
    ("labels", lambda labels: labels + 5, "labels run from"),
    ("labels", lambda labels: labels.astype(np.float32), "labels is float32"),
    ("images_uint8", lambda images: images[:3], "labels is"),
    ("images_uint8", lambda images: images / 255, "images_uint8 is float64"),
    ("image_size", lambda size: size + 1, "is no multiple of the"),
    ("losses", lambda losses: losses[:0], "losses (0,) of batches of"),
    ("losses", lambda losses: np.tile(losses, 2), "as many images of"),
    ("train_logits_step0", lambda logits: logits[:, :3], "train_logits_step0 is"),
  ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path, name, change, fault):
  with pytest.raises(UserError, match=re.escape(fault)):
    parity.read(tampered(tmp_path, **{name: change}))


@pytest.mark.slow
@pytest.mark.thorough
def test_relus_that_flip_in_float32_are_counted():
  network, batch, size = DenseNet((1, 1), 4, 10, 8), 4, 16
  rng = np.random.RandomState(0)
  state = {f"init/{name}": value for name, value in weights.to_pytorch(network, **variables_of(network)).items()}
  images, labels = rng.randint(0, 256, (batch, size // 2, size // 2, 3)).astype(np.uint8), rng.randint(0, 10, batch)
  arrays = state | {"images_uint8": images, "labels": labels, "batch": np.array(batch), "image_size": np.array(size)}
  flipped, inputs = parity.flipped_relus(parity.Record(arrays, network, "norm5"))
  # Every ReLU's input is a norm's output: of layers' and transitions' maps, pictures times pixels times channels.
  expected, channels, pixels = 0, network.initial_channels, size**2
  for layers in network.blocks:
    for _ in range(layers):
      expected += (channels + 4 * network.growth_rate) * pixels
      channels += network.growth_rate
    expected += channels * pixels
    channels, pixels = int(network.compression * channels), pixels // 4
  assert inputs == batch * expected
  assert 0 <= flipped < 1e-4 * inputs


@pytest.mark.parametrize("compression", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_compression_stored_in_float32_means_its_decimal(compression):
  for stored in (np.float32(compression), np.asarray(compression, np.float32), np.float64(compression)):
    assert parity.decimal(stored) == compression


def test_a_loss_that_is_not_a_number_never_fits():
  assert not parity.Difference("losses", float("nan"), 1e-8, "").fits


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"words"])
def test_a_file_that_is_no_record_is_one_line(tmp_path, content):
  path = tmp_path / "record.npz"
  path.write_bytes(content)
  with pytest.raises(UserError, match=r"record\.npz"):
    parity.read(path)
  with pytest.raises(UserError, match="nowhere"):
    parity.read(tmp_path / "nowhere.npz")
  np.savez(path, growth_rate=12)
  with pytest.raises(UserError, match="is not a record of a run; 'init/"):
    parity.read(path)


@pytest.mark.slow
def test_script_prints_and_writes_and_judges(tmp_path, monkeypatch):
  asked, off = [], []

  def compare(record, remat, dtype):
    asked.append((record.arrays["losses"].tolist(), remat, dtype))
    kinds = ("step-0 logits", "step-0 gradients")
    return [parity.Difference(kind, 2e-4 if (dtype, kind) in off else 1e-9, 1e-4, "conv0.weight") for kind in kinds]

  monkeypatch.setattr(parity, "compare", compare)
  monkeypatch.setattr(parity, "flipped_relus", lambda record: (3, 1234567))
  good = call("experiments/parity.py", IMAGENET, "--json", tmp_path / "out.json")
  assert good.returncode == 0, good.stderr
  assert "float64 step-0 logits" in good.stdout
  assert "EXCEEDED" not in good.stdout
  found = json.loads((tmp_path / "out.json").read_text())
  assert [one["kind"] for one in found["float32"]] == ["step-0 logits", "step-0 gradients"]
  losses = parity.read(IMAGENET).arrays["losses"].tolist()
  assert asked == [(losses, "layer_by_layer", "float64"), (losses, "layer_by_layer", "float32")]
  for wrong in (("float64", "step-0 logits"), ("float32", "step-0 logits")):
    off[:] = [wrong]
    bad = call("experiments/parity.py", IMAGENET, "--remat", "none")
    assert bad.returncode == 1
    assert "EXCEEDED at conv0.weight" in bad.stdout
    assert "by rounding" not in bad.stdout
  assert asked[-1] == (losses, "none", "float32")
  off[:] = [("float32", "step-0 gradients")]
  assert "3 of 1,234,567 inputs of ReLUs change sign by rounding" in call("experiments/parity.py", IMAGENET).stdout
