"""Processes find each other, or each says in a line why they do not; nothing of what C++ says of it is shown."""

import json
import os
import random
import signal
import socket
import sys
import threading
import time

import jax
import pytest
from conftest import HANGS, call, run, small_run
from jax._src import distributed
from test_processes import SMALLER, end, free_port, last_line, members, start

from dn_jax.distributed import processes

# Joins, and that is all; arguments: coordinator, how many there are, which one this is, seconds to wait.
JOIN = """
import sys
from dn_jax.commands import command_line
from dn_jax.config.schema import DistributedConfig
from dn_jax.distributed import processes
count, number, timeout = map(int, sys.argv[2:])
command_line.main(lambda: processes.join(DistributedConfig(sys.argv[1], count, number, timeout=timeout)))
"""


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (
      ("--distributed.num-processes", "2"),
      "--distributed.num-processes 2: goes together with --distributed.coordinator and --distributed.process-id",
    ),
    (
      ("--distributed.coordinator", "localhost", "--distributed.num-processes", "2", "--distributed.process-id", "0"),
      "--distributed.coordinator localhost: HOST:PORT of the first process",
    ),
    (
      ("--distributed.coordinator", "localhost:1", "--distributed.num-processes", "2", "--distributed.process-id", "2"),
      "--distributed.process-id 2: from 0 to 1, each once",
    ),
  ],
)
def test_flags_that_do_not_go_together_are_one_line(tmp_path, flags, words):
  done = call(*small_run(tmp_path / "run", *flags))
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert words in done.stderr
  assert not (tmp_path / "run").exists()


def test_a_coordinator_that_is_not_there_is_named_after_the_time_given(tmp_path):
  begin, address = time.monotonic(), f"localhost:{free_port()}"
  flags = ("--distributed.coordinator", address, "--distributed.num-processes", "2", "--distributed.process-id", "1")
  done = call(*small_run(tmp_path / "run", *flags, "--distributed.timeout", "2"))
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert f"--distributed.coordinator {address}: not reached in 2 s (Connection refused)" in done.stderr
  assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
  ("scheduler", "address"),
  [
    (
      {
        **{"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        **{"SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2"},
      },
      # JAX takes the port from the job's number: 4711 % 2**12 above 2**16 - 2**12.
      "localhost:62055",
    ),
    (
      {
        **{"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"},
        **{"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_VERSION": "4.1.5"},
      },
      # 1531576320 / 2**12 % 2**12 above that.
      f"127.0.0.1:{2**16 - 2**12 + 1531576320 // 2**12 % 2**12}",
    ),
  ],
  ids=["SLURM", "Open MPI"],
)
def test_a_coordinator_that_a_scheduler_names_and_that_is_not_there_is_one_line(
  tmp_path, monkeypatch, scheduler, address
):
  for name, value in scheduler.items():
    monkeypatch.setenv(name, value)
  done = call(*small_run(tmp_path / "run", "--distributed.timeout", "2"))
  assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
  assert f"--distributed.coordinator {address}: not reached in 2 s (Connection refused)" in done.stderr


def test_auto_where_there_is_nobody_else_is_one_line(tmp_path):
  done = call(*small_run(tmp_path / "run", "--distributed.auto"))
  words = "--distributed.auto True: JAX does not find the other processes (no TPU pod, SLURM or Open MPI)"
  assert (done.returncode, done.stderr) == (2, f"error: {words}\n")


def test_a_port_that_somebody_listens_on_already_is_one_line_in_process_0(tmp_path):
  with socket.socket() as taken:
    taken.bind(("", 0))
    taken.listen()
    address = f"localhost:{taken.getsockname()[1]}"
    flags = ("--distributed.coordinator", address, "--distributed.num-processes", "2", "--distributed.process-id", "0")
    done = call(*small_run(tmp_path / "run", *flags))
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "its port cannot be taken here (Address already in use); is there another process 0?" in done.stderr


# What JAX says before it aborts; its trace goes on.
ABORTS = (
  "F1129 06:59:56.384285   21048 client.h:86] Terminating process because the JAX distributed service detected fatal "
  "errors. This most likely indicates that another task died. absl::Status: {}\n\nRPC: /xla.coordination\n"
  "*** Check failure stack trace: ***\n    @     0x7f0a2daf81b4  absl::lts_20260526::log_internal::LogMessage\n"
)
# And of a barrier that not all have reached.
BARRIER = (
  "DEADLINE_EXCEEDED: Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register::0. Please look at the task logs.\n"
  "# of tasks that reached the barrier: 2/4.\nThe first task at the barrier: 0. Some timed out task names:\n3\n1\n\n"
)
TWICE = (
  "W1129 06:59:55.1 coordination_service.cc:388] CANCELLED: there's a more recent barrier call from the same task.\n"
)


@pytest.mark.parametrize(
  ("count", "words", "fault"),
  [
    (4, ABORTS.format(BARRIER), "num-processes 4: of 4 processes these did not come in 9 s: 1, 3"),
    (
      4,
      TWICE + ABORTS.format(BARRIER),
      "num-processes 4: of 4 processes these did not come in 9 s: 1, 3; two processes had one id",
    ),
    (3, ABORTS.format(BARRIER), "num-processes 3: process 2 was told of 3 processes, process 0 of 4"),
    (
      3,
      ABORTS.format("INVALID_ARGUMENT: Unexpected task registered with task=2"),
      "num-processes 3: process 2 was told of 3 processes, process 0 of fewer",
    ),
    (
      3,
      ABORTS.format("ALREADY_EXISTS: Aborted connect attempt as there is a request from a newer incarnation."),
      "process-id 2: two processes have the id 2",
    ),
    (
      3,
      ABORTS.format("DEADLINE_EXCEEDED: Deadline Exceeded"),
      "coordinator host:1: process 0 is not there, or not for long enough (DEADLINE_EXCEEDED: Deadline Exceeded)",
    ),
    (3, "terminate called after throwing an instance of 'std::bad_alloc'\n", None),
  ],
)
def test_what_jax_says_as_it_aborts_is_read(count, words, fault):
  assert str(processes._fault(words, "host:1", count, 2, 9)) == (f"--distributed.{fault}" if fault else "None")


def test_what_others_say_while_processes_join_is_shown(capfd):
  with processes._joining("host:1", 2, 0, 9):
    os.write(2, b"W1129 a warning of C++\n")
    print("of Python, at once", file=sys.stderr)
    assert capfd.readouterr().err == "of Python, at once\n"
  os.write(2, b"and afterwards\n")
  assert capfd.readouterr().err == "W1129 a warning of C++\nand afterwards\n"


@pytest.mark.parametrize(
  ("before", "after", "code", "said"),
  [
    (
      "None",
      "in_a_thread_of_c(abort)",
      76,
      "error: process 0 was ended: it or another process of the run is lost; the same command, in all of them, goes on "
      "from the last checkpoint\n",
    ),
    # Nothing about other processes: a fault of its own, which would come again.
    ("None", "os.abort()", -signal.SIGABRT, ""),
    ("(os.write(2, b'terminate called\\n'), os.abort())", "None", 134, "terminate called\n"),
  ],
  ids=["joined", "of its own", "not joined"],
)
def test_an_abort_of_jaxs_once_all_have_joined_means_that_one_is_lost(before, after, code, said):
  program = f"""
import ctypes, jax, os, time
from dn_jax.config.schema import DistributedConfig
from dn_jax.distributed import processes
libc = ctypes.CDLL(None)
abort = ctypes.cast(libc.abort, ctypes.c_void_p)
def in_a_thread_of_c(call):
  libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, call, None)
  time.sleep(60)
jax.distributed.initialize = lambda *given, **more: {before}
processes._compare = lambda *given: {after}
processes.join(DistributedConfig("localhost:{free_port()}", 2, 0))
"""
  done = run("-c", program)
  assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.slow
def test_a_process_that_does_not_come_is_one_line():
  done = run("-c", JOIN, f"localhost:{free_port()}", 2, 0, 2)
  words = "error: --distributed.num-processes 2: of 2 processes these did not come in 2 s: 1\n"
  assert (done.returncode, done.stderr) == (2, words)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(
  ("given", "words"),
  [
    # (count, number) of each process, and what each says. Of two with one id either may be the second.
    ([(3, 0), (3, 2)], ["num-processes 3: of 3 processes these did not come in 15 s: 1"] * 2),
    (
      [(3, 0), (3, 1), (3, 1)],
      [
        "num-processes 3: of 3 processes these did not come in 15 s: 2",
        "num-processes 3: of 3 processes these did not come in 15 s: 2; two processes had one id",
        "process-id 1: two processes have the id 1",
      ],
    ),
    (
      [(2, 0), (3, 1)],
      [f"num-processes {count}: process 1 was told of 3 processes, process 0 of 2" for count in (2, 3)],
    ),
    (
      [(3, 0), (2, 1)],
      [
        "num-processes 2: process 1 was told of 2 processes, process 0 of 3",
        "num-processes 3: of 3 processes these did not come in 15 s: 2",
      ],
    ),
  ],
  ids=["one is missing", "an id twice", "one was told of more", "one was told of fewer"],
)
def test_all_that_come_say_in_one_line_why_they_are_not_one_run(tmp_path, given, words):
  address = f"localhost:{free_port()}"
  codes = end(start(len(given), lambda place: ["-c", JOIN, address, *given[place], 15], tmp_path))
  assert codes == [2] * len(given)
  said = sorted((tmp_path / f"{place}.err").read_text() for place in range(len(given)))
  assert said == [f"error: --distributed.{each}\n" for each in words]


def listening(port: int, process) -> None:
  """Waits until a process listens at a port."""
  stop = time.monotonic() + HANGS
  while True:
    try:
      return socket.create_connection(("localhost", port)).close()
    except OSError:
      assert process.poll() is None
      assert time.monotonic() < stop
      time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(
  ("number", "code", "said"),
  [
    (signal.SIGINT, 130, "interrupted\n"),
    (signal.SIGTERM, 75, "stopped as asked, outside training; the same command goes on\n"),
  ],
)
def test_a_process_that_waits_for_others_can_be_stopped(tmp_path, number, code, said):
  command = members(2, tmp_path / "run")
  (process,) = start(1, command, tmp_path)
  listening(port_of(command), process)
  time.sleep(2)  # It is about to wait.
  process.send_signal(number)
  begin = time.monotonic()
  assert end([process]) == [code]
  assert time.monotonic() - begin < 60  # Of 300.
  assert (tmp_path / "0.err").read_text() == said


def port_of(command) -> int:
  words = command(0)
  return int(words[words.index("--distributed.coordinator") + 1].partition(":")[2])


@pytest.mark.slow
@pytest.mark.thorough
def test_who_writes_to_the_coordinators_port_ends_no_run(tmp_path):
  command = members(2, tmp_path / "run", *SMALLER, "--epochs", "8")
  (first,) = start(1, command, tmp_path)
  port, over, written = port_of(command), threading.Event(), []
  listening(port, first)

  def write() -> None:
    draws, kept = random.Random(0), []
    words = [b"GET / HTTP/1.1\r\n\r\n", b'{"id": 1, "of": 3}\n', b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""]
    while not over.is_set():
      try:
        stranger = socket.create_connection(("localhost", port))
        stranger.sendall(draws.choice(words) + draws.randbytes(draws.randrange(2000)))
        written.append((tmp_path / "run" / "metrics.jsonl").exists())
        kept = [*kept[-20:], stranger]  # Some stay open.
      except OSError:
        pass
      time.sleep(0.05)

  stranger = threading.Thread(target=write)
  stranger.start()
  try:
    time.sleep(2)
    (tmp_path / "second").mkdir()
    (second,) = start(1, lambda _: command(1), tmp_path / "second")
    codes = end([first, second])
  finally:
    over.set()
    stranger.join()
  assert codes == [0, 0], last_line(tmp_path / "0.err")
  assert set(written) == {False, True}  # Before the run began, and in it.


class Board:
  """What processes tell each other by JAX's coordination service, on one board."""

  def __init__(self):
    self.said = {}

  def key_value_set(self, key, value):
    self.said[key] = value

  def blocking_key_value_get(self, key, timeout):
    return self.said[key]


AS_FIRST = {"processes": 2, "devices": 1, "jax": "0.1", "commit": "a"}


@pytest.mark.parametrize(
  ("other", "words"),
  [
    ({}, None),
    ({"commit": None}, None),  # The code need not be a checkout everywhere.
    ({"commit": "b"}, "process 1 is not as process 0 is: commit b, not a"),
    ({"jax": "9.9.9"}, "process 1 is not as process 0 is: jax 9.9.9, not 0.1"),
    ({"devices": 2}, "process 1 is not as process 0 is: devices 2, not 1"),
    ({"processes": 3}, "process 1 was told of 3 processes, process 0 of 2"),
  ],
)
def test_a_process_that_is_not_as_the_first_is_named_in_all(monkeypatch, other, words):
  board, told = Board(), (AS_FIRST, AS_FIRST | other)
  monkeypatch.setattr(distributed.global_state, "client", board)
  for number, own in enumerate(told):
    own = dict(own)
    board.key_value_set(f"dn_jax/processes/{number}", json.dumps(own.pop("processes")))
    board.key_value_set(f"dn_jax/program/{number}", json.dumps(own))
  for number, own in enumerate(told):
    monkeypatch.setattr(jax, "local_device_count", lambda own=own: own["devices"])
    monkeypatch.setattr(processes.provenance, "versions", lambda own=own: {"jax": own["jax"]})
    monkeypatch.setattr(processes.provenance, "commit", lambda own=own: own["commit"])
    if words is None:
      processes._compare(own["processes"], number, 1)
    else:
      with pytest.raises(processes.AgreedError, match=f"{words}$"):
        processes._compare(own["processes"], number, 1)


@pytest.mark.slow
@pytest.mark.thorough
def test_processes_with_other_devices_or_another_jax_are_named_by_all(tmp_path):
  differing = {
    "devices 1, not 2": "os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={2 - number}'",
    "jax 9.9.9, not": "provenance.versions = lambda: {'jax': '9.9.9' if number else '0.1'}",
    "commit b, not a": "provenance.commit = lambda: 'ab'[number]",
  }
  for words, change in differing.items():
    port = free_port()
    program = f"""
import os, sys
from dn_jax.commands import command_line
from dn_jax.config.schema import DistributedConfig
from dn_jax.distributed import processes
from dn_jax.system import provenance
number = int(sys.argv[1])
{change}
command_line.main(lambda: processes.join(DistributedConfig("localhost:{port}", 2, number)))
"""
    assert end(start(2, lambda number, text=program: ["-c", text, number], tmp_path)) == [2, 2]
    for number in range(2):
      last = last_line(tmp_path / f"{number}.err")
      assert last.startswith(f"error: process 1 is not as process 0 is: {words}")
