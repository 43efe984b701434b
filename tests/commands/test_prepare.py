"""prepare, from a server on the loopback address."""

import hashlib
import sys

import file_server
import makers_files
import numpy as np
import pytest
from conftest import call

from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog, download, makers

IMAGES = np.random.RandomState(0).randint(256, size=(40, 32, 32, 3), dtype=np.uint8)
SPLITS = {split: (IMAGES, [n % 10 for n in range(40)]) for split in ("train", "test", "extra")}


@pytest.fixture
def server(monkeypatch, tmp_path):
  """Has the makers' files; their sums are known."""
  made = makers_files.write(tmp_path / "made", "cifar10 pickled", SPLITS)
  makers_files.write_svhn(made, SPLITS)
  files = {path.name: path.read_bytes() for path in made.iterdir()}
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setattr(download, "_PAUSE", 0)
  monkeypatch.setattr(makers, "MD5", {name: hashlib.md5(content).hexdigest() for name, content in files.items()})
  with file_server.serving({f"/{name}": content for name, content in files.items()}) as server:
    named = {"cifar10": ("cifar-10-python.tar.gz",), "svhn_cropped": makers.downloads("svhn_cropped")}
    addresses = {name: tuple(f"{server.address}/{file}" for file in files) for name, files in named.items()}
    monkeypatch.setattr(makers, "ADDRESSES", addresses)
    yield server


def prepare(name, folder):
  return call("experiments/prepare.py", "--data.name", name, "--data.dir", folder)


@pytest.mark.parametrize("name", ["cifar10", "svhn_cropped"])
def test_what_is_prepared_is_loaded_and_not_downloaded_twice(server, tmp_path, name, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)  # Importing it fails.
  for _ in range(2):
    done = prepare(name, tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert f"prepared: {tmp_path}/data/{makers.downloads(name)[-1]}\n" in done.stdout
  assert len(server.asked) == len(makers.downloads(name))
  data = catalog.load(DataConfig(name, tmp_path / "data"))
  assert (len(data.train.labels), len(data.test.labels)) == (80 if name == "svhn_cropped" else 40, 40)
  assert data.unverified == ()


def test_a_download_that_was_cut_off_goes_on(server, tmp_path):
  server.cuts = [1000] * 5
  done = prepare("cifar10", tmp_path / "data")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "and the same command goes on from there" in done.stderr
  assert prepare("cifar10", tmp_path / "data").returncode == 0
  assert server.asked[-1][1] == 5000


def test_what_cannot_be_had_is_one_line_and_leaves_nothing(server, tmp_path, monkeypatch):
  monkeypatch.setattr(makers, "MD5", dict.fromkeys(makers.MD5, "0" * 32))
  wrong = prepare("cifar10", tmp_path / "data")
  assert not list((tmp_path / "data").iterdir())
  server.files.clear()
  gone = prepare("cifar10", tmp_path / "nothing")
  for done, said in ((wrong, "it was deleted"), (gone, "the server answers 404")):
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
  assert not (tmp_path / "nothing").exists()


def test_a_file_of_another_sum_that_was_there_before_is_left_and_named(server, tmp_path):
  path = tmp_path / "cifar-10-python.tar.gz"
  path.write_bytes(b"mine")
  done = prepare("cifar10", tmp_path)
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert f"--data.dir {path}: has another MD5 sum than its maker's" in done.stderr
  assert path.read_bytes() == b"mine"
  assert server.asked == []


def test_what_tfds_prepared_there_is_not_downloaded(server, prepared):
  done = prepare("cifar10", prepared)
  assert (done.returncode, done.stdout) == (0, f"prepared: {prepared}/cifar10\n")
  assert server.asked == []


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path):
  (tmp_path / "file").touch()
  done = prepare("cifar10", tmp_path / "file" / "data")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert f"--data.dir {tmp_path}/file/data: cannot be written" in done.stderr


def test_digits_are_refused_in_one_line():
  done = call("experiments/prepare.py", "--data.name", "digits")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "ships with scikit-learn" in done.stderr


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn_cropped"])
def test_each_of_the_papers_data_sets_is_downloaded_from_where_tfds_gets_it_with_a_known_sum(name):
  import tensorflow_datasets as tfds

  known = tfds.builder_cls(name).url_infos
  for address, file in zip(makers.ADDRESSES[name], makers.downloads(name), strict=True):
    assert len(makers.MD5[file]) == 32
    assert address in known or address.replace("python", "binary") in known
