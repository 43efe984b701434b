"""Folders of one's own, and what TFDS prepared, picture by picture."""

import pickle
import shutil

import numpy as np
import pytest
from photographs import class_folders, halves

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog, image_files, sources
from dn_jax.errors import ConfigurationError


def test_a_folder_with_halves_is_listed_by_class(tmp_path):
  halves(tmp_path)
  (tmp_path / "train" / "cat" / "more").mkdir()
  (tmp_path / "train" / "cat" / "0.jpg").rename(tmp_path / "train" / "cat" / "more" / "deep.JPEG")
  (tmp_path / "train" / "cat" / "notes.txt").write_text("no image, and none is looked for in it")
  found = sources.opened(DataConfig("folder", tmp_path))
  assert found.train.classes == ("cat", "dog", "owl")
  assert (len(found.train), found.valid, len(found.test)) == (24, None, 9)
  content, label = found.train[23]
  assert (content, label) == ((tmp_path / "train" / "owl" / "7.jpg").read_bytes(), 2)
  assert found.train.name_of(7) == f"{tmp_path}/train/cat/more/deep.JPEG"


def test_a_folder_without_halves_is_tested_on_one_picture_in_ten_of_every_class(tmp_path):
  class_folders(tmp_path, each=20)
  found = sources.opened(DataConfig("folder", tmp_path, validation=9))
  assert [len(split) for split in found] == [45, 9, 6]
  names = [{split.name_of(n) for n in range(len(split))} for split in found]
  assert len(set.union(*names)) == 60
  for split, each in ((found.test, 2), (found.valid, 3)):
    labels = [split[n][1] for n in range(len(split))]
    assert [labels.count(label) for label in range(3)] == [each] * 3
  assert names == [
    {split.name_of(n) for n in range(len(split))}
    for split in sources.opened(DataConfig("folder", tmp_path, validation=9))
  ]


def broken(folder, what):
  if what == "nothing":
    return folder
  if what == "file":
    (folder / "file").write_text("")
    return folder / "file"
  if what == "one class":
    return class_folders(folder / "of one", classes=("cat",))
  if what == "no images":
    class_folders(folder / "x")
    (folder / "x" / "empty").mkdir()
    return folder / "x"
  halves(folder / "y")
  if what == "no val":
    (folder / "y" / "val").rename(folder / "y" / "something")
  else:
    (folder / "y" / "val" / "owl").rename(folder / "y" / "val" / "eagle")
  return folder / "y"


@pytest.mark.parametrize(
  ("what", "message"),
  [
    ("nothing", "has no class folders; put images at CLASS/IMAGE in it"),
    ("file", "file: is not a folder"),
    ("one class", "has one class folder, cat; at least two are needed"),
    ("no images", "x/empty: has no images"),
    ("no val", "has train and none of val, valid, validation, test beside it"),
    ("other names", "y/val: lacks owl and has eagle besides, unlike the classes that were trained on"),
  ],
)
def test_a_folder_that_is_not_fit_is_refused_in_a_line(tmp_path, what, message):
  with pytest.raises(ConfigurationError, match=message) as refused:
    sources.opened(DataConfig("folder", broken(tmp_path, what)))
  assert str(refused.value).startswith("--data.dir ")
  assert "\n" not in str(refused.value)


def test_a_folder_must_be_given():
  with pytest.raises(ConfigurationError, match=r"--data.dir \(unset\): --data.name folder needs the folder"):
    sources.opened(DataConfig("folder"))


@pytest.mark.slow
def test_what_tfds_prepared_is_read_record_by_record_here_and_in_another_process(prepared, tmp_path):
  (tmp_path / "own").symlink_to(prepared / "cifar10")
  found = sources.opened(DataConfig("own", tmp_path))
  assert (len(found.train), found.valid, len(found.test)) == (120, None, 40)
  whole = catalog.load(DataConfig("cifar10", prepared)).train
  untouched = pickle.dumps(found.train)
  found.train[0]  # Opens files, which do not go to another process.
  for source in (found.train, pickle.loads(untouched), pickle.loads(pickle.dumps(found.train))):
    for number in (0, 57, 119):
      content, label = source[number]
      assert np.array_equal(image_files.decode(content, ""), whole.images[number])
      assert label == whole.labels[number]
  assert found.train.classes == tuple(map(str, range(10)))
  assert len(sources.opened(DataConfig("own", tmp_path, validation=20)).valid) == 20


def test_a_streamed_data_set_is_known_by_size_and_classes(tmp_path):
  halves(tmp_path)
  data = DataConfig("folder", tmp_path, size=32)
  info = datasets.info_of(data)
  assert (info.image_shape, info.resize, info.num_classes, info.streamed) == ((32, 32, 3), 37, 0, True)
  assert datasets.info_of(DataConfig("imagenet2012")).image_shape == (224, 224, 3)
  assert datasets.info_of(DataConfig("imagenet2012")).resize == 256
  assert catalog.known(data).num_classes == 3
  assert catalog.count(data) == (24, 0, 9)


def test_other_files_are_other_pictures(tmp_path):
  halves(tmp_path)
  data = DataConfig("folder", tmp_path)
  before = catalog.fingerprint(catalog.load(data))
  assert before == catalog.fingerprint(catalog.load(data))
  assert before["pictures"] == {"train": 24, "test": 9}
  assert [(each.name, each.train, each.validation, each.test) for each in before["classes"]] == [
    (name, 8, 0, 3) for name in ("cat", "dog", "owl")
  ]
  assert before["split_rule"] == 2
  (tmp_path / "train" / "cat" / "0.jpg").rename(tmp_path / "train" / "cat" / "00.jpg")
  assert catalog.fingerprint(catalog.load(data))["labels"] != before["labels"]


def test_a_size_is_for_pictures_that_are_read_one_by_one():
  with pytest.raises(ConfigurationError, match=r"--data.size 64: cifar10 has a size"):
    datasets.info_of(DataConfig("cifar10", size=64))


def test_a_damaged_record_is_a_bad_picture(prepared, tmp_path):
  shutil.copytree(prepared / "cifar10", tmp_path / "own")
  (shard,) = (tmp_path / "own").rglob("*train.array_record*")
  content = bytearray(shard.read_bytes())
  place = 3000  # Among the records; their places stand at the end, and without them nothing is read.
  content[place : place + 500] = bytes(500)
  shard.write_bytes(content)
  source, bad = sources.opened(DataConfig("own", tmp_path)).train, []
  for number in range(len(source)):
    try:
      image_files.decode(source[number][0], "")
    except image_files.BadPictureError as error:
      bad.append(str(error))
  assert 0 < len(bad) < len(source)
  assert any(", split train, record " in line for line in bad)
