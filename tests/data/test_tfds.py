"""Folders that TFDS itself prepared, opened without TensorFlow."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import PREPARE, ROOT

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog, sources
from dn_jax.errors import ConfigurationError


def expected(split, count):
  rng = np.random.RandomState(len(split))
  return sorted((n % 10, rng.randint(256)) for n in range(count))


def found(split):
  assert (split.images == split.images[:, :1, :1, :1]).all()
  return sorted(zip(split.labels.tolist(), split.images[:, 0, 0, 0].tolist(), strict=True))


def test_array_record_is_read_whole(prepared):
  data = catalog.load(DataConfig("cifar10", prepared))
  assert found(data.train) == expected("train", 120)
  assert found(data.test) == expected("test", 40)


@pytest.mark.slow
def test_reading_array_record_does_not_import_tensorflow(prepared):
  code = (
    "import sys, pathlib; from dn_jax.data import catalog; from dn_jax.config.schema import DataConfig; "
    f"catalog.load(DataConfig('cifar10', pathlib.Path({str(prepared)!r}))); sys.exit('tensorflow' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Prepares data sets of other kinds, and reads one of tfrecord, all in one process: TensorFlow takes seconds to import.
OTHERS = """
import contextlib, json, pathlib, sys
import tensorflow_datasets as tfds
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog

prepare, folder = sys.argv[1:]
for kind in (("tfrecord", "32", "10"), ("array_record", "28", "10"), ("array_record", "32", "11")):
  sys.argv = ["-c", f"{folder}/{'-'.join(kind)}", *kind]
  with tfds.core.registered.skip_registration(), contextlib.redirect_stdout(sys.stderr):
    exec(prepare, {"__name__": "__main__"})
data = catalog.load(DataConfig("cifar10", pathlib.Path(folder) / "tfrecord-32-10"))
print(json.dumps([data.train.labels.tolist(), data.train.images[:, 0, 0, 0].tolist()]))
"""


@pytest.fixture(scope="module")
def others(tmp_path_factory):
  """A folder of prepared folders, FORMAT-SIDE-CLASSES; the labels and greys that were read of the one of tfrecord."""
  folder = tmp_path_factory.mktemp("others")
  command = [sys.executable, "-c", OTHERS, PREPARE, str(folder)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return folder, json.loads(done.stdout)


# In a process of its own: what imported TensorFlow before cannot be made not to have.
WITHOUT_TENSORFLOW = """
import pathlib, sys

class Absent:
  def find_spec(name, *rest):
    if name == "tensorflow":
      raise ModuleNotFoundError("No module named 'tensorflow'", name=name)

sys.meta_path.insert(0, Absent)
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog
catalog.load(DataConfig("cifar10", pathlib.Path(sys.argv[1])))
"""


@pytest.mark.thorough
def test_tfrecord_is_read_where_tensorflow_is_installed_and_named_where_not(others):
  folder, (labels, greys) = others
  assert sorted(zip(labels, greys, strict=True)) == expected("train", 120)
  command = [sys.executable, "-c", WITHOUT_TENSORFLOW, folder / "tfrecord-32-10"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  last = done.stderr.splitlines()[-1]
  assert last.startswith("dn_jax.errors.ConfigurationError: --data.dir ")
  assert "is not in array_record format, and to read it needs TensorFlow: pip install" in last


def refusal(config):
  with pytest.raises(ConfigurationError) as error:
    catalog.load(config)
  return str(error.value)


def test_what_is_not_prepared_is_told_with_the_command_and_nothing_is_fetched(tmp_path):
  message = refusal(DataConfig("cifar100", tmp_path))
  assert "--data.name cifar100: is not prepared in" in message
  assert f"python experiments/prepare.py --data.name cifar100 --data.dir {tmp_path}" in message
  assert not list(tmp_path.iterdir())


def test_a_folder_that_is_none_is_refused(tmp_path):
  file = tmp_path / "file"
  file.write_text("x")
  assert "is not a folder" in refusal(DataConfig("cifar10", file))
  assert "is not a folder" in refusal(DataConfig("cifar10", tmp_path / "nowhere"))


def test_the_newest_version_is_taken(prepared, tmp_path):
  shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
  old = tmp_path / "cifar10" / "3.0.2"
  for version in ("3.0.10", "3.0.9"):
    shutil.copytree(old, tmp_path / "cifar10" / version)
  (tmp_path / "cifar10" / "3.0.9" / "dataset_info.json").write_text("{")  # Would not open.
  assert len(catalog.load(DataConfig("cifar10", tmp_path)).train.labels) == 120


def test_damage_is_one_line_with_the_folder(prepared, tmp_path):
  shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
  folder = tmp_path / "cifar10" / "3.0.2"
  record = next(folder.glob("*train.array_record*"))
  record.write_bytes(record.read_bytes()[:200])
  assert refusal(DataConfig("cifar10", tmp_path)).count("\n") == 0
  (folder / "dataset_info.json").write_text("{")
  assert f"{folder}: cannot be opened" in refusal(DataConfig("cifar10", tmp_path))


@pytest.mark.thorough
def test_pictures_of_another_size_or_classes_are_refused(others):
  folder, _ = others
  assert "images are uint8 (28, 28, 3)" in refusal(DataConfig("cifar10", folder / "array_record-28-10"))
  assert "labels run from 0 to 10" in refusal(DataConfig("cifar10", folder / "array_record-32-11"))


def test_tfds_knows_where_to_get_every_data_set(tmp_path):
  import tensorflow_datasets as tfds

  for name in set(datasets.CATALOG) - {"digits"}:
    assert tfds.builder(name, data_dir=tmp_path).url_infos


def tampered(prepared, folder, change):
  """A copy of the prepared data set with other lengths of its shards in its description."""
  shutil.copytree(prepared, folder)
  (path,) = folder.glob("cifar10/*/dataset_info.json")
  info = json.loads(path.read_text())
  for split in info["splits"]:
    split["shardLengths"] = change([int(each) for each in split["shardLengths"]])
  path.write_text(json.dumps(info))
  return folder


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("by", [-1, 1])
def test_shards_of_another_length_than_the_description_says_are_refused(prepared, tmp_path, by, streamed):
  folder = tampered(prepared, tmp_path / "tfds", lambda lengths: [str(each + by) for each in lengths])
  read, split, count = (sources.opened, "train", 120) if streamed else (catalog.load, "test", 40)
  with pytest.raises(
    ConfigurationError, match=rf"says {count + by} records of cifar10-{split}.*, which has {count}\)"
  ) as error:
    read(DataConfig("cifar10", folder))
  assert len(str(error.value).splitlines()) == 1


def test_a_shard_that_is_missing_or_cut_short_is_refused_where_it_is_streamed(prepared, tmp_path):
  folder = tampered(prepared, tmp_path / "tfds", lambda lengths: list(map(str, lengths)))
  (shard,) = folder.glob("cifar10/*/cifar10-train.array_record*")
  shard.write_bytes(shard.read_bytes()[:1000])
  with pytest.raises(ConfigurationError, match="split 'train' cannot be read"):
    sources.opened(DataConfig("cifar10", folder))
  shard.unlink()
  with pytest.raises(ConfigurationError, match="split 'train' cannot be read"):
    sources.opened(DataConfig("cifar10", folder))
