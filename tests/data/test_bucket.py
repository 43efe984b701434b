"""What TFDS prepared, read from a bucket. The bucket is an emulator's, which speaks Google's protocol."""

import pathlib

import makers_files
import numpy as np
import pytest
from conftest import call, metrics

from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog, sources, stream, tfds
from dn_jax.errors import ConfigurationError
from dn_jax.system import folders

# As a command line's argument comes.
DIR = pathlib.Path("gs://bucket/tfds")


@pytest.fixture(scope="module")
def copied(bucket, prepared):
  """gs://bucket/tfds has the prepared `cifar10`, and once more as a name that is read picture by picture."""
  place = folders.of("data.dir", DIR)
  for path in folders.files(prepared):
    inside = path.relative_to(prepared)
    for name in (inside, pathlib.Path("own", *inside.parts[1:])):
      (place / name).write_bytes(path.read_bytes())
  return bucket


def test_every_record_is_the_folders(copied, prepared, tmp_path):
  (tmp_path / "own").symlink_to(prepared / "cifar10")
  here, there = (sources.opened(DataConfig("own", folder)) for folder in (tmp_path, DIR))
  for own, other in zip((here.train, here.test), (there.train, there.test), strict=True):
    assert [other[number] for number in range(len(other))] == [own[number] for number in range(len(own))]
  assert there.test.name_of(3) == "gs://bucket/tfds/own/3.0.2, split test, record 3"


def test_a_data_set_that_lies_on_the_device_is_read_too(copied, prepared):
  here, there = (catalog.load(DataConfig("cifar10", folder)) for folder in (prepared, DIR))
  np.testing.assert_array_equal(there.train.images, here.train.images)
  np.testing.assert_array_equal(there.test.labels, here.test.labels)


def test_the_makers_archives_are_read_there_too(bucket, tmp_path):
  rng = np.random.RandomState(0)
  splits = {split: (rng.randint(256, size=(20, 32, 32, 3), dtype=np.uint8), [0, 1] * 10) for split in ("train", "test")}
  for form, packed in (("cifar100 pickled", True), ("cifar10 binary", False)):
    makers_files.write(tmp_path, form, splits, packed)
  place = folders.of("data.dir", pathlib.Path("gs://bucket/archives"))
  for path in folders.files(tmp_path):
    (place / path.relative_to(tmp_path)).write_bytes(path.read_bytes())
  for name in ("cifar10", "cifar100"):
    here, there = (catalog.load(DataConfig(name, each)) for each in (tmp_path, pathlib.Path("gs://bucket/archives")))
    np.testing.assert_array_equal(there.train.images, here.train.images)
    assert catalog.fingerprint(there) == catalog.fingerprint(here)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (DataConfig("cifar100", DIR), "--data.name cifar100: is not prepared in gs://bucket/tfds; to get it: "),
    (DataConfig("own", pathlib.Path("gs://bucket/none")), "--data.dir gs://bucket/none: is not a folder"),
    (DataConfig("own", pathlib.Path("gs://absent/tfds")), "--data.dir gs://absent/tfds: the bucket cannot be listed"),
    (DataConfig("folder", DIR), "--data.dir gs://bucket/tfds: a folder of images is read from this machine"),
  ],
)
def test_what_is_not_there_is_said_in_a_line(copied, data, message):
  with pytest.raises(ConfigurationError) as refused:
    catalog.load(data)
  assert str(refused.value).startswith(message)
  assert "\n" not in str(refused.value)


def test_a_bucket_is_filled_from_a_folder(copied):
  assert tfds.prepare_command("cifar100", DIR).endswith(
    "--data.name cifar100 --data.dir DIR && gcloud storage cp DIR/cifar-100-python.tar.gz gs://bucket/tfds"
  )
  assert tfds.prepare_command("own", DIR) == (
    "pip install -e '.[prepare]' && python experiments/prepare.py --data.name own --data.dir DIR "
    "&& gcloud storage cp -r DIR/own gs://bucket/tfds"
  )
  done = call("experiments/prepare.py", "--data.name", "cifar10", "--data.dir", DIR)
  assert done.returncode == 2
  assert done.stderr.startswith("error: --data.dir gs://bucket/tfds: is prepared in a folder of this machine; then: ")


@pytest.mark.slow
@pytest.mark.thorough  # Each process imports for seconds; that a source goes to another one is test_sources.py's too.
def test_worker_processes_read_the_bucket_themselves(copied):
  source = sources.opened(DataConfig("own", DIR)).train
  content, label = source[7]  # Its files are open here.
  training = stream.Training(source, 3, 16, 8, tuple(range(8)), augmented=True, resize=18)
  here, there = (list(training.batches(14, 3, workers)) for workers in (0, 2))
  assert len(here) == 3
  for own, other in zip(here, there, strict=True):
    for name, column in own.items():
      np.testing.assert_array_equal(other[name], column)
  assert source[7] == (content, label)


@pytest.mark.thorough
def test_a_run_on_a_buckets_pictures_is_the_run_on_a_folders(copied, prepared, tmp_path):
  (tmp_path / "own").symlink_to(prepared / "cifar10")
  flags = ["--data.name", "own", "--data.size", "16", "--data.augment", "--model.blocks", "1"]
  flags += ["--model.growth-rate", "4", "--epochs", "2", "--batch-size", "8"]
  for name, folder in (("here", tmp_path), ("there", DIR)):
    done = call("experiments/train.py", *flags, "--data.dir", folder, "--out", tmp_path / name)
    assert done.returncode == 0, done.stderr
  assert metrics(tmp_path / "there") == metrics(tmp_path / "here")
  evaluated = call("experiments/evaluate.py", tmp_path / "there")
  assert "top-1 error" in evaluated.stdout, evaluated.stderr
