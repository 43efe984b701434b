"""Folders of a machine and of a bucket. The bucket is an emulator's, which speaks Google's protocol."""

import functools
import io
import json
import pathlib
import re
import sys
from unittest import mock

import numpy as np
import pytest
import rich.console
import stand_in
from conftest import call, metrics, run, small_run

from dn_jax.errors import ConfigurationError
from dn_jax.runs import collection
from dn_jax.sweep import command
from dn_jax.sweep.cells import cells_of
from dn_jax.system import folders
from dn_jax.system.signals import Interruption


@pytest.fixture(params=["here", "bucket"])
def folder(request, tmp_path):
  """An empty folder of either kind."""
  if request.param == "here":
    return tmp_path
  request.getfixturevalue("bucket")
  return folders.of("out", pathlib.Path(f"gs://bucket/{tmp_path.name}"))


def test_a_bucket_is_told_from_a_folder(bucket):
  assert folders.of("out", pathlib.Path("runs/one")) == pathlib.Path("runs/one")
  found = folders.of("out", pathlib.Path("gs://bucket/runs/one"))
  assert str(found) == "gs://bucket/runs/one"
  assert folders.is_bucket(found)
  assert folders.of("out", found) == found


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(folder):
  folders.make(folder)
  for text in ("first", "second"):
    folders.write_whole(folder / "record", text)
    assert (folder / "record").read_text() == text
  assert [path.name for path in folders.files(folder)] == ["record"]
  assert (folders.size(folder / "record"), folders.size(folder / "none")) == (6, 0)


def test_a_link_that_waits_for_the_temporary_file_is_not_written_through(tmp_path):
  elsewhere, record = tmp_path / "elsewhere", tmp_path / "metrics.jsonl"
  elsewhere.write_text("mine")
  (tmp_path / "metrics.jsonl.tmp").symlink_to(elsewhere)
  folders.write_whole(record, "text")
  assert (elsewhere.read_text(), record.read_text(), record.is_symlink()) == ("mine", "text", False)


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path, monkeypatch):
  record, replace = tmp_path / "record", folders.os.replace

  def after_another(old, new):
    monkeypatch.setattr(folders.os, "replace", replace)
    folders.write_whole(record, "the other's")
    replace(old, new)

  monkeypatch.setattr(folders.os, "replace", after_another)
  folders.write_whole(record, "text")
  assert record.read_text() == "text"
  assert list(tmp_path.iterdir()) == [record]


def test_a_write_that_fails_removes_its_own_temporary_file_alone(tmp_path, monkeypatch):
  def full(number):
    raise OSError(28, "No space left on device")

  (tmp_path / "record.tmp").write_text("another's")
  monkeypatch.setattr(folders.os, "fsync", full)
  with pytest.raises(OSError, match="No space"):
    folders.write_whole(tmp_path / "record", "text")
  assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("record.tmp", "another's")]


def test_folders_and_files_are_moved_and_removed(folder):
  content = {"a": "1", "b/c": "22", "b/d/e": "333"}
  for name, text in content.items():
    folders.make((folder / "old" / name).parent)
    folders.write_whole(folder / "old" / name, text)
  folders.move(folder / "old", folder / "new")
  assert not (folder / "old").exists()
  found = {path.relative_to(folder / "new").as_posix(): path.read_text() for path in folders.files(folder / "new")}
  assert found == content
  folders.move(folder / "new" / "a", folder / "new" / "z")
  assert not (folder / "new" / "a").exists()
  folders.remove(folder / "new")
  folders.remove(folder / "new")
  assert not (folder / "new").exists()


@pytest.mark.slow
def test_tensorflow_is_kept_out_though_epath_was_used_before(bucket):
  script = """
import os, pathlib, sys
os.environ.pop("EPATH_USE_TF", None)
from etils import epath
assert epath.Path(sys.executable).exists()
from dn_jax.system import folders
record = folders.of("out", pathlib.Path("gs://bucket/late/record"))
folders.write_whole(record, "text")
assert record.read_text() == "text"
print("tensorflow" in sys.modules)
"""
  assert run("-c", script, **bucket).stdout == "False\n"


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("s3://bucket/runs", "--out s3://bucket/runs: a folder of this machine is needed, or gs://BUCKET/FOLDER"),
    ("http://host/runs", "--out http://host/runs: a folder of this machine"),
    ("gs://bucket", "--out gs://bucket: give a folder in the bucket"),
    ("gs://absent/runs", "--out gs://absent/runs: the bucket cannot be listed"),
  ],
)
def test_what_is_no_folder_is_refused_in_a_line(bucket, name, message):
  with pytest.raises(ConfigurationError, match=re.escape(message)) as refused:
    folders.of("out", pathlib.Path(name))
  assert "\n" not in str(refused.value)


def test_without_credentials_a_bucket_is_refused_in_a_line(tmp_path, monkeypatch):
  # Where it is told that there is no metadata server either, Google's library does not look for one.
  nothing = {"HOME": str(tmp_path), "NO_GCE_CHECK": "true", "STORAGE_EMULATOR_HOST": ""}
  for name, value in (nothing | {"GOOGLE_APPLICATION_CREDENTIALS": ""}).items():
    monkeypatch.setenv(name, value)
  folders._reach.cache_clear()  # It remembers buckets that were reached.
  done = call(*small_run("gs://bucket/run"))
  assert done.returncode == 2
  assert done.stderr.strip() == (
    "error: --out gs://bucket/run: no credentials are found; gcloud auth application-default login makes some"
  )


def arrays(folder):
  """All arrays of a run's newest checkpoint."""
  import orbax.checkpoint as ocp

  with ocp.CheckpointManager(folder / "checkpoints") as manager:
    restored = manager.restore(manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore()))
  import jax

  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(restored["state"])}


SMALL = ["experiments/train.py", "--data.name", "digits", "--model.blocks", "1", "--model.growth-rate", "4"]


@pytest.fixture(scope="module")
def gone_on(bucket, tmp_path_factory):
  """A run in a folder; the same in a bucket, stopped within an epoch and gone on; what that printed."""
  here, there = tmp_path_factory.mktemp("runs") / "run", "gs://bucket/run"
  kept = folders.of("out", pathlib.Path(there))
  command = [*SMALL, "--epochs", "2", "--out"]
  assert call(*command, here).returncode == 0
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Interruption, "asked", lambda self: (kept / "metrics.jsonl").exists())
    assert call(*command, there).returncode == 75
  assert len(metrics(kept)) == 1
  again = call(*command, there)
  assert again.returncode == 0, again.stderr
  return here, kept, command, again.stdout


@pytest.mark.slow
def test_a_run_in_a_bucket_is_stopped_goes_on_and_is_the_one_in_a_folder(gone_on):
  here, kept, _, printed = gone_on
  assert re.search(r"going on after epoch 1 and \d+ steps?", " ".join(printed.split())), printed
  assert metrics(kept) == metrics(here)
  found, expected = arrays(kept), arrays(here)
  assert found.keys() == expected.keys()
  for name in expected:
    np.testing.assert_array_equal(found[name], expected[name])
  error = call("experiments/evaluate.py", kept)
  assert f"top-1 error: {json.loads((here / 'summary.json').read_text())['test_error_percent']:.2f} %" in error.stdout


@pytest.mark.thorough
def test_a_damaged_checkpoint_in_a_bucket_is_set_aside_and_the_one_before_it_used(gone_on):
  here, kept, command, _ = gone_on
  (kept / "summary.json").unlink()
  newest = max((path for path in (kept / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
  victim = next(path for path in folders.files(newest) if "/d/" in str(path))
  victim.write_bytes(b"x" + victim.read_bytes()[1:])
  again = call(*command, kept)
  assert again.returncode == 0, again.stderr
  assert "is damaged" in " ".join(again.stdout.split())
  assert "going on after epoch 1 and" in " ".join(again.stdout.split())
  assert any("checkpoint-" in str(path) for path in folders.files(kept / "set-aside"))
  assert metrics(kept) == metrics(here)


def ablated(out, flags):
  """`experiments/ablate.py`, whose runs train."""
  done = call("experiments/ablate.py", *flags, "--no-memory", "--out", out)
  assert done.returncode == 0, done.stderr


def stood_in(out, flags, data):
  """A sweep of the same flags whose runs keep records and train nothing."""
  place = folders.of("out", pathlib.Path(out))
  sweep = command.Sweep(out=place, memory=False)
  cells = cells_of([*flags, "--data.dir", str(stand_in.prepare(data))])
  console = rich.console.Console(file=io.StringIO(), width=250)
  with mock.patch.object(command, "TRAIN", stand_in.TRAIN):
    assert all(run.summary for run in command.carry_out(cells, sweep, [], console))


@pytest.mark.thorough
@pytest.mark.parametrize(
  "runs_are",
  ["stood in for", "trained"],
)
def test_a_sweep_in_a_bucket_does_what_is_missing_and_is_reported(bucket, tmp_path, monkeypatch, runs_are):
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # For the runs' processes.
  out = f"gs://bucket/sweep-{tmp_path.name}"
  flags = ["--data.name", "digits", "--model.blocks", "1", "--model.growth-rate", "4,5", "--epochs", "1"]
  sweep = ablated if runs_are == "trained" else functools.partial(stood_in, data=tmp_path)
  sweep(out, flags)
  kept = folders.of("out", pathlib.Path(out))
  names = [path.name for path in kept.iterdir() if path.name != "report"]
  assert len(names) == 2
  assert all("test error" in (kept / name / "log.txt").read_text() for name in names)
  if runs_are == "trained":
    assert (kept / "report" / "report.html").exists()
  (kept / names[0] / "summary.json").unlink()
  sweep(out, flags)
  assert (kept / names[0] / "summary.json").exists()
  assert (kept / names[0] / "log.txt").read_text().count(f" $ {sys.executable} ") == 2
  assert (kept / names[1] / "log.txt").read_text().count(f" $ {sys.executable} ") == 1
  assert collection.read(kept).skipped == []
  report = call("experiments/report.py", out)
  assert f"{out}/report/report.html" in report.stdout.split()
  assert (kept / "report" / "report.html").exists()
