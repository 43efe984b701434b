"""Folders of a machine and of a bucket. The bucket is an emulator's, which speaks Google's protocol."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, metrics, run, small_run

from dn_jax import folders
from dn_jax.configuration import ConfigurationError


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


def test_tensorflow_is_kept_out_though_epath_was_used_before(bucket):
  script = """
import os, pathlib, sys
os.environ.pop("EPATH_USE_TF", None)
from etils import epath
assert epath.Path(sys.executable).exists()
from dn_jax import folders
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


def test_without_credentials_a_bucket_is_refused_in_a_line(tmp_path):
  # Where it is told that there is no metadata server either, Google's library does not look for one.
  nothing = {"HOME": str(tmp_path), "NO_GCE_CHECK": "true", "STORAGE_EMULATOR_HOST": ""}
  done = run(*small_run("gs://bucket/run"), **nothing, GOOGLE_APPLICATION_CREDENTIALS="")
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


@pytest.mark.slow
def test_a_run_in_a_bucket_is_stopped_goes_on_and_is_the_one_in_a_folder(bucket, tmp_path):
  here, there = tmp_path / "run", "gs://bucket/run"
  assert run(*small_run(here)).returncode == 0
  process = subprocess.Popen(
    [sys.executable, *small_run(there)], cwd=ROOT, env=os.environ | bucket, stdout=subprocess.PIPE, text=True
  )
  kept = folders.of("out", pathlib.Path(there))
  while process.poll() is None and not (kept / "metrics.jsonl").exists():
    time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  process.communicate()
  assert process.returncode == 75
  # A checkpoint that was damaged is set aside, and the one before it used.
  steps = sorted((path for path in (kept / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
  again = run(*small_run(there), **bucket)
  assert again.returncode == 0, again.stderr
  assert "going on after epoch" in again.stdout
  assert steps
  assert metrics(kept) == metrics(here)
  found, expected = arrays(kept), arrays(here)
  assert found.keys() == expected.keys()
  for name in expected:
    np.testing.assert_array_equal(found[name], expected[name])
  error = run("experiments/evaluate.py", there, **bucket)
  assert f"top-1 error: {json.loads((here / 'summary.json').read_text())['test_error']:.2f} %" in error.stdout


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(bucket):
  there = "gs://bucket/damaged"
  flags = ("--checkpoint.every-epochs", "2")
  kept = folders.of("out", pathlib.Path(there))
  assert run(*small_run(there, *flags), **bucket).returncode == 0
  (kept / "summary.json").unlink()
  newest = max((path for path in (kept / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
  victim = next(path for path in folders.files(newest) if "/d/" in str(path))
  victim.write_bytes(b"x" + victim.read_bytes()[1:])
  again = run(*small_run(there, *flags), **bucket)
  assert again.returncode == 0, again.stderr
  assert "is damaged" in " ".join(again.stdout.split())
  assert "going on after epoch 2" in " ".join(again.stdout.split())
  assert any("checkpoint-" in str(path) for path in folders.files(kept / "set-aside"))


@pytest.mark.slow
def test_a_sweep_in_a_bucket_does_what_is_missing_and_is_reported(bucket):
  flags = ["--data.name", "digits", "--model.depth", "10", "--model.growth-rate", "4,5", "--epochs", "1"]
  plan = ["--no-memory", "--measure", "0", "--out", "gs://bucket/sweep"]
  done = run("experiments/ablate.py", *flags, *plan, **bucket)
  assert done.returncode == 0, done.stderr
  kept = folders.of("out", pathlib.Path("gs://bucket/sweep"))
  names = [path.name for path in kept.iterdir() if path.name != "report"]
  assert len(names) == 2
  assert all("test error" in (kept / name / "log.txt").read_text() for name in names)
  assert (kept / "report" / "report.html").exists()
  (kept / names[0] / "summary.json").unlink()
  again = run("experiments/ablate.py", *flags, *plan, **bucket)
  assert again.returncode == 0, again.stderr
  assert (kept / names[0] / "summary.json").exists()
  assert (kept / names[0] / "log.txt").read_text().count(" $ ") == 2
  assert (kept / names[1] / "log.txt").read_text().count(" $ ") == 1
  report = run("experiments/report.py", "gs://bucket/sweep", **bucket)
  assert "gs://bucket/sweep/report/report.html" in report.stdout.split()
