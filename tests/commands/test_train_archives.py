"""A run on the makers' archives as a person starts it."""

import json

import makers_files
import pytest
import traced_once
from conftest import call, greys, metrics
from cut_off import cut_off

from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog

traced_once = traced_once.traced_once


@pytest.mark.slow
def test_a_run_that_began_with_tfds_goes_on_with_the_archives_of_the_same_images(prepared, tmp_path):
  archives = makers_files.write(tmp_path / "archives", "cifar10 pickled", greys())

  def train(data, out):
    network = ("--model.blocks", "1", "--model.growth-rate", "4", "--model.remat", "none", "--report", "last")
    flags = (
      "--data.name",
      "cifar10",
      "--data.augment",
      "--data.validation",
      "20",
      "--epochs",
      "2",
      "--batch-size",
      "10",
      *network,
    )
    return call("experiments/train.py", *flags, "--checkpoint.every-steps", "7", "--data.dir", data, "--out", out)

  assert train(prepared, tmp_path / "undisturbed").returncode == 0
  cut_off(lambda: train(prepared, tmp_path / "run"), 15)
  done = train(archives, tmp_path / "run")
  assert done.returncode == 0, done.stderr
  said = " ".join(done.stdout.split())
  assert "going on after epoch 1 and 4 steps" in said
  assert "without the makers' MD5 sum: cifar-10-python.tar.gz" in said
  assert metrics(tmp_path / "run") == metrics(tmp_path / "undisturbed")
  noted, clean = (json.loads((tmp_path / name / "data.json").read_text()) for name in ("run", "undisturbed"))
  assert noted == clean | {"unverified": ["cifar-10-python.tar.gz"]}
  evaluated = call("experiments/evaluate.py", tmp_path / "run")
  assert f"top-1 error: {100 * metrics(tmp_path / 'run')[-1]['test_error']:.2f} %" in evaluated.stdout
  assert "cifar-10-python.tar.gz" in evaluated.stderr


def test_a_network_of_svhn_names_its_classes_where_its_files_are(tmp_path):
  splits = {split: (greys()["test"][0], greys()["test"][1]) for split in ("train", "test", "extra")}
  data = DataConfig("svhn_cropped", makers_files.write_svhn(tmp_path, splits))
  assert catalog.class_names(data, 10) == tuple("0123456789")
  assert catalog.class_names(DataConfig("cifar10", tmp_path), 10) is None
