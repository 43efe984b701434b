"""Several processes on one machine, over loopback, as hosts of a pod are: the same numbers, and no hanging."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import wandb_files
from conftest import HANGS, ROOT, metrics, run, small_run, wait_for
from jax.experimental import multihost_utils

from dn_jax.distributed import processes
from dn_jax.errors import UserError

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
  assert len(found) == 4
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


@pytest.mark.slow
@pytest.mark.thorough
def test_of_two_processes_each_finds_a_kept_program_or_none_does(tmp_path):
  port = free_port()
  codes = end(start(2, lambda number: [CASES, "kept", port, 2, number, tmp_path], tmp_path))
  assert codes == [0, 0], (tmp_path / "0.err").read_text()[-2000:]
  said = [json.loads(last_line(tmp_path / f"{number}.out")) for number in range(2)]
  assert said == [[1, 1, 2, 2]] * 2


def stopped(out: pathlib.Path, flags: tuple[str, ...], folder: pathlib.Path) -> None:
  """Runs two processes, and asks the second to stop in its first epoch."""
  processes = start(2, members(2, out, *flags), folder)
  wait_for(out / "checkpoints" / "7" / "digests.json", *processes)
  processes[1].send_signal(signal.SIGTERM)
  assert end(processes) == [75, 75], (folder / "0.err").read_text()[-2000:]
  words = [last_line(folder / f"{number}.err") for number in range(2)]
  assert words[0] == words[1]
  assert words[0].startswith("stopped as asked, and saved after step ")


# One convolution a layer, and the policy whose program is compiled fastest.
SMALLER = ("--model.depth", "7", "--model.bottleneck", "False", "--model.remat", "none")
AUGMENTED = (*SMALLER, "--epochs", "2", "--data.augment", "--model.dropout", "0.1", "--checkpoint.every-steps", "7")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_run_of_two_processes_that_is_asked_to_stop_ends_as_one_process_with_two_devices(tmp_path):
  flags = (*AUGMENTED, "--model.remat", "auto", "--shard-state")
  alone = run(*small_run(tmp_path / "alone", *flags), XLA_FLAGS="--xla_force_host_platform_device_count=2")
  assert alone.returncode == 0, alone.stderr
  stopped(tmp_path / "run", flags, tmp_path)
  out, commands = tmp_path / "run", members(2, tmp_path / "run", *flags, "--wandb", "nets")
  begun = start(2, commands, tmp_path, WANDB_MODE="offline", WANDB_CACHE_DIR=str(tmp_path))
  assert end(begun) == [0, 0], (tmp_path / "0.err").read_text()[-2000:]
  assert "from the checkpoint of step" in (tmp_path / "0.out").read_text()
  assert metrics(out) == metrics(tmp_path / "alone")
  # Only the first process writes there, and what was before it too.
  (left,) = (out / "wandb").glob("*run-*")
  rows = wandb_files.read(left)["rows"]
  assert [step for step, row in rows.items() if "epoch" in row] == [line["step"] for line in metrics(out)]


def last_line(file: pathlib.Path) -> str:
  return file.read_text().strip().splitlines()[-1]


def assert_loss_is_said_last(file: pathlib.Path) -> None:
  assert "is lost" in last_line(file)
  assert last_line(file).endswith("; the same command, in all of them, goes on from the last checkpoint")


@pytest.mark.slow
@pytest.mark.thorough
def test_where_the_first_of_four_is_killed_the_others_stop_and_say_why(tmp_path):
  out = tmp_path / "run"
  processes = start(4, members(4, out, *SMALLER, "--epochs", "1000", "--checkpoint.every-steps", "7"), tmp_path)
  wait_for(out / "checkpoints" / "7" / "digests.json", *processes)
  processes[0].kill()
  codes = end(processes)
  assert codes == [-signal.SIGKILL, 76, 76, 76]
  for number in (1, 2, 3):
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
from dn_jax.config.schema import DistributedConfig
from dn_jax.distributed import processes
from dn_jax.distributed.layout import make_layout, replicate
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.step import TrainState

port, number, folder = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
processes.join(DistributedConfig(f"localhost:{port}", 2, number, heartbeat=10))
mesh = make_layout().mesh
with Checkpoints(folder / "c", 2, print) as checkpoints, processes.ending_together():
  for step in range(1, 1000):
    state = TrainState(jnp.int32(step), {"w": jnp.arange(10000.0)}, {}, ())
    if (step, number) == (3, 1):
      os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.save(step, replicate(state, mesh), [])
"""


@pytest.mark.slow
@pytest.mark.parametrize("while_writing", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_where_one_is_killed_as_all_save_the_other_says_why_it_ends(tmp_path, while_writing):
  port = free_port()
  program = SAVING if while_writing else SAVING.replace("if (step", "checkpoints._finish()\n    if (step")
  codes = end(start(2, lambda number: ["-c", program, port, number, tmp_path], tmp_path))
  # An exchange misses it at once, and raises; a barrier only hears of it from JAX, which aborts the process.
  assert codes == [76, -signal.SIGKILL]
  assert_loss_is_said_last(tmp_path / "0.err")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_disk_without_room_is_one_line_in_every_process(tmp_path):
  port = free_port()
  full = SAVING.replace("(3, 1)", "(0, 0)").replace(
    "with Checkpoints",
    "import shutil, types\nshutil.disk_usage = lambda folder: types.SimpleNamespace(free=9)\nwith Checkpoints",
  )
  main = f"from dn_jax.commands import command_line\ncommand_line.main(lambda: exec({full!r}, {{}}))"
  codes = end(start(2, lambda number: ["-c", main, port, number, tmp_path], tmp_path))
  assert codes == [2, 2]
  for number in range(2):
    said = last_line(tmp_path / f"{number}.err")
    assert said.startswith(
      f"error: {tmp_path}: cannot be written (No space left on device; free space, or remove files"
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


def test_words_with_a_name_that_is_not_utf8_reach_all(monkeypatch):
  monkeypatch.setattr(multihost_utils, "process_allgather", lambda row: np.stack([row, row]))
  words = f"{os.fsdecode(b'caf\xe9')}: cannot be read; ü"
  assert processes._gather(words) == [words, words]


def test_something_holds_in_everyone_only_where_all_say_so(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  said = {}
  for holds in (True, False):
    monkeypatch.setattr(processes, "_gather", lambda text, holds=holds: [said.setdefault(holds, text)])
    processes.everyone(holds)
  for held in ((True, True), (True, False), (False, True), (False, False)):
    monkeypatch.setattr(processes, "_gather", lambda text, held=held: [said[each] for each in held])
    assert processes.everyone(held[0]) == all(held)


@pytest.mark.thorough
def test_a_process_that_was_started_otherwise_is_named_by_all(tmp_path):
  command = members(2, tmp_path / "run")
  codes = end(start(2, lambda number: [*command(number), "--seed", str(number)], tmp_path))
  assert codes == [2, 2]
  words = [last_line(tmp_path / f"{number}.err") for number in range(2)]
  assert words == ["error: process 1 was not started as process 0 was: --seed: 0 -> 1"] * 2
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_what_one_process_lacks_is_one_line_in_all(tmp_path, prepared):
  command = members(2, tmp_path / "run", "--data.name", "cifar10")
  data = (prepared, tmp_path / "nowhere")
  codes = end(start(2, lambda number: [*command(number), "--data.dir", data[number]], tmp_path))
  assert codes == [2, 2]
  words = [last_line(tmp_path / f"{number}.err") for number in range(2)]
  assert words[0] == words[1]
  assert words[0].startswith("error: process 1: --data.")
  assert "nowhere" in words[0]


@pytest.mark.slow
@pytest.mark.thorough
def test_what_devices_do_not_divide_is_one_line_in_every_process(tmp_path):
  codes = end(start(2, members(2, tmp_path / "run", "--batch-size", "33"), tmp_path))
  assert codes == [2, 2]
  for number in range(2):
    last = last_line(tmp_path / f"{number}.err")
    assert last == "error: --batch-size 33: 2 devices do not divide it; the nearest that they do: 32 and 34"
