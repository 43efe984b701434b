"""What the file system does to a run's checkpoints under way: one line, and the last whole one stays."""

import logging
import shutil
import sys
import threading
from types import SimpleNamespace

import pytest
from test_checkpoint import history, restore, state

from dn_jax.errors import UserError
from dn_jax.system import traces
from dn_jax.training import checkpoint
from dn_jax.training.checkpoint import Checkpoints, written_to


def renamed(run):
  run.rename(run.with_name("elsewhere"))


def renamed_and_made_anew(run):
  """As TensorStore makes a folder anew in which it was about to write, with the file."""
  renamed(run)
  (run / "c" / "20.orbax-checkpoint-tmp" / "state").mkdir(parents=True)


def renamed_and_made_anew_late(run):
  """As by a thread of TensorStore's that goes on after the save has failed."""
  renamed(run)
  threading.Timer(0.4, lambda: (run / "c" / "20.orbax-checkpoint-tmp" / "state").mkdir(parents=True)).start()


@pytest.mark.parametrize("way", [shutil.rmtree, renamed, renamed_and_made_anew, renamed_and_made_anew_late])
def test_a_folder_that_is_removed_or_renamed_meanwhile_is_one_line_and_is_not_made_anew(tmp_path, way):
  run = tmp_path / "run"
  (run / "c").mkdir(parents=True)
  (run / "config.json").touch()

  def go_on():
    with written_to(run), Checkpoints(run / "c", 2, print) as checkpoints:
      checkpoints.save(10, state(1), history(1))
      checkpoints._finish()
      way(run)
      checkpoints.save(20, state(2), history(2))

  with pytest.raises(UserError) as refused:
    go_on()
  for late in [each for each in threading.enumerate() if isinstance(each, threading.Timer)]:
    late.join()
  words = "cannot be written (No such file or directory; is it still there?); once it can, the same command goes on"
  assert str(refused.value) == f"{run}: {words}"
  assert not run.exists()
  if (tmp_path / "elsewhere").exists():
    assert restore(tmp_path / "elsewhere" / "c")[1] == history(1)


def test_a_checkpoint_that_is_committed_in_a_folder_made_anew_is_neither_sealed_nor_kept(tmp_path, monkeypatch):
  run = tmp_path / "run"
  (run / "c").mkdir(parents=True)
  (run / "config.json").touch()

  def go_on():
    with written_to(run), Checkpoints(run / "c", 2, print) as checkpoints:
      checkpoints.save(10, state(1), history(1))
      checkpoints._finish()
      finished = checkpoints._manager.wait_until_finished

      def wait():
        finished()
        if (run / "c" / "20").exists() and not (tmp_path / "elsewhere").exists():
          renamed(run)
          shutil.copytree(tmp_path / "elsewhere" / "c" / "20" / "state", run / "c" / "20" / "state")

      monkeypatch.setattr(checkpoints._manager, "wait_until_finished", wait)
      checkpoints.save(20, state(2), history(2))

  with pytest.raises(UserError, match=r"cannot be written \(No such file or directory; is it still there\?"):
    go_on()
  assert not run.exists()
  assert restore(tmp_path / "elsewhere" / "c")[1] == history(1)


@pytest.mark.parametrize("way", [renamed, lambda run: shutil.rmtree(run / "c" / "10" / "state")], ids=["run", "part"])
def test_a_folder_that_is_renamed_or_removed_while_a_checkpoint_is_read_is_one_line(tmp_path, monkeypatch, way):
  run = tmp_path / "run"
  (run / "c").mkdir(parents=True)
  with Checkpoints(run / "c", 2, print) as checkpoints:
    checkpoints.save(10, state(1), history(1))

  def read(*_, **more):
    way(run)
    raise Exception("Encountered error while reading\nsee details")  # As Orbax does.

  def go_on():
    with written_to(run), Checkpoints(run / "c", 2, print) as checkpoints:
      monkeypatch.setattr(checkpoints._manager, "restore", read)
      checkpoints.restore(state(0))

  with pytest.raises(UserError, match=r"cannot be (written|read) \(.*\); .*the same command goes on$"):
    go_on()


def test_a_disk_that_has_no_room_for_more_files_is_refused_before_anything_is_written(tmp_path, monkeypatch):
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(10, state(1), history(1))
    checkpoints._finish()
    files = len(list((tmp_path / "c" / "10").rglob("*")))
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    monkeypatch.setattr(checkpoint.os, "statvfs", lambda _: SimpleNamespace(f_files=10**6, f_favail=files))
    with pytest.raises(UserError, match="No space left on device; free space, or remove files"):
      checkpoints.save(20, state(2), history(2))
    # Some file systems do not count them.
    monkeypatch.setattr(checkpoint.os, "statvfs", lambda _: SimpleNamespace(f_files=0, f_favail=0))
    checkpoints.save(20, state(2), history(2))
  assert restore(tmp_path / "c")[1] == history(2)


@pytest.mark.parametrize(
  ("words", "line"),
  [
    ("RESOURCE_EXHAUSTED: write", "No space left on device"),
    ('PERMISSION_DENIED: Error writing "a/0"', "Permission denied"),
    ('PERMISSION_DENIED: Error writing "a/0" [OS error 30: Read-only file system]', "Read-only file system"),
    ("FAILED_PRECONDITION: Read-only file system", "Read-only file system"),
    ("UNKNOWN: [OS error 24: EMFILE Too many open files]", "Too many open files"),
    ('NOT_FOUND: Error writing "a/0" in OCDBT', "No such file or directory"),
  ],
)
def test_what_tensorstore_says_of_the_file_system_is_read(tmp_path, monkeypatch, words, line):
  def refuse(*_, **more):
    raise ValueError(words)

  monkeypatch.setattr(checkpoint._Manager, "save", refuse)
  with pytest.raises(UserError, match=line), written_to(tmp_path), Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(10, state(1), history(1))


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (OSError(28, "No space left", "{}/metrics.jsonl.7.tmp"), "{}: cannot be written (No space left; free space"),
    (OSError(28, "No space left"), "{}: cannot be written (No space left; free space"),
    (OSError(30, "Read-only", "/else/where"), "/else/where: Read-only; take another disk; once it is mended"),
    (OSError(24, "Too many open files", "{}/summary.json"), "{}/summary.json: Too many open files; allow more"),
  ],
)
def test_a_refusal_of_another_place_is_not_laid_at_the_runs(tmp_path, error, line):
  if error.filename:
    error.filename = error.filename.format(tmp_path)
  with pytest.raises(UserError) as refused, written_to(tmp_path):
    raise error
  assert str(refused.value).startswith(line.format(tmp_path))


def test_another_error_of_orbaxs_is_no_refusal(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint._Manager, "save", lambda *_, **more: int("shapes"))
  with pytest.raises(ValueError, match="shapes"), Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(10, state(1), history(1))


@pytest.mark.parametrize("asked", [False, True])
def test_traces_of_libraries_reach_a_person_who_asks_for_them(monkeypatch, capsys, asked):
  monkeypatch.setattr(sys, "excepthook", sys.excepthook)
  monkeypatch.setenv("DN_JAX_DEBUG", "1" if asked else "")
  levels = {name: logging.getLogger(name).level for name in traces._LOGGERS}
  traces.hush()
  try:
    # As C++ does with an error of Python's in a thread of its own.
    thread = threading.Thread(target=lambda: sys.excepthook(RuntimeError, RuntimeError("of C++"), None))
    thread.start()
    thread.join()
    assert ("of C++" in capsys.readouterr().err) == asked
    assert logging.getLogger("absl").isEnabledFor(logging.ERROR) == asked
    sys.excepthook(RuntimeError, RuntimeError("of our own"), None)
    assert "of our own" in capsys.readouterr().err
  finally:
    for name, level in levels.items():
      logging.getLogger(name).setLevel(level)
