"""A run is trained by one process at a time, and carried out by one sweep."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading

import pytest

from dn_jax.system import lock

HOLD = """
import pathlib, subprocess, sys, time
from dn_jax.system import lock
with lock.held(pathlib.Path(sys.argv[1]), lock.RUN):
  {}
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
  """Starts a process that holds the run's lock of `tmp_path`, after it has done something."""
  begun = []

  def start(before="pass"):
    words = [sys.executable, "-c", HOLD.format(before), str(tmp_path)]
    begun.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
    assert begun[-1].stdout.readline() == "held\n"
    return begun[-1]

  yield start
  for process in begun:
    process.kill()
    process.wait()


def test_a_run_is_held_once_and_free_when_given_back(tmp_path):
  for _ in range(2):
    with lock.held(tmp_path, lock.RUN):
      with pytest.raises(lock.TakenError), lock.held(tmp_path, lock.RUN):
        pass
      with lock.held(tmp_path, lock.SWEEP):
        pass
    assert lock.holder(tmp_path, lock.RUN) is None
    assert (tmp_path / lock.RUN).read_bytes() == b""


def test_the_second_is_told_which_process_of_which_host_is_at_work(tmp_path, hold):
  process = hold()
  own = f"process {process.pid} on {socket.gethostname()}"
  assert lock.holder(tmp_path, lock.RUN) == own
  assert (tmp_path / lock.RUN).read_text() == f"{socket.gethostname()} {process.pid}\n"
  with pytest.raises(lock.TakenError) as taken, lock.held(tmp_path, lock.RUN):
    pass
  assert str(taken.value) == (
    f"--out {tmp_path}: {own} is at work on this run; wait for it, stop it, or take another folder"
  )


def test_a_killed_holder_gives_the_run_back_and_its_name_is_not_believed(tmp_path, hold):
  process = hold()
  process.kill()
  process.wait()
  assert str(process.pid) in (tmp_path / lock.RUN).read_text()
  assert lock.holder(tmp_path, lock.RUN) is None
  with lock.held(tmp_path, lock.RUN):
    assert (tmp_path / lock.RUN).read_text() == f"{socket.gethostname()} {os.getpid()}\n"


@pytest.mark.parametrize("start", ["subprocess.Popen(['sleep', '30'])", "__import__('os').fork() or time.sleep(30)"])
def test_a_child_has_no_part_in_the_lock(tmp_path, hold, start):
  process = hold(start)
  process.kill()
  process.wait()
  with lock.held(tmp_path, lock.RUN):
    pass


def test_who_looks_at_a_lock_for_a_moment_keeps_nobody_from_it(tmp_path):
  (tmp_path / lock.RUN).touch()
  with (tmp_path / lock.RUN).open() as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    looks = threading.Timer(0.2, fcntl.flock, (file, fcntl.LOCK_UN))
    looks.start()
    with lock.held(tmp_path, lock.RUN):
      looks.join()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_stops_nobody_and_is_said_once(tmp_path, monkeypatch, capsys, number):
  def refuse(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, "flock", refuse)
  lock._say_without.cache_clear()
  for _ in range(2):
    with lock.held(tmp_path, lock.RUN), lock.held(tmp_path, lock.RUN):
      assert lock.holder(tmp_path, lock.RUN) is None
  said = "its file system has no locks: nothing else may be started on this run's folder meanwhile\n"
  assert capsys.readouterr().err == said


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
  with pytest.raises(OSError, match="No such file"), lock.held(tmp_path / "none", lock.RUN):
    pass


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_is_a_link_is_refused_and_not_written_through(tmp_path, link):
  (tmp_path / "mine").write_text("text")
  link(tmp_path / "mine", tmp_path / lock.RUN)
  with pytest.raises(OSError, match=r"link|symbolic"), lock.held(tmp_path, lock.RUN):
    pass
  assert (tmp_path / "mine").read_text() == "text"
