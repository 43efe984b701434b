"""What a folder is taken for: class folders, alone or in parts."""

import os
import pathlib

import pytest
from test_walk import made

from dn_jax.config.schema import DataConfig
from dn_jax.data import sources
from dn_jax.errors import ConfigurationError


def laid_out(folder: pathlib.Path, *numbered: str) -> pathlib.Path:
  """FOLDER/CLASS 12 makes CLASS/0.jpg to CLASS/11.jpg."""
  for each in numbered:
    place, number = each.rsplit(" ", 1)
    for n in range(int(number)):
      (folder / place).mkdir(parents=True, exist_ok=True)
      (folder / place / f"{n}.jpg").write_bytes(b"")  # Its name counts; nothing is decoded here.
  return folder


def taken(folder, **data):
  return sources.taken(DataConfig("folder", folder, **data))


def sizes(found):
  """Images of each class in each part."""
  return [None if part is None else sources.class_sizes(part).tolist() for part in found.splits]


@pytest.mark.parametrize(
  ("train", "validation", "test"),
  [
    *(("train", "val", "test"), ("Training", "Valid", "Testing"), ("TRAIN", "VALIDATION", "TEST")),
    *(("train", None, "testing"), ("Train", None, "Test"), ("training", None, "TEST")),
  ],
)
def test_parts_are_known_by_their_usual_names_in_any_case(tmp_path, train, validation, test):
  laid_out(tmp_path, f"{train}/a 5", f"{train}/b 4", f"{test}/a 2", f"{test}/b 1")
  if validation:
    laid_out(tmp_path, f"{validation}/a 1", f"{validation}/b 3")
  found = taken(tmp_path)
  assert sizes(found) == [[5, 4], [1, 3] if validation else None, [2, 1]]
  of_validation = f"4 for validation ({validation})" if validation else "none for validation"
  assert found.said == ("classes: 2 (a, b)", f"images: 9 for training ({train}), {of_validation}, 3 for test ({test})")


def test_a_validation_part_alone_is_the_test_set_and_that_is_said(tmp_path):
  found = taken(laid_out(tmp_path, "train/a 5", "train/b 4", "Val/a 2", "Val/b 1"), validation=3)
  assert [sum(each) for each in sizes(found)] == [6, 3, 3]
  assert found.said[1] == "images: 6 for training (train), 3 for validation (held out of these), 3 for test (Val)"
  assert found.said[2] == "Val is the test set, as published for ImageNet: there is no test part"


def test_with_three_parts_nothing_is_held_out(tmp_path):
  laid_out(tmp_path, "train/a 5", "train/b 4", "val/a 2", "val/b 1", "test/a 1", "test/b 1")
  with pytest.raises(ConfigurationError) as refused:
    taken(tmp_path, validation=3)
  assert str(refused.value) == "--data.validation 3: there is a validation part already, val; leave this flag out"
  assert sizes(taken(tmp_path, validation=0)) == [[5, 4], [2, 1], [1, 1]]


@pytest.mark.parametrize("inner", ["photos", "photos/photos", "a/b/c"])
def test_folders_around_a_data_set_are_looked_through(tmp_path, inner):
  (tmp_path / "__MACOSX" / "photos").mkdir(parents=True)
  laid_out(tmp_path, f"{inner}/cat 20", f"{inner}/dog 10")
  found = taken(tmp_path)
  assert found.splits.train.classes == ("cat", "dog")
  assert sizes(found) == [[18, 9], None, [2, 1]]
  assert found.said[1] == f"images: 27 for training ({inner}), none for validation, 3 for test " + (
    "(a tenth of each class of these)"
  )


def test_each_part_is_looked_through_too(tmp_path):
  laid_out(tmp_path, "x/Train/Train/a 5", "x/Train/Train/b 4", "x/test/images/a 2", "x/test/images/b 1")
  assert sizes(taken(tmp_path)) == [[5, 4], None, [2, 1]]
  assert sizes(taken(tmp_path / "x")) == [[5, 4], None, [2, 1]]
  # The training part alone, in a folder of its own name, is a set without parts.
  assert sizes(taken(tmp_path / "x" / "Train")) == [[4, 3], None, [1, 1]]


def test_a_class_may_have_folders_or_be_called_train_or_like_an_image(tmp_path):
  laid_out(tmp_path, "train 20", "train/more 5", "bus/images 10", "x.jpg 3", "x.jpg/old 1")
  (tmp_path / "train" / "more").rename(tmp_path / "bus" / "more")
  found = taken(tmp_path)
  assert found.splits.train.classes == ("bus", "train", "x.jpg")
  # Two of five classes that were sorted by hand are no parts.
  laid_out(tmp_path / "sorted", *(f"{name} 10" for name in "abc"), *(f"{name}/{by} 5" for name in "de" for by in "xy"))
  assert taken(tmp_path / "sorted").splits.train.classes == tuple("abcde")
  # As Tiny ImageNet has it.
  tiny = taken(laid_out(tmp_path / "tiny", "n01/images 10", "n02/images 10"))
  assert sizes(tiny) == [[9, 9], None, [1, 1]]


def test_rare_classes_are_in_every_part_that_they_can_be_in_and_named_where_not(tmp_path):
  laid_out(tmp_path, "common 190", "few 3", "one 1", "rare 10", "two 2")
  found = taken(tmp_path)
  assert sizes(found) == [[171, 2, 1, 9, 1], None, [19, 1, 0, 1, 1]]
  assert "no test image of one" in found.said
  found = taken(tmp_path, validation=20)
  # Of the 20, few gives its one; the other 19 are 18.05 of common's 171 and 0.95 of rare's 9.
  assert sizes(found) == [[153, 1, 1, 8, 1], [18, 1, 0, 1, 0], [19, 1, 0, 1, 1]]
  assert "no validation image of one, two" in found.said


def test_held_out_images_of_a_class_do_not_depend_on_other_classes(tmp_path):
  def held(folder):
    found = taken(folder)
    return {found.splits.test.name_of(n).removeprefix(str(folder)) for n in range(len(found.splits.test))}

  before = held(laid_out(tmp_path / "before", "cat 40", "dog 30"))
  after = held(laid_out(tmp_path / "after", "ape 300", "cat 40", "dog 31"))
  assert {name for name in after if name.startswith("/cat")} == {name for name in before if name.startswith("/cat")}


def test_a_test_part_without_a_class_is_said_and_one_with_others_refused(tmp_path):
  laid_out(tmp_path, "train/a 5", "train/b 4", "test/a 2")
  (tmp_path / "test" / "b").mkdir()
  assert "no test image of b" in taken(tmp_path).said
  (tmp_path / "test" / "b").rmdir()
  assert "no test image of b" in taken(tmp_path).said
  laid_out(tmp_path, "test/c 1")
  with pytest.raises(ConfigurationError, match=r"/test: lacks b and has c besides, unlike the classes"):
    taken(tmp_path)


@pytest.mark.parametrize("test", ["test_set/test_set", "test_set", "test-set/images/all", "TestSet"])
def test_a_test_part_without_classes_is_passed_over_and_that_is_said(tmp_path, test):
  laid_out(tmp_path, "training_set/training_set/a 30", "training_set/training_set/b 20", f"{test} 7")
  found = taken(tmp_path)
  assert found.splits.train.classes == ("a", "b")
  assert sizes(found) == [[27, 18], None, [3, 2]]
  top = test.split("/")[0]
  assert found.said[1:] == (
    "images: 45 for training (training_set/training_set), none for validation, 5 for test (a tenth of each class of "
    "these)",
    f"{top} is passed over: its 7 images are in no class folders",
  )
  # With a validation part, that is what there is to test on.
  found = taken(laid_out(tmp_path, "val/a 2", "val/b 3"))
  assert sizes(found) == [[30, 20], None, [2, 3]]
  source, said = sources.tested_and_said(DataConfig("folder", tmp_path), ("a", "b"))
  assert (len(source), said[:2]) == (
    5,
    (f"test images: {tmp_path}/val", f"{tmp_path}/{top} is passed over: its images are in no class folders"),
  )


def test_a_test_part_alone_without_classes_tests_nothing(tmp_path):
  laid_out(tmp_path, "train/a 5", "train/b 4", "test 7")
  with pytest.raises(ConfigurationError, match=r"/test: has no class folders"):
    sources.tested_and_said(DataConfig("folder", tmp_path), ("a", "b"))


def test_a_test_part_of_another_class_is_not_taken_for_one_without_classes(tmp_path):
  laid_out(tmp_path, "train/a 5", "train/b 4", "test/A 7")
  with pytest.raises(ConfigurationError, match=r"/test: lacks a, b and has A besides, unlike the classes"):
    taken(tmp_path)


def test_parts_may_be_called_sets(tmp_path):
  laid_out(tmp_path, "training_set/training_set/a 5", "training_set/training_set/b 4", "test_set/test_set/b 3")
  assert sizes(taken(tmp_path)) == [[5, 4], None, [0, 3]]


@pytest.mark.parametrize(
  ("layout", "answer"),
  [
    (
      ["Fold1/a 2", "Fold1/b 2", "Fold1/c 2", "Fold2/a 1", "Fold2/b 1", "Fold2/c 1"],
      ": folders in it (Fold1, Fold2) hold the same folders (a, b, c): they look like parts of a data set",
    ),
    (["Fold1/a 2", "Fold1/b 2", "Fold1/c 2", "Fold2/a 1", "Fold2/b 1"], "hold the same folders (a, b): they look"),
    (
      ["seg_train/seg_train/x 2", "seg_train/seg_train/y 2", "seg_test 9"],
      ": seg_train holds folders, and seg_test is beside it: it looks like parts of a data set, not like classes",
    ),
    (
      [
        "seg_train/seg_train/x 2",
        "seg_train/seg_train/y 2",
        "seg_test/seg_test/x 1",
        "seg_test/seg_test/y 1",
        "seg_pred/seg_pred 9",
      ],
      ": folders in it (seg_test, seg_train) hold the same folders (x, y)",
    ),
    (["A/a 2", "A/b 2", "B/b 2", "B/a 1", "C 30"], ": folders in it (A, B) hold the same folders (a, b)"),
    (["one/images/a 2", "one/images/b 2", "two/images/a 1", "two/images/b 1"], "hold the same folders (a, b)"),
    (
      ["train/F1/a 2", "train/F1/b 2", "train/F2/a 1", "train/F2/b 1", "test/a 1"],
      "/train: folders in it (F1, F2)",
    ),
    (
      ["train/a 2", "train/b 2", "Training/a 1", "val/a 1"],
      ": has Training and train, which both say train; leave one",
    ),
    (["train/a 2", "train/b 2", "val/a 2", "valid/a 2"], ": has val and valid, which both say validation; leave one"),
    (["train/a 2", "train/b 2"], ": has train and none of val, valid, validation, test beside it"),
    (["test/a 2", "test/b 2", "val/a 2"], ": has val and test and none of train, training beside it"),
    (["train 5", "test 3"], "/train: has no class folders; put images at CLASS/IMAGE in it"),
    (["cat 5"], ": has one class folder, cat; at least two are needed"),
    (["cat 1", "dog 1"], ": has no part for testing, and no class of two or more images"),
  ],
)
def test_what_a_folder_cannot_be_taken_for_is_refused_in_a_line(tmp_path, layout, answer):
  laid_out(tmp_path, *layout)
  with pytest.raises(ConfigurationError) as refused:
    taken(tmp_path)
  assert str(refused.value).startswith(f"--data.dir {tmp_path}")
  assert answer in str(refused.value)
  assert "\n" not in str(refused.value)


def test_what_is_passed_over_is_counted_in_one_line(tmp_path):
  laid_out(tmp_path, "train/a 5", "train/b 4", "val/a 2", "val/b 1", "unlabelled 3", "train/a/.old 2")
  made(tmp_path, "cover.jpg", "train/b.jpg")
  (tmp_path / "train" / "a" / "labels.csv").write_text("0")
  assert taken(tmp_path).said[-1] == (
    "passed over: 1 folder beside the halves (unlabelled); 2 images in no class folder (such as cover.jpg); "
    "1 hidden, or left by another program (train/a/.old); 1 file not read as images (1 .csv)"
  )


def test_names_that_are_not_utf8_are_classes_and_shown_escaped(tmp_path):
  name = os.fsdecode(b"caf\xe9")
  found = taken(laid_out(tmp_path, f"{name} 10", "tea 10"))
  assert found.splits.train.classes == (name, "tea")
  assert found.said[0] == r"classes: 2 (caf\xe9, tea)"
  assert found.splits.train[0] == (b"", 0)


@pytest.mark.parametrize(
  ("layout", "images"),
  [
    (["train/a 5", "train/b 4", "val/a 2", "val/b 1", "Test/a 3", "Test/b 3"], 6),
    (["train/a 5", "train/b 4", "Val/a 2", "Val/b 1"], 3),
    (["val/a 2", "val/b 1"], 3),
    (["x/a 2", "x/b 2"], 4),
    (["a 2", "b 5"], 7),
    (["a/2019 2"], 2),
  ],
)
def test_a_network_trained_elsewhere_is_tested_on_the_test_part_else_on_all(tmp_path, layout, images):
  source, said = sources.tested_and_said(DataConfig("folder", laid_out(tmp_path, *layout)), ("a", "b"))
  assert len(source) == images
  assert source.classes == ("a", "b")
  assert said[0].startswith(f"test images: {tmp_path}")
