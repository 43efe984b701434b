"""The file system says no: one line with what, where and what to do, exit code 2, and nothing lost."""

import errno
import os
import pathlib
import sys

import fabricated
import pytest
from conftest import call, small_run
from rights import of_a_person

from dn_jax.commands import command_line
from dn_jax.errors import in_a_line
from dn_jax.system import traces

RUN = ("experiments/train.py", "--data.name", "digits", "--model.depth", "10", "--model.growth-rate", "4")
SWEEP = ("experiments/ablate.py", "--data.name", "digits", "--model.depth", "10", "--no-memory", "--dry-run")
# Of a person who may not enter the folder `locked`, may not write to `fixed` and may not read `secret`.
CASES = [
  (*RUN, "--out", "locked/run"),
  (*RUN, "--out", "locked/a/b"),
  (*RUN, "--out", "fixed/run"),
  (*RUN, "--epochs", "2", "--out", "runs/fixed"),
  (*RUN, "--out", "n" * 300),
  (*RUN, "--out", "secret/run"),
  (*RUN, "--data.name", "folder", "--data.dir", "locked/images", "--out", "new"),
  (*RUN, "--data.name", "cifar10", "--data.dir", "locked", "--out", "new"),
  (*RUN, "--weights", "locked/w.safetensors", "--out", "new"),
  (*RUN, "--weights", "secret", "--out", "new"),
  (*SWEEP, "--out", "locked/sweep"),
  ("experiments/evaluate.py", "locked/run"),
  ("experiments/evaluate.py", "runs/locked"),
  ("experiments/predict.py", "locked/run", "image.png"),
  ("experiments/export.py", "locked/run", "--to", "new.safetensors"),
  ("experiments/report.py", "locked/runs"),
  ("experiments/report.py", "runs", "--to", "fixed/report"),
  ("experiments/picture.py", "diagram", "--to", "locked/new.svg"),
  ("experiments/picture.py", "curves", "locked/run", "--to", "new.svg"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp("refusals")
  fabricated.begun(folder / "locked" / "run")
  (folder / "locked" / "w.safetensors").touch()
  fabricated.finished(folder / "runs" / "one")
  fabricated.begun(folder / "runs" / "fixed")
  fabricated.begun(folder / "runs" / "locked")
  (folder / "runs" / "locked" / "checkpoints").mkdir()
  (folder / "fixed").mkdir()
  (folder / "secret").touch()
  modes = {"locked": 0o000, "fixed": 0o555, "runs/fixed": 0o555, "runs/locked/checkpoints": 0o000, "secret": 0o000}
  for name, mode in modes.items():
    (folder / name).chmod(mode)
  yield folder
  for name in modes:
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("words", CASES, ids=lambda words: " ".join(words)[-60:])
def test_what_a_person_may_not_enter_read_or_write_is_one_line(place, words):
  script, *words = words
  names = ("locked", "fixed", "secret", "runs", "new", "image.png", "n" * 300)
  words = [str(place / word) if word.startswith(names) and not word.startswith("--") else word for word in words]
  before = sorted(place.rglob("*"))
  with of_a_person():
    done = call(script, *words)
  assert done.returncode == 2
  lines = [line for line in done.stderr.splitlines() if not line.startswith("skipped: ")]
  assert len(lines) == 1
  assert lines[0].startswith("error: ")
  assert str(place) in lines[0]
  assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied; get the right to it, or take"),
    (OSError(errno.EMFILE, "Too many open files", "a"), "a: Too many open files; allow more of them: ulimit -n 4096"),
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free space, or remove files where"),
    (OSError(errno.EROFS, "Read-only file system", pathlib.Path("a\n")), "a\\n: Read-only file system; take another"),
    (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), None),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), None),
    (ValueError("a"), None),
  ],
)
def test_a_refusal_says_what_where_and_what_to_do(error, line):
  said = in_a_line(error)
  assert (said or "None").startswith(line or "None")


def test_under_debug_the_trace_behind_a_line_is_shown(monkeypatch, capsys):
  def refused():
    assert sys.argv == ["train", "--epochs", "2"]
    try:
      raise KeyError("what led to it")
    except KeyError:
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a") from None

  for words, shown in ((["--epochs", "2"], False), (["--debug", "--epochs", "2"], True)):
    monkeypatch.setenv("DN_JAX_DEBUG", "")
    monkeypatch.setattr(sys, "argv", ["train", *words])
    with pytest.raises(SystemExit) as end:
      command_line.main(refused)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.splitlines()[-1].startswith("error: a: Permission denied")
    assert ("Traceback" in said) == ("what led to it" in said) == shown == traces.asked()


def test_help_says_that_there_is_debug():
  assert "--debug, beside any other flags" in call(*small_run(pathlib.Path("none")), "--help").stdout
