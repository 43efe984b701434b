"""A run is carried out by one sweep at a time."""

import fcntl
import subprocess
import sys
import time

import pytest
from conftest import HANGS

from dn_jax.system import lock

HOLD = "import pathlib, sys, time; from dn_jax.system import lock; f = lock.take(pathlib.Path(sys.argv[1])); "


def test_a_run_is_taken_once_and_free_when_given_back(tmp_path):
  mine = lock.take(tmp_path)
  assert lock.take(tmp_path) is None
  mine.close()
  lock.take(tmp_path).close()


def test_a_killed_holder_gives_the_run_back(tmp_path):
  code = HOLD + "print(bool(f), flush=True); time.sleep(60)"
  process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
  try:
    assert process.stdout.readline() == "True\n"
    assert lock.take(tmp_path) is None
  finally:
    process.kill()
    process.wait()
  assert lock.take(tmp_path)


def test_a_runs_process_holds_it_on_where_the_sweep_alone_is_killed(tmp_path):
  code = HOLD + (
    "import subprocess; p = subprocess.Popen(['sleep', '60'], pass_fds=[f.fileno()]); "
    "print(p.pid, flush=True); time.sleep(60)"
  )
  process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
  pid = process.stdout.readline().strip()
  process.kill()
  process.wait()
  assert lock.take(tmp_path) is None
  subprocess.run(["kill", "-9", pid], check=True)
  deadline = time.monotonic() + HANGS
  while (mine := lock.take(tmp_path)) is None:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  mine.close()


def test_a_file_system_without_locks_does_not_stop_a_sweep(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(fcntl, "flock", refuse)
  assert lock.take(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
  with pytest.raises(OSError, match="No such file"):
    lock.take(tmp_path / "none")
