"""The paper's data sets in their makers' files, in the order of TFDS."""

import dataclasses
import hashlib
import pickle

import makers_files
import numpy as np
import pytest
import scipy.io
from conftest import greys
from makers_files import FORMS, write, write_svhn

from dn_jax.config.schema import DataConfig
from dn_jax.data import archives, catalog, makers
from dn_jax.errors import ConfigurationError
from dn_jax.runs import records


def drawn(count, classes, seed=0):
  """Images of noise and their labels."""
  rng = np.random.RandomState(seed)
  return rng.randint(256, size=(count, 32, 32, 3), dtype=np.uint8), (rng.permutation(count) % classes).tolist()


def small(form):
  classes = 100 if form.startswith("cifar100") else 10
  return {"train": drawn(205, classes), "test": drawn(103, classes, seed=1)}


def same(one, other):
  for split in ("train", "valid", "test"):
    for own, others in zip(getattr(one, split), getattr(other, split), strict=True):
      np.testing.assert_array_equal(own, others)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", ["cifar10 pickled", "cifar10 binary"])
def test_archives_give_what_tfds_gives_of_the_same_images(prepared, tmp_path, form, packed):
  data = DataConfig("cifar10", write(tmp_path, form, greys(), packed), validation=33)
  here, there = catalog.load(data), catalog.load(dataclasses.replace(data, dir=prepared))
  same(here, there)
  assert catalog.count(data) == (87, 33, 40)
  found, known = (records.Data(**catalog.fingerprint(each)) for each in (here, there))
  assert dataclasses.replace(found, unverified=None) == known
  assert found.labels == known.labels


@pytest.mark.parametrize("split", ["train", "extra", "test"])
def test_the_order_is_that_of_tfds_own_shuffler(tmp_path, split):
  from tensorflow_datasets.core import shuffle

  shuffler = shuffle.Shuffler(tmp_path, split)
  for key in range(1234):
    shuffler.add(key, b"%d" % key)
  expected = [int(number) for _, number in shuffler]
  assert archives.order(split, 1234).tolist() == expected


def unsorted(images, labels, split):
  order = archives.order(split, len(labels))
  return images[order], np.asarray(labels)[order]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_rows_columns_channels_and_fine_labels(tmp_path, form, packed):
  splits = small(form)
  data = catalog.load(DataConfig(form.split()[0], write(tmp_path, form, splits, packed)))
  for split in ("train", "test"):
    images, labels = unsorted(*splits[split], split)
    np.testing.assert_array_equal(getattr(data, split).images, images)
    np.testing.assert_array_equal(getattr(data, split).labels, labels)


@pytest.mark.parametrize("compressed", [True, False])
def test_svhn_is_read_of_matlab_files_and_its_label_10_is_the_digit_0(tmp_path, compressed):
  splits = {name: drawn(count, 10, count) for name, count in (("train", 60), ("extra", 90), ("test", 40))}
  config = DataConfig("svhn_cropped", write_svhn(tmp_path, splits, compressed))
  data = catalog.load(config)
  assert catalog.count(config) == (150, 0, 40)
  parts = [unsorted(*splits[split], split) for split in ("train", "extra")]
  np.testing.assert_array_equal(data.train.images, np.concatenate([images for images, _ in parts]))
  np.testing.assert_array_equal(data.train.labels, np.concatenate([labels for _, labels in parts]))
  np.testing.assert_array_equal(data.test.images, unsorted(*splits["test"], "test")[0])
  assert 0 in data.test.labels
  assert archives.classes("svhn_cropped", tmp_path) == tuple("0123456789")


@pytest.mark.parametrize("dumps", [makers_files.python2, *map(makers_files.python3, range(6))])
def test_pickles_of_every_protocol_and_python_are_read(tmp_path, dumps):
  splits = small("cifar10 pickled")
  makers_files.pack(tmp_path / "cifar-10-python.tar.gz", makers_files.contents("cifar10 pickled", splits, dumps))
  images, labels = unsorted(*splits["train"], "train")
  train = catalog.load(DataConfig("cifar10", tmp_path)).train
  np.testing.assert_array_equal(train.images, images)
  np.testing.assert_array_equal(train.labels, labels)


def test_what_tfds_prepared_in_the_folder_goes_first(prepared, tmp_path):
  write(tmp_path, "cifar10 pickled", small("cifar10 pickled"))
  (tmp_path / "cifar10").symlink_to(prepared / "cifar10")
  assert len(catalog.load(DataConfig("cifar10", tmp_path)).train.labels) == 120


def test_a_folder_of_batches_may_be_given_itself(tmp_path):
  write(tmp_path, "cifar100 binary", small("cifar100 binary"), packed=False)
  assert catalog.count(DataConfig("cifar100", tmp_path / "cifar-100-binary")) == (205, 0, 103)


def test_another_sum_is_said_and_noted_and_no_part_of_what_the_images_are(tmp_path, monkeypatch):
  folder = write(tmp_path / "data", "cifar10 binary", small("cifar10 binary"))
  config = DataConfig("cifar10", folder)
  stranger = catalog.load(config)
  assert stranger.unverified == ("cifar-10-binary.tar.gz",)
  (line,) = catalog.remarks(stranger)
  assert line.endswith(": cifar-10-binary.tar.gz")
  sum_of_it = hashlib.md5((folder / "cifar-10-binary.tar.gz").read_bytes()).hexdigest()
  monkeypatch.setattr(makers, "MD5", {"cifar-10-binary.tar.gz": sum_of_it})
  own = catalog.load(config)
  assert own.unverified == ()
  assert catalog.remarks(own) == []
  noted, clean = (records.Data(**catalog.fingerprint(each)) for each in (stranger, own))
  assert (noted.unverified, clean.unverified) == (("cifar-10-binary.tar.gz",), None)
  for recorded, now in ((noted, clean), (clean, noted)):
    run = tmp_path / f"run of {recorded.unverified}"
    run.mkdir()
    records._write(run / "data.json", recorded)
    records.check_data(run, now)
    with pytest.raises(ConfigurationError, match="was started with other images"):
      records.check_data(run, dataclasses.replace(now, labels="0"))


def test_names_of_classes_are_in_the_archives_too(tmp_path):
  files = makers_files.contents("cifar100 pickled", small("cifar100 pickled"))
  names = [f"class {n}" for n in range(100)]
  files["cifar-100-python/meta"] = makers_files.python2({"fine_label_names": names, "coarse_label_names": ["x"]})
  makers_files.pack(tmp_path / "cifar-100-python.tar.gz", files)
  assert archives.classes("cifar100", tmp_path) == tuple(names)
  write(tmp_path, "cifar10 binary", small("cifar10 binary"), packed=False)
  assert archives.classes("cifar10", tmp_path) is None
  (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
  assert archives.classes("cifar10", tmp_path) == ("airplane", "automobile")


def refusal(name, folder, read=catalog.load):
  with pytest.raises(ConfigurationError) as error:
    read(DataConfig(name, folder))
  assert error.value.flag == "data.dir"
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("keep", [0.3, 0.999, -4])
@pytest.mark.parametrize("read", [catalog.load, catalog.count])
def test_an_archive_that_is_cut_short_is_refused(tmp_path, keep, read):
  path = write(tmp_path, "cifar10 pickled", small("cifar10 pickled")) / "cifar-10-python.tar.gz"
  content = path.read_bytes()
  path.write_bytes(content[: keep if keep < 0 else int(keep * len(content))])
  assert f"{path}: cannot be read; it may be cut short (" in refusal("cifar10", tmp_path, read)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_that_is_cut_short_is_refused(tmp_path, form):
  write(tmp_path, form, small(form), packed=False)
  path = tmp_path / FORMS[form][1] / makers_files.TEST[form]
  path.write_bytes(path.read_bytes()[:-100])
  assert f"{path}: " in refusal(form.split()[0], tmp_path)


def test_what_is_missing_is_named_with_the_command_that_gets_it(tmp_path):
  write(tmp_path, "cifar10 pickled", small("cifar10 pickled"), packed=False)
  (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
  assert (
    f"lacks data_batch_3; to get all of it: python experiments/prepare.py --data.name cifar10 --data.dir {tmp_path}"
    in (refusal("cifar10", tmp_path))
  )
  files = makers_files.contents("cifar10 binary", small("cifar10 binary"))
  del files["cifar-10-batches-bin/test_batch.bin"]
  makers_files.pack(tmp_path / "cifar-10-binary.tar.gz", files)
  assert "cifar-10-binary.tar.gz: lacks cifar-10-batches-bin/test_batch.bin" in refusal("cifar10", tmp_path)
  write_svhn(tmp_path, {"train": drawn(20, 10)})
  assert f"{tmp_path}: lacks test_32x32.mat, extra_32x32.mat; to get" in refusal("svhn_cropped", tmp_path)


def test_an_archive_with_a_batch_twice_or_a_huge_one_is_refused(tmp_path, monkeypatch):
  path, folder = tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
  files = makers_files.contents("cifar10 binary", small("cifar10 binary"))
  makers_files.pack(path, files | {f"./{folder}/test_batch.bin": b"another"})
  assert f"{path}: ./{folder}/test_batch.bin is there twice" in refusal("cifar10", tmp_path)
  makers_files.pack(path, files)
  monkeypatch.setattr(archives, "_LARGEST_BATCH", 2**10)
  assert "has more than 0 MiB" in refusal("cifar10", tmp_path)


def test_labels_out_of_range_are_refused(tmp_path):
  images, labels = drawn(50, 10)
  write(tmp_path, "cifar10 binary", {"train": (images, labels), "test": (images, [*labels[:-1], 11])})
  assert "labels run from 0 to 11" in refusal("cifar10", tmp_path)
  write_svhn(tmp_path, dict.fromkeys(("train", "extra"), (images, labels)) | {"test": (images, [11] * 50)})
  assert "test_32x32.mat: 50 labels are others than 1 to 10 (11); 10 is the digit 0" in refusal(
    "svhn_cropped", tmp_path
  )


class Command:
  """Runs a command when it is unpickled as usual."""

  def __init__(self, words):
    self.words = words

  def __reduce__(self):
    return __import__("os").system, (self.words,)


def test_an_object_in_a_pickle_is_refused_by_name_and_not_run(tmp_path):
  images, labels = drawn(10, 10)
  trap = {"data": makers_files.planes(images), "labels": labels, "more": Command(f"touch {tmp_path}/ran")}
  files = makers_files.contents("cifar10 pickled", small("cifar10 pickled"))
  files["cifar-10-batches-py/data_batch_2"] = pickle.dumps(trap)
  makers_files.pack(tmp_path / "cifar-10-python.tar.gz", files)
  message = refusal("cifar10", tmp_path)
  assert "cifar-10-python.tar.gz/cifar-10-batches-py/data_batch_2: holds an object of 'posix.system'" in message
  assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
  ("batch", "message"),
  [
    ({"data": np.zeros((3, 3072), np.uint8)}, "lacks 'labels'; it has b'data'"),
    ({"labels": [1, 2, 3]}, "lacks 'data'"),
    ({"data": np.zeros((3, 3072), np.uint8), "labels": [1, 2]}, "has 3 images and 2 labels"),
    ({"data": np.zeros((3, 3072), np.uint8), "labels": ["1", "2", "3"]}, "its labels are list; they should be"),
    ({"data": np.zeros((3, 3072), np.float32), "labels": [1, 2, 3]}, "its data are float32 [3, 3072]; they should be"),
    ({"data": np.zeros((3, 1024), np.uint8), "labels": [1, 2, 3]}, "its data are uint8 [3, 1024]; they should be"),
    ({"data": [[0] * 3072], "labels": [1]}, "its data are list; they should be uint8 [n, 3072]"),
    ([1, 2, 3], "is no pickled dictionary"),
  ],
)
def test_a_batch_of_another_structure_is_refused(tmp_path, batch, message):
  write(tmp_path, "cifar10 pickled", small("cifar10 pickled"), packed=False)
  path = tmp_path / "cifar-10-batches-py" / "test_batch"
  path.write_bytes(makers_files.python2(batch))
  assert f"{path}: {message}" in refusal("cifar10", tmp_path)


X, y = np.zeros((32, 32, 3, 5), np.uint8), np.ones((5, 1), np.uint8)


@pytest.mark.parametrize("read", [catalog.load, catalog.count])
@pytest.mark.parametrize(
  ("content", "message"),
  [
    ({"X": X[:28], "y": y}, "its X is uint8 [28, 32, 3, 5]; it should be uint8 [32, 32, 3, n]"),
    ({"X": X.T, "y": y}, "its X is uint8 [5, 3, 32, 32]"),
    ({"X": X.astype(float), "y": y}, "its X is double [32, 32, 3, 5]"),
    ({"X": X, "y": y[:4]}, "its y is uint8 [4, 1]; it should be [5, 1], whole numbers"),
    ({"X": X, "y": np.array([["a"] * 5], object)}, "its y is cell [1, 5]"),
    ({"X": X}, "has the variables X; X and y are needed"),
    ({"Z": X, "y": y}, "has the variables Z, y; X and y are needed"),
  ],
)
def test_a_matlab_file_of_other_variables_is_refused(tmp_path, content, message, read):
  write_svhn(tmp_path, {split: drawn(5, 10) for split in ("train", "extra", "test")})
  path = tmp_path / "test_32x32.mat"
  scipy.io.savemat(path, content)
  assert f"{path}: {message}" in refusal("svhn_cropped", tmp_path, read)


def test_a_matlab_file_of_fractions_or_of_another_version_or_cut_short_is_refused(tmp_path):
  write_svhn(tmp_path, {split: drawn(5, 10) for split in ("train", "extra", "test")})
  path = tmp_path / "test_32x32.mat"
  content = path.read_bytes()
  scipy.io.savemat(path, {"X": X, "y": y + 0.5})
  assert f"{path}: its X is not uint8, or its y no whole numbers" in refusal("svhn_cropped", tmp_path)
  for kept in (-1000, -10):  # Within X, and within y behind it.
    path.write_bytes(content[:kept])
    assert f"{path}: " in refusal("svhn_cropped", tmp_path)
  path.write_bytes(content[:124] + bytes([0, 2]) + content[126:])  # The version of MATLAB 7.3, which is HDF5.
  assert f"{path}: cannot be read" in refusal("svhn_cropped", tmp_path)


def test_a_matlab_file_that_is_too_small_for_what_it_says_allocates_nothing(tmp_path):
  write_svhn(tmp_path, {split: drawn(5, 10) for split in ("train", "extra", "test")}, compressed=False)
  path = tmp_path / "test_32x32.mat"
  content = path.read_bytes()
  sizes = lambda n: np.array([32, 32, 3, n], "<i4").tobytes()
  labels = lambda n: np.array([n, 1], "<i4").tobytes()
  assert content.count(sizes(5)) == content.count(labels(5)) == 1
  million = 2**30
  path.write_bytes(content.replace(sizes(5), sizes(million)).replace(labels(5), labels(million)))
  assert f"says that it has {million} images, and is too small for them" in refusal("svhn_cropped", tmp_path)
