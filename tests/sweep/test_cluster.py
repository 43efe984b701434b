"""A sweep on a Ray cluster: relative folders, lost workers, a stop; and clusters that there are not."""

import collections
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import time

import pytest
import test_runner
from conftest import HANGS, ROOT
from test_runner import SWEEP, all_done_once, behave, events

from dn_jax.errors import ConfigurationError
from dn_jax.runs import collection
from dn_jax.sweep import cluster
from dn_jax.sweep.cluster import Cluster, Needs

data = test_runner.data  # The fixture.
# Workers import the sweep's module, and the stand-in this tree's package, wherever they are started.
# A token of their own lets drivers and workers into the tests' clusters, and nobody else.
ENVIRONMENT = os.environ | {
  "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
  "RAY_AUTH_MODE": "token",
  "RAY_AUTH_TOKEN": secrets.token_hex(16),
}


def free_port():
  with socket.socket() as each:
    each.bind(("127.0.0.1", 0))
    return each.getsockname()[1]


def processes_about(text):
  """Command lines with a text in them, of processes that live."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
      line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
      continue
    if text in line:
      found.append(line)
  return found


@pytest.fixture
def address(tmp_path_factory, one_cluster):
  """A cluster of two processors, started in a directory of its own."""
  pytest.importorskip("ray", reason="needs Ray: pip install -e '.[sweep]'")
  port = free_port()
  process = subprocess.Popen(
    [
      *(str(pathlib.Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"),
      *(
        f"--port={port}",
        f"--ray-client-server-port={free_port()}",
        "--include-dashboard=false",
        "--disable-usage-stats",
      ),
    ],
    cwd=tmp_path_factory.mktemp("elsewhere"),
    env=ENVIRONMENT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  deadline = time.monotonic() + HANGS
  while True:
    assert process.poll() is None
    assert time.monotonic() < deadline
    try:
      socket.create_connection(("127.0.0.1", port)).close()
      break
    except OSError:
      time.sleep(0.1)
  time.sleep(3)  # It joins its own cluster.
  yield f"127.0.0.1:{port}"
  process.terminate()
  process.wait()


@pytest.mark.slow
@pytest.mark.thorough
def test_a_cluster_started_elsewhere_does_every_run_in_the_folder_that_was_meant(tmp_path, data, address):
  """Relative folders; runs that fail, whose worker is killed once, or every time, that are told to stop by others."""
  behave(data, _0=["fail"], _1=["orphan"], _2=["orphan"] * 20, _3=["told"], pause=0.05)
  command = [sys.executable, "-c", SWEEP, "out", "data", "4", address, "2"]
  done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  found = {run.config.seed: run for run in collection.read(tmp_path / "out").runs}
  assert found[0].failure.error == "no luck in [/b] $ here"
  assert (found[1].test_error, found[3].test_error) == (6.0, 8.0)
  assert found[2].summary is None
  assert "worker" in found[2].failure.error
  assert "\x1b" not in found[2].failure.error
  counted = collections.Counter(events(data))
  assert [counted[seed, "began"] for seed in "0123"] == [1, 2, 3, 2]
  # Its first epoch was done before the worker was lost, and not again.
  logs = (found[1].folder / "log.txt").read_text()
  assert logs.count(" columns\n") == 2
  behave(data)
  again = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
  assert again.returncode == 0, again.stderr
  all_done_once(tmp_path / "out", data, 4)
  code = f"from dn_jax.sweep.cluster import Cluster, Needs; Cluster({address!r}, Needs(gpus=3))"
  done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
  assert "ConfigurationError: --cell.gpus 3: the cluster has 0 in all" in done.stderr


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.usefixtures("one_cluster")
def test_a_stop_of_a_sweep_on_a_local_cluster_saves_every_run_and_leaves_no_process(tmp_path, data):
  pytest.importorskip("ray", reason="needs Ray: pip install -e '.[sweep]'")
  behave(data, _0=["slow"], _1=["slow"])
  command = [sys.executable, "-c", SWEEP, str(tmp_path / "out"), str(data), str(os.cpu_count() + 2), "local"]
  # SIGINT is ignored at first, as in a shell's background.
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  process = subprocess.Popen(
    command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
  )
  signal.signal(signal.SIGINT, before)
  while not {("0", "began"), ("1", "began")} <= set(events(data)):
    assert process.poll() is None
    time.sleep(0.05)
  os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
  _, stderr = process.communicate(timeout=240)
  assert "Interrupted: stopped, and saved" in stderr
  counted = collections.Counter(events(data))
  assert (counted["0", "stopped"], counted["1", "stopped"]) == (1, 1)
  assert all(run.failure is None for run in collection.read(tmp_path / "out").runs)
  deadline = time.monotonic() + 20
  while left := processes_about(str(tmp_path)):
    assert time.monotonic() < deadline, left
    time.sleep(0.1)


@pytest.mark.parametrize(
  ("address", "line"),
  [
    ("ray://host:10001", "start the sweep on a machine of the cluster"),
    ("host", "local, auto, or HOST:PORT"),
    ("host:port", "local, auto, or HOST:PORT"),
    ("host:99999", "local, auto, or HOST:PORT"),
    ("host.invalid:6379", "cannot be reached"),
    ("127.0.0.1:FREE", r"cannot be reached \(Connection refused\)"),
  ],
)
def test_a_cluster_that_there_is_not_is_a_line(address, line):
  address = address.replace("FREE", str(free_port()))
  begin = time.monotonic()
  with pytest.raises(ConfigurationError, match=rf"^--cluster {address}: .*{line}") as error:
    Cluster(address, Needs())
  assert "\n" not in str(error.value)
  assert time.monotonic() - begin < 60


@pytest.mark.slow
def test_something_else_that_listens_there_is_no_cluster(monkeypatch):
  pytest.importorskip("ray", reason="needs Ray: pip install -e '.[sweep]'")
  monkeypatch.setattr(cluster, "_JOIN", 3.0)
  with socket.create_server(("127.0.0.1", 0)) as other:
    address = f"127.0.0.1:{other.getsockname()[1]}"
    with pytest.raises(ConfigurationError, match="no cluster answers there within 3 s"):
      Cluster(address, Needs())


def test_an_error_from_ray_is_told_in_its_causes_words():
  ray = pytest.importorskip("ray", reason="needs Ray: pip install -e '.[sweep]'")
  cause = OSError(28, "No space left on device")
  error = ray.exceptions.RayTaskError("_task", "a traceback", cause, "ray", 1, "127.0.0.1").as_instanceof_cause()
  assert cluster.in_words(error) == "OSError: [Errno 28] No space left on device"
  assert cluster.in_words(Exception("\x1b[36mray::_task()\x1b[39m (pid=1)\n\x1b[31mValueError\x1b[0m: seven\n\n")) == (
    "ValueError: seven"
  )
  assert cluster.in_words(RuntimeError()) == "RuntimeError"
