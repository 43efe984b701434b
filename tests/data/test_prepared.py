"""Streamed data sets that TFDS prepared: which split is for what, and their labels. Records are stand-ins here."""

import pathlib

import numpy as np
import pytest

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog, image_files, labels, sources, tfds
from dn_jax.errors import ConfigurationError
from dn_jax.system import folders

CLASSES = ("a", "b", "c")


class Rows(list):
  """A split's records by number, as TFDS gives them; a label of None is a damaged record."""

  def __getitem__(self, number):
    label = super().__getitem__(number)
    if label is None:
      raise ValueError("damaged")
    return {"image": b"", "label": label}

  def __getitems__(self, numbers):
    return [self[number] for number in numbers]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
  """Makes a data set of splits' labels; it returns a list of the splits whose labels are read."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  reads: list[str] = []
  read = tfds.labels

  def noted(version, split, numbers):
    reads.append(split)
    return read(version, split, numbers)

  def make(**splits):
    version = tmp_path / "set" / "1.0.0"
    version.mkdir(parents=True, exist_ok=True)
    for name, own in splits.items():
      (version / f"set-{name}.array_record").write_text(str(own))

    monkeypatch.setattr(tfds, "newest_version", lambda name, folder: version)
    described = tfds.Described({name: len(own) for name, own in splits.items()}, CLASSES)
    monkeypatch.setattr(tfds, "described", lambda version: described)
    monkeypatch.setattr(tfds, "check_shards", lambda version, split: None)  # `test_tfds.py` has it.
    monkeypatch.setattr(tfds, "undecoded", lambda version, split: Rows(splits[split]))
    monkeypatch.setattr(tfds, "labels", noted)
    return reads

  return make


def taken(name="set", **data):
  return sources.taken(DataConfig(name, pathlib.Path("/nowhere"), **data))


def sizes(found):
  return [None if part is None else sources.class_sizes(part).tolist() for part in found.splits]


ROUND = [0, 1, 2]


@pytest.mark.parametrize(
  ("splits", "flags", "expected", "said"),
  [
    (["train", "test"], {}, [60, 0, 12], "(split train), none for validation, 12 for test (split test)"),
    (
      ["train", "validation", "test"],
      {},
      [60, 24, 12],
      "24 for validation (split validation), 12 for test (split test)",
    ),
    (["train", "validation"], {}, [60, 0, 24], "24 for test (split validation)"),
    (["train", "validation", "test"], {"test_split": "validation"}, [60, 0, 24], "24 for test (split validation)"),
    (["Training", "val", "TEST"], {}, [60, 24, 12], "(split Training), 24 for validation (split val), 12 for test"),
    (["train"], {}, [54, 0, 6], "6 for test (a tenth of each class of these)"),
    (["train", "test"], {"validation": 9}, [51, 9, 12], "9 for validation (held out of these)"),
  ],
)
def test_splits_are_taken_by_their_names_and_said(prepared, splits, flags, expected, said):
  each = {"tr": 20, "va": 8, "te": 4}
  prepared(**{name: ROUND * each[name[:2].lower()] for name in splits})
  found = taken(**flags)
  assert [0 if part is None else len(part) for part in found.splits] == expected
  assert all(np.ptp(sources.class_sizes(part)) == 0 for part in found.splits if part is not None)
  assert found.said[0] == "classes: 3 (a, b, c)"
  assert said in found.said[1]


def test_a_rare_class_is_trained_on_and_tested_on(prepared):
  prepared(train=[0] * 180 + [1] * 10 + [2] * 2)
  assert sizes(taken()) == [[162, 9, 1], None, [18, 1, 1]]
  assert sizes(taken(validation=19)) == [[144, 8, 1], [18, 1, 0], [18, 1, 1]]
  with pytest.raises(ConfigurationError, match=r"--data.validation 2: there are 172 training images; 3 to 169"):
    taken(validation=2)


def test_which_records_of_a_class_are_held_out_depends_on_that_class_alone(prepared):
  def held(order):
    prepared(train=order)
    source = taken().splits.test
    labels = np.array(order)
    return [n for n in source.numbers - np.flatnonzero(labels == 2)[0] if labels[labels == 2].size > n >= 0]

  assert held([0] * 30 + [2] * 40) == held([1] * 7 + [2] * 40 + [0] * 90)


@pytest.mark.parametrize(
  ("splits", "answer"),
  [
    ({"test": [-1] * 6}, "--data.name set: split test: 6 of 6 labels are not 0 to 2, the first is -1"),
    (
      {"test": [-1] * 6, "validation": ROUND},
      "not 0 to 2, the first is -1; split validation has labels: --data.test-split validation",
    ),
    ({"test": ROUND, "train": [*ROUND, 3, 2, 7]}, "split train: 2 of 6 labels are not 0 to 2, the first is 3"),
    ({"test": ROUND, "validation": [0, -1]}, "split validation: 1 of 2 labels are not 0 to 2, the first is -1"),
    ({"test": ROUND, "train": [3], "validation": ROUND}, "split train: 1 of 1 labels are not 0 to 2, the first is 3"),
    ({"test": []}, "--data.name set: split test has no images"),
  ],
)
def test_labels_of_no_class_are_refused_with_split_number_and_value(prepared, splits, answer):
  prepared(**{"train": ROUND * 20} | splits)
  with pytest.raises(ConfigurationError) as refused:
    taken()
  assert answer in str(refused.value)
  if "train" not in splits and "validation" not in splits:  # A network trained elsewhere is tested on the test split.
    with pytest.raises(ConfigurationError) as refused:
      sources.tested(DataConfig("set", pathlib.Path("/nowhere")), CLASSES)
    assert answer in str(refused.value)


def test_a_validation_split_without_labels_is_left_out_and_that_is_said(prepared):
  prepared(train=ROUND * 20, validation=[-1] * 9, test=ROUND)
  found = taken(validation=6)
  assert sizes(found) == [[18] * 3, [2] * 3, [1] * 3]
  assert found.said[-1] == "split validation is left out: it has no labels"
  # Nor is another test split offered where the fault is in another one.
  prepared(train=ROUND * 20, validation=[-1, 0], test=ROUND, more=ROUND)
  with pytest.raises(ConfigurationError) as refused:
    taken()
  assert str(refused.value).endswith("split validation: 1 of 2 labels are not 0 to 2, the first is -1")


def test_a_split_that_is_not_tested_on_needs_no_labels(prepared):
  prepared(train=ROUND * 20, test=[-1] * 6, validation=ROUND)
  assert sizes(taken(test_split="validation")) == [[20] * 3, None, [1] * 3]
  source, said = sources.tested_and_said(DataConfig("set", test_split="validation"), CLASSES)
  assert (len(source), said) == (3, ("test images: split validation",))


@pytest.mark.parametrize(("asked", "others"), [("train", "validation, test"), ("tset", "validation, test")])
def test_a_test_split_that_there_is_not_is_refused_with_those_that_there_are(prepared, asked, others):
  prepared(train=ROUND, validation=ROUND, test=ROUND)
  with pytest.raises(ConfigurationError, match=rf"--data.test-split {asked}: one of {others}$"):
    taken(test_split=asked)
  with pytest.raises(ConfigurationError, match=r"--data.test-split x: is for a data set that TFDS prepared"):
    taken("folder", test_split="x")
  for flag in ({"test_split": "x"}, {"bit_depth": 12}):
    with pytest.raises(
      ConfigurationError, match=r"--data.(test-split x|bit-depth 12): digits has its published test set"
    ):
      datasets.info_of(DataConfig("digits", **flag))


def test_labels_are_read_once_and_again_where_the_files_are_others(prepared, tmp_path):
  reads = prepared(train=ROUND * 20, test=ROUND)
  before = sizes(taken())
  assert sorted(reads) == ["test", "train"]
  assert sizes(taken()) == before
  assert len(reads) == 2
  (cached,) = (tmp_path / "cache").rglob("labels")
  for path in cached.iterdir():  # A damaged cache is no cache.
    path.write_bytes(path.read_bytes()[:-9])
  assert sizes(taken()) == before
  assert len(reads) == 4
  prepared(train=[0] * 60, test=ROUND)
  assert sizes(taken())[0] == [60, 0, 0]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(prepared, tmp_path):
  (tmp_path / "cache").write_text("a file")
  prepared(train=ROUND * 20, test=ROUND)
  assert sizes(taken())[0] == [20] * 3


def test_a_damaged_record_has_no_class_and_stays_for_training(prepared):
  prepared(train=[*ROUND * 10, None, None], test=ROUND)
  found = taken(validation=6)
  assert sizes(found) == [[8] * 3, [2] * 3, [1] * 3]
  assert len(found.splits.train) == 26
  with pytest.raises(image_files.BadPictureError, match="split train, record 30: cannot be read"):
    found.splits.train[24]


@pytest.mark.parametrize("where", ["large", "bucket"])
def test_labels_that_would_take_long_are_checked_as_they_come_and_that_is_said(prepared, monkeypatch, where):
  if where == "large":
    monkeypatch.setattr(labels, "MOST", 20)
    monkeypatch.setattr(labels, "_FIRST", 8)
  else:
    monkeypatch.setattr(folders, "is_bucket", lambda path: True)
  prepared(train=[*ROUND * 10, 5, *ROUND * 10])
  found = taken(validation=5)
  assert [len(part) for part in found.splits] == [50, 5, 6]
  why = "of more than 20 records" if where == "large" else "in a bucket"
  assert found.said[-1] == f"labels {why} are checked as they come (train); images of any class are held out"
  assert sources.class_sizes(found.splits.train) is None
  assert catalog.fingerprint(catalog.Dataset(None, *found.splits))["classes"][0].train is None
  source = found.splits.train.source.source
  assert source[29] == (b"", 2)
  with pytest.raises(ConfigurationError, match="label 5 of record 30 of split train is not 0 to 2"):
    source[30]
  with pytest.raises(ConfigurationError, match=r"--data.validation 2: there are 55 training images of 3 classes"):
    taken(validation=2)
  # The first few are looked at before anything begins.
  prepared(train=[-1] * 60)
  with pytest.raises(ConfigurationError, match="split train: 8 of 8 labels are not 0 to 2, the first is -1"):
    taken()
