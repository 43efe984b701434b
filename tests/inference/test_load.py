"""A network out of a file of weights, and what it says of pictures."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import call
from photographs import class_folders, jpeg, photograph
from untrained import refused, script
from variables import variables_of

from dn_jax import weights
from dn_jax.config import weights_file
from dn_jax.config.network import complete_model
from dn_jax.config.schema import DataConfig, ModelConfig
from dn_jax.data import catalog, image_files
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.inference import evaluate, load, predict
from dn_jax.inference.load import Asked, Classifier, Input
from dn_jax.models import build

MODEL = ModelConfig(blocks=(2, 1, 1, 2), growth_rate=4, stem="imagenet", epsilon=1.001e-5)
MEAN, STD = np.array([120.0, 110.0, 100.0]), np.array([60.0, 61.0, 62.0])
CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def known():
  complete = complete_model(MODEL)
  network = build.build(complete, 3)
  variables = variables_of(network, size=64)
  how = Input(48, 56, MEAN, STD)
  return Classifier(complete, network, variables["params"], variables["batch_stats"], how, CLASSES)


@pytest.fixture(scope="module")
def file(known, tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "network.safetensors"
  load.write(path, known)
  return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  return class_folders(tmp_path_factory.mktemp("photos") / "all", each=5)


# Compiled, as a network is applied 150 times.
_logits = jax.jit(lambda network, variables, images: network.apply(variables, images, False), static_argnums=0)


def by_hand(known, picture):
  """Logits of one crop, by the network itself."""
  images = (np.asarray(picture, np.float32)[None] - known.input.mean) / known.input.std
  return np.asarray(_logits(known.network, {"params": known.params, "batch_stats": known.batch_stats}, images))[0]


def loaded(path, **asked):
  return load.load(path, Asked(**asked), "reported", None, pytest.fail)


def test_a_file_says_what_network_it_is(file, known):
  again = loaded(file)
  assert again.network == known.network
  assert (again.classes, again.input.size, again.input.resize) == (CLASSES, 48, 56)
  np.testing.assert_array_equal(again.input.mean, MEAN)
  for a, b in zip(
    jax.tree.leaves((again.params, again.batch_stats)), jax.tree.leaves((known.params, known.batch_stats)), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_flags_go_before_what_a_file_says_and_a_crop_keeps_its_share(file, tmp_path):
  (tmp_path / "names").write_text("one\ntwo\nthree\n")
  found = loaded(file, labels=tmp_path / "names", size=96)
  assert found.classes == ("one", "two", "three")
  assert (found.input.size, found.input.resize) == (96, 112)
  (tmp_path / "names").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\nthree\r\n")  # As Windows writes it.
  assert loaded(file, labels=tmp_path / "names").classes == ("one", "two", "three")
  assert loaded(file, resize=50).input.resize == 50


def test_a_file_says_by_which_filter_its_images_are_resized_and_a_flag_goes_before_it(file, known, photos, tmp_path):
  assert loaded(file).input.interpolation == "bilinear"
  bicubic = dataclasses.replace(known, input=dataclasses.replace(known.input, interpolation="bicubic"))
  load.write(tmp_path / "bicubic.safetensors", bicubic)
  again = loaded(tmp_path / "bicubic.safetensors")
  assert again.input.interpolation == loaded(file, interpolation="bicubic").input.interpolation == "bicubic"
  assert loaded(tmp_path / "bicubic.safetensors", interpolation="bilinear").input.interpolation == "bilinear"
  # A file without the filter says of itself what it said before.
  says = weights_file.about(file).input
  assert (says.interpolation, weights_file.about(tmp_path / "bicubic.safetensors").input.interpolation) == (
    None,
    "bicubic",
  )
  picture = image_files.read(next(photos.rglob("*.jpg")))
  expected = image_files.centre_crop(image_files.with_short_side(picture, 56, "bicubic"), 48)
  np.testing.assert_array_equal(predict.prepared(picture, again.input), expected)


def test_images_are_measured_with_the_networks_filter(known, photos, monkeypatch):
  asked = []

  class EnoughError(Exception):
    pass

  def batches_of(source, data, *_):
    asked.append(data)
    raise EnoughError

  monkeypatch.setattr(evaluate, "batches_of", batches_of)
  bicubic = dataclasses.replace(known, input=dataclasses.replace(known.input, interpolation="bicubic"))
  for each in (known, bicubic):
    with pytest.raises(EnoughError):
      evaluate.of_classifier(each, DataConfig("folder", photos), evaluate.How(4), pytest.fail)
  assert [(data.interpolation, data.size, data.resize) for data in asked] == [("bilinear", 48, 56), ("bicubic", 48, 56)]


@pytest.mark.slow
def test_a_file_that_says_nothing_has_the_sizes_of_its_stem(known, tmp_path):
  weights.write(tmp_path / "w.safetensors", weights.to_pytorch(known.network, known.params, known.batch_stats))
  found = loaded(tmp_path / "w.safetensors", model=MODEL)
  assert (found.input.size, found.input.resize, found.classes) == (224, 256, None)
  np.testing.assert_allclose(found.input.mean / 255, [0.485, 0.456, 0.406], rtol=1e-9)
  np.testing.assert_allclose(found.input.std / 255, [0.229, 0.224, 0.225], rtol=1e-9)
  with pytest.raises(UserError, match=r"of another network: its stem is that for ImageNet, not cifar's; give --model"):
    loaded(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    ({"size": 64, "resize": 60}, "--resize 60: must be at least the crop's size, 64"),
    ({"size": 8}, "--size 8: nothing is left of so small an image in this network"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(file, asked, message):
  with pytest.raises(ConfigurationError, match=message):
    loaded(file, **asked)


def test_a_label_file_of_another_length_is_refused(file, tmp_path):
  (tmp_path / "names").write_text("one\ntwo\n")
  with pytest.raises(ConfigurationError, match=r"--labels .*names: has 2 lines; the network has 3 classes"):
    loaded(file, labels=tmp_path / "names")


@pytest.mark.slow
def test_probabilities_are_the_networks(known, photos):
  seen = [predict.prepared(image_files.read(path), known.input) for path in sorted(photos.rglob("*.jpg"))[:5]]
  said = predict.Predictor(known, 8)(np.stack(seen))
  assert said.probabilities.shape == (5, 3)
  assert said.activations is None
  expected = np.stack([by_hand(known, picture) for picture in seen])
  expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(said.probabilities, expected, rtol=1e-4)


def test_an_activation_map_is_of_the_likeliest_class(known, photos):
  picture = predict.prepared(image_files.read(next(photos.rglob("*.jpg"))), known.input)
  said = predict.Predictor(known, 4, activations=True)(picture[None])
  logits = by_hand(known, picture)
  assert said.activations.shape == (1, 1, 1)  # 48 pixels, halved five times.
  np.testing.assert_allclose(said.activations.mean(), logits.max(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("crops", [1, 10])
def test_a_measured_error_is_that_of_crops_by_hand(known, photos, crops):
  (photos / "cat" / "bad.jpg").write_text("no image")
  said, data = [], DataConfig("folder", photos, bad_share=0.1)
  found = evaluate.of_classifier(known, data, evaluate.How(4, crops), said.append)
  confusion = np.zeros((3, 3), int)
  for label, name in enumerate(CLASSES):
    for path in sorted((photos / name).glob("[0-9]*.jpg")):
      whole = image_files.with_short_side(image_files.read(path), 56)
      seen = image_files.ten_crops(whole, 48) if crops == 10 else [image_files.centre_crop(whole, 48)]
      each = np.stack([by_hand(known, crop) for crop in seen])
      chances = (np.exp(each) / np.exp(each).sum(axis=1, keepdims=True)).mean(axis=0)
      confusion[label, chances.argmax()] += 1
  assert found.pictures == 15
  assert found.error == pytest.approx(100 - 100 * confusion.trace() / 15)
  np.testing.assert_array_equal(found.confusion, confusion)
  assert [(each.name, each.error) for each in found.class_errors] == [
    (name, pytest.approx(100 - 20 * confusion[n, n])) for n, name in enumerate(CLASSES)
  ]
  assert found.top5_error is None  # Of three classes.
  assert said == [f"skipped: {photos}/cat/bad.jpg: no image that can be read"]
  (photos / "cat" / "bad.jpg").unlink()


@pytest.mark.slow
def test_labels_follow_the_networks_order_of_classes(known, photos):
  turned = Classifier(**{**vars(known), "classes": ("owl", "cat", "dog")})
  found = evaluate.of_classifier(turned, DataConfig("folder", photos), evaluate.How(8), pytest.fail)
  other = evaluate.of_classifier(known, DataConfig("folder", photos), evaluate.How(8), pytest.fail)
  assert found.loss != pytest.approx(other.loss, rel=1e-3)
  strange = Classifier(**{**vars(known), "classes": ("cat", "dog", "bat")})
  with pytest.raises(ConfigurationError, match="lacks bat and has owl besides"):
    evaluate.of_classifier(strange, DataConfig("folder", photos), evaluate.How(8), pytest.fail)


@pytest.mark.slow
def test_the_scripts_say_the_same_and_name_what_is_no_picture(file, photos, tmp_path, capsys):
  script("predict", file, photos / "cat", photos / "dog" / "*.jpg", "--json", "--top", "2", "--cam", tmp_path / "maps")
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [line["picture"] for line in lines[:5]] == sorted(map(str, (photos / "cat").glob("*.jpg")))
  assert len(lines) == 10
  assert {len(line["classes"]) for line in lines} == {2}
  assert lines[0]["classes"][0]["class"] in CLASSES
  assert len(list((tmp_path / "maps").glob("*.png"))) == 10  # Of two folders, whose pictures have the same names.
  script("evaluate", file, "--data.dir", photos, "--batch-size", "8")
  assert "15 images, 1 crop of 48 pixels" in capsys.readouterr().out
  (tmp_path / "text.jpg").write_text("no image")
  (tmp_path / "good.jpg").write_bytes(jpeg(photograph(1)))
  with pytest.raises(SystemExit) as end:
    script("predict", file, tmp_path / "text.jpg", tmp_path / "good.jpg")
  printed = capsys.readouterr()
  assert end.value.code == 2
  assert printed.out.startswith(f"{tmp_path}/good.jpg  ")
  assert printed.err.splitlines() == [
    f"skipped: {tmp_path}/text.jpg: is no image that can be read, or a damaged one",
    "error: 1 of 2 files cannot be read as images, see above",
  ]


@pytest.mark.parametrize(
  ("words", "answer"),
  [
    (["predict", "FILE", "/nowhere/*.jpg"], "error: /nowhere/*.jpg: there is no such file, and no pattern"),
    (["predict", "FILE"], "error: images: give files, folders or patterns"),
    (["predict", "/nowhere", "PHOTOS"], "error: /nowhere: there is no such run's folder or file of weights"),
    (["predict", "FILE", "PHOTOS", "--top", "0"], "error: --top 0: must be at least 1"),
    (["predict", "FILE", "PHOTOS", "--size", "0"], "error: --size 0: must be at least 1"),
    (["predict", "FILE", "PHOTOS", "--model.depth", "0"], "error: --model.depth 0: must be at least 1"),
    (
      ["predict", "FILE", "--modl.depth", "8"],
      "error: --modl.depth 8: there is no such flag; did you mean --model.depth",
    ),
    (["evaluate"], "error: give runs' folders, or a file of weights"),
    (["evaluate", "--weights", "/nowhere.pth"], "error: --weights /nowhere.pth: there is no such file"),
    (["evaluate", "--weights", "FILE"], "error: --data.dir (unset): --data.name folder needs the folder"),
    (
      ["evaluate", "--weights", "FILE", "--data.name", "cifar10"],
      "error: --data.name cifar10: weights are measured on",
    ),
    (["export", "FILE", "--to", "network.bin"], "error: --to network.bin: must end in .safetensors or .jaxexport"),
    (["export", "FILE", "--to", "/proc/n.safetensors"], "error: --to /proc/n.safetensors: cannot be written ("),
    (["export", "FILE", "--to", "FOLDER"], "error: --to FOLDER: cannot be written ("),
    (["export", "FILE", "--to", "/nowhere/n.jaxexport"], "error: --to /nowhere/n.jaxexport: /nowhere is not a folder"),
  ],
)
def test_a_mistake_is_one_line(file, photos, tmp_path, capsys, words, answer):
  folder = tmp_path / "a.safetensors"
  folder.mkdir()
  places = {"FILE": file, "PHOTOS": photos, "FOLDER": folder}
  said = refused(capsys, *(places.get(word, word) for word in words))
  assert said.startswith(answer.replace("FOLDER", str(folder)))
  assert len(said.splitlines()) == 1


def test_names_of_files_and_classes_are_printed_without_a_terminals_commands(known, photos, tmp_path, capsys):
  path = tmp_path / "a\x1b[31m\nb.safetensors"
  load.write(path, dataclasses.replace(known, classes=("c\x1b[31mat", "d\nog", "owl")))
  photo = tmp_path / "a\x1b[2J.jpg"
  photo.write_bytes(next(photos.rglob("*.jpg")).read_bytes())
  done = call("experiments/predict.py", path, photo)
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 1
  for name in (r"a\x1b[2J.jpg", r"c\x1b[31mat ", r"d\nog ", "owl "):
    assert name in done.stdout
  path.write_bytes(b"no weights")
  answer = refused(capsys, "predict", path, photo)
  assert answer.startswith(rf"error: {tmp_path}/a\x1b[31m\nb.safetensors: ")


@pytest.mark.slow
def test_an_exported_network_runs_without_this_package(known, file, photos, tmp_path):
  script("export", file, "--to", tmp_path / "network.jaxexport", "--platforms", "cpu")
  code = """
import pathlib, sys
import jax, numpy as np
run = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
pictures = np.load(sys.argv[2])
both = [np.asarray(run.call(pictures[:n])) for n in (1, len(pictures))]
assert np.allclose(both[0][0], both[1][0], rtol=1e-4)
np.save(sys.argv[2], both[1])
assert not any(name.startswith("dn_jax") for name in sys.modules)
"""
  seen = np.stack([predict.prepared(image_files.read(path), known.input) for path in sorted(photos.rglob("*.jpg"))[:5]])
  np.save(tmp_path / "array.npy", seen)
  arguments = [sys.executable, "-c", code, str(tmp_path / "network.jaxexport"), str(tmp_path / "array.npy")]
  done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  expected = np.stack([by_hand(known, picture) for picture in seen])
  np.testing.assert_allclose(np.load(tmp_path / "array.npy"), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_is_a_classifier_too(tmp_path):
  class_folders(tmp_path / "photos", each=10)
  script(
    "train", "--data.name", "folder", "--data.dir", tmp_path / "photos", "--data.size", "16", "--model.blocks", "1",
    "--model.growth-rate", "4", "--epochs", "1", "--batch-size", "9", "--out", tmp_path / "run",
  )  # fmt: skip
  found = loaded(tmp_path / "run")
  assert (found.classes, found.input.size, found.input.resize) == (CLASSES, 16, 18)
  load.write(tmp_path / "w.safetensors", found)
  again = loaded(tmp_path / "w.safetensors")
  picture = predict.prepared(photograph(5), found.input)[None]
  said = [predict.Predictor(each, 1)(picture).probabilities for each in (found, again)]
  np.testing.assert_array_equal(*said)
  assert jnp.isfinite(said[0]).all()


def test_names_of_another_number_of_classes_are_not_the_networks(tmp_path, monkeypatch):
  data = DataConfig("cifar10", tmp_path)
  monkeypatch.setattr(catalog.archives, "classes", lambda name, folder: ("airplane", "automobile"))
  assert catalog.class_names(data, 2) == ("airplane", "automobile")
  assert catalog.class_names(data, 10) is None
  monkeypatch.setattr(catalog.tfds, "newest_version", lambda name, folder: tmp_path)
  monkeypatch.setattr(catalog.tfds, "described", lambda version: catalog.tfds.Described({}, CLASSES))
  assert catalog.class_names(data, 3) == CLASSES
  assert catalog.class_names(data, 10) is None
