"""What counts as a checkpoint, and as a whole one."""

import os
import shutil

import pytest
from test_checkpoint import history, restore, save, state

from dn_jax.errors import UserError
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.seal import fault, seal


def test_what_a_seal_that_was_cut_off_left_is_no_part_of_a_checkpoint(tmp_path):
  (tmp_path / "array").write_text("1")
  for name in ("digests.json.7-0a1b.tmp", "digests.json.tmp"):
    (tmp_path / name).write_text("{")
  seal(tmp_path)
  for path in tmp_path.glob("*.tmp"):
    path.unlink()
  assert fault(tmp_path) is None


def test_folders_of_other_people_with_numbers_for_names_are_not_moved_removed_or_taken(tmp_path):
  letters = [tmp_path / "c" / name / "letter" for name in ("5", "15", "9999", "20.replaced", "mine.replaced", "07")]
  for letter in letters:
    letter.parent.mkdir(parents=True)
    letter.write_text("mine")
  (tmp_path / "c" / "8888").symlink_to(tmp_path / "c" / "9999")
  said = []
  with Checkpoints(tmp_path / "c", 2, said.append) as checkpoints:
    for n in range(1, 5):
      checkpoints.save(10 * n, state(n), history(n))
  assert said == [
    f"{tmp_path / 'c' / name} is no checkpoint of this program, and is left alone"
    for name in ("15", "5", "8888", "9999")
  ]
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    assert checkpoints.steps() == [40, 30]
    assert checkpoints.restore(state(0))[1] == history(4)
  assert [letter.read_text() for letter in letters] == ["mine"] * len(letters)
  assert (tmp_path / "c" / "8888").is_symlink()
  assert not (tmp_path / "set-aside").exists()


def test_a_checkpoint_whose_place_somebody_elses_folder_has_is_refused_in_a_line(tmp_path):
  letter = tmp_path / "c" / "20" / "letter"
  letter.parent.mkdir(parents=True)
  letter.write_text("mine")
  (tmp_path / "c" / "10").mkdir()  # An empty one is in nobody's way.
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(10, state(1), history(1))
    with pytest.raises(UserError, match="20: is no checkpoint of this program; move it elsewhere"):
      checkpoints.save(20, state(2), history(2))
  assert letter.read_text() == "mine"
  assert restore(tmp_path / "c")[1] == history(1)


@pytest.mark.parametrize("name", ["digests.json", "position/metadata", "state", "state/more"])
@pytest.mark.parametrize(
  "put",
  [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(".")],
  ids=["pipe", "device", "loop"],
)
def test_what_is_no_file_in_a_checkpoint_is_neither_waited_for_nor_followed(tmp_path, name, put):
  save(tmp_path / "c", 2)
  place = tmp_path / "c" / "20" / name
  shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
  put(place)
  said = []
  assert restore(tmp_path / "c", said)[1] == history(1)
  assert len(said) == 1
  assert said[0].startswith("checkpoint of step 20 is not used: ")


@pytest.mark.parametrize("text", ["[]", "5", "null", '{"state/_METADATA": 5}', "[" * 100_000, '{"a": "b"}'])
def test_digests_that_are_none_are_damaged_ones(tmp_path, text):
  save(tmp_path / "c", 2)
  (tmp_path / "c" / "20" / "digests.json").write_text(text)
  assert restore(tmp_path / "c")[1] == history(1)
