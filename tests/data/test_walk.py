"""What is found below a folder, and what is passed over."""

import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from dn_jax.data import image_files, walk

LITTER = (
  *(".DS_Store", "._0.jpg", "Thumbs.db", "desktop.ini", "Icon\r", "0.jpg~", "0.jpg.bak", "MVI_1.THM", "picasa.ini"),
  *(".ipynb_checkpoints/0.jpg", "__MACOSX/0.jpg", "@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", ".Trashes/0.jpg"),
  *("#recycle/0.jpg", "$RECYCLE.BIN/0.jpg", "System Volume Information/0.jpg", "lost+found/0.jpg"),
  *(".thumbnails/0.jpg", "deep/.@__thumb/0.jpg", "deep/deeper/.hidden.png"),
)


def made(folder: pathlib.Path, *names: str) -> pathlib.Path:
  """Files of one small JPEG."""
  content = io.BytesIO()
  Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(content, "jpeg")
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
  return folder


def found(folder: pathlib.Path) -> tuple[list[str], str | None]:
  walking = walk.Walk(folder)
  return walking.images(folder), walking.passed.line()


def test_nothing_hidden_and_nothing_that_programs_leave_is_read_at_any_depth(tmp_path):
  made(tmp_path, "0.jpg", "deep/1.jpg", "deep/deeper/2.png", *LITTER, *(f"deep/deeper/{name}" for name in LITTER))
  images, said = found(tmp_path)
  assert images == ["0.jpg", "deep/1.jpg", "deep/deeper/2.png"]
  assert said == f"passed over: {2 * len(LITTER)} hidden, or left by another program (such as #recycle)"


def test_a_folder_may_be_called_as_only_files_are_left(tmp_path, monkeypatch):
  folders = ["Recycled", "b.bak", "c~", "films.tmp", "recycler"]
  made(tmp_path, *(f"{name}/0.jpg" for name in folders), "b.bak/1.jpg.bak", "c~/1.jpg~")
  walking = walk.Walk(tmp_path)
  assert walking.children(tmp_path).folders == folders
  assert walking.images(tmp_path / "b.bak") == walking.images(tmp_path / "c~") == ["0.jpg"]
  monkeypatch.chdir(tmp_path)
  passed = walk.Passed()
  assert [str(path) for path in walk.matches("**/*.jpg*", passed)] == [f"{name}/0.jpg" for name in folders]
  assert passed.line() == "passed over: 2 hidden, or left by another program (such as b.bak/1.jpg.bak)"


def test_a_hidden_folder_that_was_asked_for_is_read(tmp_path):
  assert found(made(tmp_path / ".cache" / "@eaDir", "0.jpg")) == (["0.jpg"], None)


@pytest.mark.parametrize(
  "kind", ["jpg", "jfif", "jpe", "JPEG", "png", "gif", "avif", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "jp2", "tga"]
)
def test_every_format_that_is_found_is_decoded(tmp_path, kind):
  picture = np.full((16, 24, 3), 100, np.uint8)
  form = {"jfif": "JPEG", "jpe": "JPEG", "tif": "TIFF", "pgm": "PPM", "jp2": "JPEG2000", "jpg": "JPEG"}
  Image.fromarray(picture).save(tmp_path / f"x.{kind}", form.get(kind, kind))
  assert found(tmp_path) == ([f"x.{kind}"], None)
  assert np.abs(image_files.read(tmp_path / f"x.{kind}").astype(int) - picture).max() <= 4


def test_a_header_tells_an_image_of_no_suffix_or_another_and_foreign_files_are_counted_by_suffix(tmp_path):
  made(tmp_path, "none", "strange.data")
  Image.new("RGB", (9, 9)).save(tmp_path / "plain", "tiff")
  Image.new("RGB", (9, 9)).save(tmp_path / "raw.nef", "tiff")  # A camera's file begins so, and holds a thumbnail.
  for name, text in (("notes.txt", "P5 is a format"), ("more.TXT", "BM too"), ("code.py", "Python"), ("empty", "")):
    (tmp_path / name).write_text(text)
  (tmp_path / "damaged.png").write_text("by its name an image")
  images, said = found(tmp_path)
  assert images == ["damaged.png", "none", "plain", "strange.data"]
  assert said == "passed over: 5 files not read as images (2 .txt, 1 .py, 1 no suffix, 1 .nef)"


def test_links_are_followed_and_everything_is_read_once(tmp_path):
  cat = made(tmp_path / "all" / "cat", "0.jpg", "own/1.jpg")
  made(tmp_path / "elsewhere", "2.jpg", "3.jpg")
  for name, target in {
    "a_loop": cat,
    "a_loop_above": tmp_path / "all",
    "to_own": cat / "own",
    "one": tmp_path / "elsewhere",
    "two": tmp_path / "elsewhere",
    "itself": cat / "itself",
    "gone.jpg": tmp_path / "nowhere.jpg",
    "again.jpg": cat / "0.jpg",
    "2.jpg": tmp_path / "elsewhere" / "2.jpg",
    "4.jpg": made(tmp_path / "files", "x.jpg") / "x.jpg",
  }.items():
    (cat / name).symlink_to(target)
  walking = walk.Walk(tmp_path / "all")
  assert walking.children(tmp_path / "all").folders == ["cat"]
  assert walking.images(cat) == ["0.jpg", "4.jpg", "one/2.jpg", "one/3.jpg", "own/1.jpg"]
  assert walking.passed.line() == (
    "passed over: 2 broken links (such as cat/gone.jpg); 6 links to what is read already (such as cat/a_loop)"
  )


def test_a_folder_that_is_called_like_an_image_is_a_folder_and_a_pipe_is_no_file(tmp_path):
  made(tmp_path, "x.jpg/0.jpg")
  os.mkfifo(tmp_path / "pipe.jpg")
  assert found(tmp_path) == (["x.jpg/0.jpg"], "passed over: 1 neither file nor folder (pipe.jpg)")


def test_a_name_is_bytes_and_shown_escaped(tmp_path):
  made(tmp_path, os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"gar\xe7on/.hidden"))
  images, said = found(tmp_path)
  assert list(map(os.fsencode, images)) == [b"caf\xe9.jpg"]
  assert said == r"passed over: 1 hidden, or left by another program (gar\xe7on/.hidden)"


def test_a_pattern_finds_by_the_same_rule_and_reads_what_it_spells_out(tmp_path):
  made(tmp_path, "a/0.jpg", "a/__MACOSX/1.jpg", "a/2.gif", "x.jpg/3.jpg", ".cache/4.jpg")
  (tmp_path / "a" / "notes.txt").write_text("no image")

  def matches(pattern):
    passed = walk.Passed()
    names = [path.relative_to(tmp_path).as_posix() for path in walk.matches(f"{tmp_path}/{pattern}", passed)]
    return names, passed.line() is not None

  assert matches("**/*") == (["a/0.jpg", "a/2.gif", "x.jpg/3.jpg"], True)
  assert matches("*.jpg") == ([], False)
  assert matches(".cache/*") == ([".cache/4.jpg"], False)
  assert matches("a/__MACOSX/*.jpg") == (["a/__MACOSX/1.jpg"], False)
