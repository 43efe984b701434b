"""Grey images for networks with one input channel, from training to prediction."""

import json

import numpy as np
import pytest
import traced_once
from conftest import call
from photographs import class_folders
from PIL import Image
from safetensors.numpy import load_file

from dn_jax.data import image_files
from dn_jax.runs import records

traced_once = traced_once.traced_once

NETWORK = ("--model.blocks", "1", "--model.growth-rate", "4", "--epochs", "1", "--batch-size", "8")
MEAN = 0.299 * 123.675 + 0.587 * 116.28 + 0.114 * 103.53
STD = 0.299 * 58.395 + 0.587 * 57.12 + 0.114 * 57.375


def train(folder, out, *flags):
  data = ("--data.name", "folder", "--data.dir", folder, "--data.size", "16", "--data.augment")
  return call("experiments/train.py", *data, *NETWORK, "--out", out, *flags)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  folder = class_folders(tmp_path_factory.mktemp("photos") / "all", each=12)
  for path in sorted(folder.rglob("[0-3].jpg")):  # Some are grey already.
    Image.open(path).convert("L").save(path)
  return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
  out = tmp_path_factory.mktemp("runs") / "grey"
  done = train(photos, out, "--data.channels", "1")
  assert done.returncode == 0, done.stderr
  return out, done


@pytest.fixture(scope="module")
def file(trained):
  to = trained[0].with_suffix(".safetensors")
  done = call("experiments/export.py", trained[0], "--to", to)
  assert done.returncode == 0, done.stderr
  return to


@pytest.mark.slow
def test_a_run_says_and_records_that_its_images_are_grey(trained, file):
  out, done = trained
  normalised = f"mean {round(MEAN, 3):g} and deviation {round(STD, 3):g} are these sums of the published ones"
  said = f"images are turned to grey: 0.299 R + 0.587 G + 0.114 B; {normalised}"
  assert said in done.stdout.splitlines()
  assert json.loads((out / "config.json").read_text())["data"]["channels"] == 1
  assert load_file(file)["features.conv0.weight"].shape[1] == 1


@pytest.mark.slow
def test_predictions_and_errors_are_those_of_grey_images_from_run_file_and_program(trained, file, photos, tmp_path):
  """By hand: the exported program, given what Pillow makes of the files."""
  import jax

  program = tmp_path / "network.jaxexport"
  assert call("experiments/export.py", file, "--to", program, "--platforms", "cpu").returncode == 0
  run = jax.export.deserialize(bytearray(program.read_bytes()))
  paths = sorted((photos / "cat").iterdir())
  seen = []
  for path in paths:
    grey = Image.open(path).convert("RGB").convert("L")
    small = grey.resize((18 * grey.width // grey.height, 18), Image.Resampling.BILINEAR)
    left = round((small.width - 16) / 2)
    seen.append(np.asarray(small)[1:17, left : left + 16, None])
  logits = np.asarray(run.call(np.stack(seen)), np.float64)
  chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  for source in (trained[0], file):
    maps = tmp_path / f"maps of {source.name}"
    done = call("experiments/predict.py", source, *paths, "--json", "--data.channels", "1", "--cam", maps)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line)["classes"] for line in done.stdout.splitlines()]
    found = [[each["probability"] for each in sorted(one, key=lambda each: each["class"])] for one in said]
    np.testing.assert_allclose(found, chances, atol=0.02)  # Decoders of JPEG round differently.
    assert len(list(maps.iterdir())) == len(paths)
  done = call("experiments/evaluate.py", "--weights", file, "--data.dir", photos, "--confusion", tmp_path / "x")
  assert done.returncode == 0, done.stderr
  rows = (tmp_path / "x.csv").read_text().splitlines()
  likeliest = np.bincount(chances.argmax(axis=1), minlength=3)
  assert rows[1] == f"cat,{','.join(map(str, likeliest))}"
  done = call("experiments/evaluate.py", trained[0])
  assert f"top-1 error: {records.read_summary(trained[0]).test_error_percent:.2f} %" in done.stdout, done.stderr


@pytest.mark.slow
def test_weights_of_other_channels_are_refused_in_a_line(trained, file, photos, tmp_path):
  done = train(photos, tmp_path / "run", "--weights", file)
  fits = "take images of 1 channels, and this run's have 3; for --data.channels 1"
  assert (done.returncode, done.stderr) == (2, f"error: --weights {file}: {fits}\n")
  for command in (
    ("evaluate", "--weights", file, "--data.dir", photos),
    ("predict", file, photos / "cat"),
  ):
    done = call("dn_jax", *command, "--data.channels", "3")
    assert (done.returncode, done.stderr) == (2, "error: --data.channels 3: the network takes images of 1\n")
  done = call("dn_jax", "evaluate", trained[0], "--data.channels", "1")
  assert "those flags are for a file of weights" in done.stderr
  done = train(photos, tmp_path / "run", "--weights", file, "--data.channels", "1")
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("flags", "answer"),
  [
    (["--data.name", "digits", "--data.channels", "3"], "--data.channels 3: images of digits are grey; 1"),
    (["--data.channels", "2"], "--data.channels 2: 1 or 3"),
  ],
)
def test_channels_that_there_are_not_are_refused(tmp_path, flags, answer):
  done = call("experiments/train.py", *flags, "--out", tmp_path / "run")
  assert (done.returncode, done.stderr) == (2, f"error: {answer}\n")


def test_a_grey_file_in_a_colour_run_stays_three_equal_channels(photos):
  found = image_files.read(photos / "cat" / "0.jpg")
  assert found.shape[2] == 3
  assert (found == found[..., :1]).all()
