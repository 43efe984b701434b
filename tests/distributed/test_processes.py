"""Several processes on one machine, over loopback, as hosts of a pod are: the same numbers, and no hanging."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest
from conftest import HANGS, ROOT, call, metrics, run, small_run, wait_for
from jax._src import distributed

from dn_jax.distributed import processes as processes
from dn_jax.distributed import rendezvous
from dn_jax.errors import ConfigurationError, UserError

CASES = ROOT / "tests" / "distributed_cases.py"


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("", 0))
    return probe.getsockname()[1]


def start(count: int, command_of, folder: pathlib.Path, **environment: str) -> list[subprocess.Popen]:
  """So many processes, each with its output in a file of the folder."""
  return [
    subprocess.Popen(
      [sys.executable, *map(str, command_of(number))],
      cwd=ROOT,
      stdout=(folder / f"{number}.out").open("w"),
      stderr=(folder / f"{number}.err").open("w"),
      env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    for number in range(count)
  ]


def end(processes: list[subprocess.Popen]) -> list[int | None]:
  """Exit codes; None for one that does not end, which is then killed."""
  stop = time.monotonic() + HANGS
  codes = []
  for process in processes:
    try:
      codes.append(process.wait(max(0.1, stop - time.monotonic())))
    except subprocess.TimeoutExpired:
      process.kill()
      codes.append(None)
  return codes


def members(count: int, out: pathlib.Path, *flags: str):
  """The commands of a small run's processes."""
  port = free_port()
  several = ("--distributed.coordinator", f"localhost:{port}", "--distributed.num-processes", str(count))
  return lambda number: [*small_run(out, *flags), *several, "--distributed.process-id", str(number)]


@pytest.mark.slow
@pytest.mark.thorough
def test_steps_of_two_processes_are_those_of_one_device(tmp_path):
  port, count = free_port(), 2
  codes = end(start(count, lambda number: [CASES, "processes", port, count, number], tmp_path))
  assert codes == [0] * count, (tmp_path / "0.err").read_text()[-2000:]
  found = json.loads((tmp_path / "0.out").read_text().splitlines()[-1])
  assert len(found) == 3
  assert {case: distance for case, distance in found.items() if not distance < 1e-10} == {}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(("count", "devices", "groups"), [(4, 1, 2), (2, 2, 1)])
def test_a_step_makes_no_connection_that_is_not_made_before(tmp_path, count, devices, groups):
  # Gloo gives up where processes come to one 30 s apart, as they may once they have loaded data and compiled.
  port, flags = free_port(), f"--xla_force_host_platform_device_count={devices}"
  command = lambda number: [CASES, "connected", port, count, number, groups]
  codes = end(start(count, command, tmp_path, XLA_FLAGS=flags))
  assert codes == [0] * count, (tmp_path / "0.err").read_text()[-2000:]
  for number in range(count):
    before, after = (tmp_path / f"{number}.out").read_text().split("connected\n")
    assert "[Gloo]" in before
    assert "[Gloo]" not in after


def stopped(out: pathlib.Path, flags: tuple[str, ...], folder: pathlib.Path) -> None:
  """Runs two processes, and asks the second to stop in its first epoch."""
  processes = start(2, members(2, out, *flags), folder)
  wait_for(out / "checkpoints" / "7" / "digests.json", *processes)
  processes[1].send_signal(signal.SIGTERM)
  assert end(processes) == [75, 75], (folder / "0.err").read_text()[-2000:]
  words = [(folder / f"{number}.err").read_text().splitlines()[-1] for number in range(2)]
  assert words[0] == words[1]
  assert words[0].startswith("stopped as asked, and saved after step ")


# One convolution a layer, and the policy whose program is compiled fastest.
SMALLER = ("--model.depth", "7", "--model.bottleneck", "False", "--model.remat", "none")
AUGMENTED = (*SMALLER, "--epochs", "2", "--data.augment", "--model.dropout", "0.1", "--checkpoint.every-steps", "7")


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("kind", [("--model.remat", "auto"), ("--shard-state",)], ids=["whole", "state cut"])
def test_a_run_of_two_processes_that_is_asked_to_stop_ends_as_one_process_with_two_devices(tmp_path, kind):
  flags = (*AUGMENTED, *kind)
  alone = run(*small_run(tmp_path / "alone", *flags), XLA_FLAGS="--xla_force_host_platform_device_count=2")
  assert alone.returncode == 0, alone.stderr
  stopped(tmp_path / "run", flags, tmp_path)
  out = tmp_path / "run"
  assert end(start(2, members(2, out, *flags), tmp_path)) == [0, 0], (tmp_path / "0.err").read_text()[-2000:]
  assert "from the checkpoint of step" in (tmp_path / "0.out").read_text()
  assert metrics(out) == metrics(tmp_path / "alone")


def assert_loss_is_said_last(file: pathlib.Path) -> None:
  """Of a process that JAX aborts a shell says it, in its own time."""
  deadline = time.monotonic() + 30
  while "is lost" not in (last := file.read_text().strip().splitlines()[-1]):
    assert time.monotonic() < deadline, last
    time.sleep(0.1)
  assert "goes on from the last checkpoint" in last


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("killed", [0, 3])
def test_where_one_of_four_is_killed_the_others_stop_and_say_why(tmp_path, killed):
  out = tmp_path / "run"
  processes = start(4, members(4, out, *SMALLER, "--epochs", "1000", "--checkpoint.every-steps", "7"), tmp_path)
  wait_for(out / "checkpoints" / "7" / "digests.json", *processes)
  processes[killed].kill()
  codes = end(processes)
  assert codes.pop(killed) == -signal.SIGKILL
  assert set(codes) <= {76, -signal.SIGABRT}, codes
  for number in {0, 1, 2, 3} - {killed}:
    assert_loss_is_said_last(tmp_path / f"{number}.err")


class Ended(BaseException):
  """Instead of a process's end."""


def caused(error: Exception, cause: Exception) -> Exception:
  error.__cause__ = cause
  return error


GLOO = "UNKNOWN: Gloo AllGather failed: [gloo/transport/tcp/pair.cc:547] Read error: Connection reset by peer"
LOST = (
  "error: another process of the run is lost ({}); the same command, in all of them, goes on from the last checkpoint"
)


@pytest.mark.parametrize(
  ("error", "code", "words"),
  [
    (KeyboardInterrupt(), 130, "interrupted"),
    (UserError("--seed -1: must be at least 0"), 2, "error: --seed -1: must be at least 0"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 1, "Traceback"),
    (ValueError("zip() argument 2 is shorter than argument 1"), 1, "Traceback"),
    (ValueError("RESOURCE_EXHAUSTED: Error writing, Gloo or not"), 1, "Traceback"),
    (jax.errors.JaxRuntimeError("INTERNAL: cuDNN launch failure"), 1, "Traceback"),
    (jax.errors.JaxRuntimeError(GLOO), 76, LOST.format(GLOO)),
    (ValueError(f"{GLOO}\nmore of it"), 76, LOST.format(GLOO)),
    (caused(RuntimeError("saving failed"), ValueError(GLOO)), 76, LOST.format(GLOO)),
    (RuntimeError("DEADLINE_EXCEEDED: Barrier timed out."), 76, LOST.format("DEADLINE_EXCEEDED: Barrier timed out.")),
  ],
  ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_one_of_several_processes_that_fails_ends_at_once_and_says_why(monkeypatch, capsys, error, code, words):
  def exit_with(found):
    raise Ended(found)

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(os, "_exit", exit_with)
  with pytest.raises(Ended) as ended, processes.ending_together():
    raise error
  assert ended.value.args == (code,)
  said = capsys.readouterr().err
  assert said.startswith(words)
  assert said.count("\n") == 1 or words == "Traceback"


def test_what_all_processes_raise_is_passed_on(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for error in (processes.AgreedError("all know"), ZeroDivisionError()):
    with pytest.raises(type(error)), processes.ending_together(ZeroDivisionError):
      raise error


# One of two processes that save again and again, and of which the second is killed at a save.
SAVING = """
import os, pathlib, signal, sys
import jax, jax.numpy as jnp
from dn_jax import distributed, processes
from dn_jax.configuration import DistributedConfig
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.step import TrainState

port, number, folder = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
processes.join(DistributedConfig(f"localhost:{port}", 2, number, heartbeat=10))
mesh = distributed.make_layout().mesh
with Checkpoints(folder / "c", 2, print) as checkpoints, processes.ending_together():
  for step in range(1, 1000):
    state = TrainState(jnp.int32(step), {"w": jnp.arange(10000.0)}, {}, ())
    if (step, number) == (3, 1):
      os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.save(step, distributed.replicate(state, mesh), [])
"""


@pytest.mark.slow
@pytest.mark.parametrize("while_writing", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_where_one_is_killed_as_all_save_the_other_says_why_it_ends(tmp_path, while_writing):
  port = free_port()
  program = SAVING if while_writing else SAVING.replace("if (step", "checkpoints._finish()\n    if (step")
  codes = end(start(2, lambda number: ["-c", program, port, number, tmp_path], tmp_path))
  assert codes[1] == -signal.SIGKILL
  # An exchange misses it at once, and raises; a barrier only hears of it from JAX, which ends the process.
  assert codes[0] in ({76, -signal.SIGABRT} if while_writing else {76}), codes
  assert_loss_is_said_last(tmp_path / "0.err")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_disk_without_room_is_one_line_in_every_process(tmp_path):
  port = free_port()
  full = SAVING.replace("(3, 1)", "(0, 0)").replace(
    "with Checkpoints",
    "import shutil, types\nshutil.disk_usage = lambda folder: types.SimpleNamespace(free=9)\nwith Checkpoints",
  )
  main = f"from dn_jax import command_line\ncommand_line.main(lambda: exec({full!r}, {{}}))"
  codes = end(start(2, lambda number: ["-c", main, port, number, tmp_path], tmp_path))
  assert codes == [2, 2]
  for number in range(2):
    said = (tmp_path / f"{number}.err").read_text().strip().splitlines()[-1]
    assert (
      said == f"error: {tmp_path}: cannot be written (No space left on device); once it can, the same command goes on"
    )


def test_flags_that_differ_between_processes_are_named_in_all(monkeypatch):
  first = {"seed": 0, "model.depth": 40, "out": "runs/one"}
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for other, words in (
    ({}, None),
    ({"seed": 1}, "--seed: 0 -> 1"),
    ({"model.depth": 100, "out": "x"}, "--model.depth: 40 -> 100; --out: runs/one -> x"),
  ):
    monkeypatch.setattr(processes, "_gather", lambda text, other=other: [json.dumps(first), json.dumps(first | other)])
    if words is None:
      processes.agree(first)
    else:
      with pytest.raises(processes.AgreedError, match=f"^process 1 was not started as process 0 was: {words}$"):
        processes.agree(first)


@pytest.mark.thorough
def test_a_process_that_was_started_otherwise_is_named_by_all(tmp_path):
  command = members(2, tmp_path / "run")
  codes = end(start(2, lambda number: [*command(number), "--seed", str(number)], tmp_path))
  assert codes == [2, 2]
  words = [(tmp_path / f"{number}.err").read_text().strip().splitlines()[-1] for number in range(2)]
  assert words == ["error: process 1 was not started as process 0 was: --seed: 0 -> 1"] * 2
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_what_one_process_lacks_is_one_line_in_all(tmp_path, prepared):
  command = members(2, tmp_path / "run", "--data.name", "cifar10")
  data = (prepared, tmp_path / "nowhere")
  codes = end(start(2, lambda number: [*command(number), "--data.dir", data[number]], tmp_path))
  assert codes == [2, 2]
  words = [(tmp_path / f"{number}.err").read_text().strip().splitlines()[-1] for number in range(2)]
  assert words[0] == words[1]
  assert words[0].startswith("error: process 1: --data.")
  assert "nowhere" in words[0]


@pytest.mark.slow
@pytest.mark.thorough
def test_what_devices_do_not_divide_is_one_line_in_every_process(tmp_path):
  codes = end(start(2, members(2, tmp_path / "run", "--batch-size", "33"), tmp_path))
  assert codes == [2, 2]
  for number in range(2):
    last = (tmp_path / f"{number}.err").read_text().strip().splitlines()[-1]
    assert last == "error: --batch-size 33: 2 devices do not divide it; the nearest that they do: 32 and 34"


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (("--distributed.num-processes", "2"), "--distributed.coordinator None: goes together with the other two"),
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


class Board:
  """What processes tell each other by JAX's coordination service, on one board."""

  def __init__(self):
    self.said = {}

  def key_value_set(self, key, value):
    self.said[key] = value

  def blocking_key_value_get(self, key, timeout):
    return self.said[key]


@pytest.mark.parametrize(
  ("other", "words"),
  [
    ({}, None),
    ({"commit": None}, None),  # The code need not be a checkout everywhere.
    ({"commit": "b"}, "commit b, not a"),
    ({"jax": "9.9.9"}, "jax 9.9.9, not 0.1"),
    ({"devices": 2}, "devices 2, not 1"),
  ],
)
def test_a_process_that_is_not_as_the_first_is_named_in_all(monkeypatch, other, words):
  board, as_first = Board(), {"devices": 1, "jax": "0.1", "commit": "a"}
  monkeypatch.setattr(distributed.global_state, "client", board)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for number, own in enumerate((as_first, as_first | other)):
    board.key_value_set(f"dn_jax/program/{number}", json.dumps(own))
  for number, own in enumerate((as_first, as_first | other)):
    monkeypatch.setattr(jax, "process_index", lambda number=number: number)
    monkeypatch.setattr(jax, "local_device_count", lambda own=own: own["devices"])
    monkeypatch.setattr(processes.program, "versions", lambda own=own: {"jax": own["jax"]})
    monkeypatch.setattr(processes.program, "commit", lambda own=own: own["commit"])
    if words is None:
      processes._compare(1)
    else:
      with pytest.raises(processes.AgreedError, match=f"^process 1 is not as process 0 is: {words}$"):
        processes._compare(1)


@pytest.mark.slow
@pytest.mark.thorough
def test_processes_with_other_devices_or_another_jax_are_named_by_all(tmp_path):
  differing = {
    "devices 1, not 2": "os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={2 - number}'",
    "jax 9.9.9, not": "program.versions = lambda: {'jax': '9.9.9' if number else '0.1'}",
    "commit b, not a": "program.commit = lambda: 'ab'[number]",
  }
  for words, change in differing.items():
    port = free_port()
    program = f"""
import os, sys
from dn_jax import command_line, processes, program
from dn_jax.configuration import DistributedConfig
number = int(sys.argv[1])
{change}
command_line.main(lambda: processes.join(DistributedConfig("localhost:{port}", 2, number)))
"""
    assert end(start(2, lambda number, text=program: ["-c", text, number], tmp_path)) == [2, 2]
    for number in range(2):
      last = (tmp_path / f"{number}.err").read_text().strip().splitlines()[-1]
      assert last.startswith(f"error: process 1 is not as process 0 is: {words}")


def test_two_processes_of_one_number_are_refused(tmp_path):
  with socket.socket() as taken:
    taken.bind(("", 0))
    taken.listen()
    address = f"localhost:{taken.getsockname()[1]}"
    flags = ("--distributed.coordinator", address, "--distributed.num-processes", "2", "--distributed.process-id", "0")
    done = call(*small_run(tmp_path / "run", *flags))
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "its port cannot be taken here (Address already in use); is there another process 0?" in done.stderr


def answers(ids: list[int], count: int, told: int | None = None, timeout: float = 3.0) -> dict[int, str]:
  """What each of some processes, here threads, is told; "" for one that may go on. `told`: the last one's count."""
  address, found = f"localhost:{free_port()}", {}

  def one(place: int, number: int) -> None:
    try:
      rendezvous.meet(address, told if told and place == len(ids) - 1 else count, number, timeout)
      found[place] = ""
    except ConfigurationError as error:
      found[place] = str(error)

  threads = [threading.Thread(target=one, args=each) for each in enumerate(ids)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return found


def test_all_that_come_are_told_who_is_missing_or_there_twice():
  assert answers([0, 1, 2], 3) == {0: "", 1: "", 2: ""}
  assert answers([2, 1, 0], 3) == {0: "", 1: "", 2: ""}
  missing = answers([0, 2], 4, timeout=1.0)
  assert missing[0] == "--distributed.num-processes 4: of 4 processes these did not come in 1 s: 1, 3"
  assert "these did not come in 1 s: 1, 3" in missing[1]
  twice = answers([0, 1, 1], 3)
  assert all("two processes have the id 1" in words for words in twice.values())
  other = answers([0, 1], 2, told=3)
  assert all("process 1 was told of 3 processes, process 0 of 2" in words for words in other.values())


def test_a_process_that_was_stopped_while_it_waited_may_come_again():
  port, told = free_port(), []

  def come(number):
    try:
      rendezvous.meet(f"localhost:{port}", 3, number, 10.0)
      told.append("")
    except ConfigurationError as error:
      told.append(str(error))

  threads = [threading.Thread(target=come, args=(0,))]
  threads[0].start()
  while True:
    try:
      with socket.create_connection(("localhost", port)) as gone:
        gone.sendall(b'{"id": 1, "of": 3}\n')
      break
    except OSError:
      time.sleep(0.01)
  for number in (1, 2):
    threads.append(threading.Thread(target=come, args=(number,)))
    threads[-1].start()
    threads[-1].join(0.5)
  for thread in threads:
    thread.join(20)
  assert told == ["", "", ""]


def test_somebody_else_at_the_port_does_not_matter():
  port = free_port()
  host = threading.Thread(target=rendezvous.meet, args=(f"localhost:{port}", 2, 0, 5.0))
  host.start()
  while True:
    try:
      with socket.create_connection(("localhost", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
      break
    except OSError:
      time.sleep(0.01)
  rendezvous.meet(f"localhost:{port}", 2, 1, 5.0)
  host.join()
