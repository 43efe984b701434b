"""Parts of a measurement: which fit, what they leave when they fail or are killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import HANGS, ROOT, wait_for
from measuring import parts, program
from measuring.record import Record, table

NETWORK = {"depth": 10, "growth_rate": 2, "dtype": "bfloat16"}


def record_in(folder):
  return Record(folder, began="today", minutes=15.0, network=NETWORK)


def flags_for(folder, **changes):
  about = {"minutes": 30.0, "data": None, "out": folder, "depth": 10, "growth_rate": 2, "batch_sizes": (8,)}
  about |= {"policies": ("none",), "epochs": 2, "torch_python": sys.executable, **changes}
  return parts.Flags(**about)


def content_of(folder):
  return json.loads((folder / "accelerator.json").read_text())


def states(folder):
  return {entry["part"]: entry["state"] for entry in content_of(folder)["parts"]}


def wait_for_the_end_of(process):
  """Waits until a process (its id) has ended, whether or not anybody has asked for its exit code."""
  status, stop = pathlib.Path(f"/proc/{process}/status"), time.monotonic() + HANGS
  while status.exists() and "(zombie)" not in status.read_text():
    assert time.monotonic() < stop, f"{process} does not end"
    time.sleep(0.01)


class Clock:
  now = 1000.0

  def __call__(self):
    return self.now


def test_a_part_begins_only_where_one_of_its_kind_has_shown_that_it_fits():
  clock = Clock()
  budget = parts.Budget(900, clock)
  ours, flax = (
    parts.Part("ours", "jax", None),
    parts.Part("flax", "jax", None, share=0.5),
  )
  assert budget.objection(ours) is None
  clock.now += 200
  budget.took("jax", 200)
  budget.took("jax", 150)  # The longest counts.
  assert budget.objection(flax) is None  # It would end after 400 of 450 s.
  clock.now += 60
  assert budget.objection(flax) == "takes about 200 s, and 190 s are left before the training's half"
  assert budget.objection(parts.Part("torch", "torch", None, share=0.5)) is None
  clock.now += 245
  assert budget.objection(flax) == "no time is left before the training's half"
  assert budget.objection(ours) is None
  clock.now += 200
  assert budget.objection(ours) == "takes about 200 s, and 195 s are left before the end"
  clock.now += 200
  assert budget.objection(parts.Part("torch", "torch", None)) == "no time is left before the end"


def test_parts_come_in_order_and_the_peers_leave_half_of_the_time_to_a_training(tmp_path):
  flags = flags_for(tmp_path, batch_sizes=(64, 128), policies=("none", "block"), data=tmp_path / "cifar10.npz")
  found = list(parts.Parts(flags, record_in(tmp_path), tmp_path))
  assert [part.name for part in found] == [
    "versions and device",
    *("dn_jax none, batch 64", "plain Flax, batch 64", "PyTorch compiled, batch 64"),
    "training",
    *("dn_jax block, batch 64", "dn_jax none, batch 128"),
    "second compilation",
    "PyTorch, batch 64",
    *("plain Flax, batch 128", "PyTorch compiled, batch 128"),
  ]
  assert [part.share for part in found] == [1, 1, 0.5, 0.5, *[1] * 7]
  without = parts.Parts(flags_for(tmp_path), record_in(tmp_path), tmp_path)
  assert {part.share for part in without} == {1}


def test_a_part_that_fails_is_written_down_and_the_others_go_on(tmp_path, capsys):
  def fails(entry, seconds):
    raise program.PartFailed("XlaRuntimeError: RESOURCE_EXHAUSTED")

  def too_long(entry, seconds):
    clock.now += 50
    raise program.CutOff("its time was over")

  def stopped(entry, seconds):
    raise KeyboardInterrupt

  clock = Clock()
  each = {"jax": fails, "slow": too_long, "done": lambda entry, seconds: {"seconds_given": seconds}}
  listed = [parts.Part(name, name, take) for name, take in each.items()]
  listed += [parts.Part("slow again", "slow", too_long), parts.Part("stopped", "stopped", stopped)]
  with pytest.raises(KeyboardInterrupt):
    parts.measure(listed, record_in(tmp_path), parts.Budget(80, clock))
  assert states(tmp_path) == {
    **{"jax": "failed", "slow": "cut off", "done": "done"},
    **{"slow again": "left out", "stopped": "cut off"},
  }
  content = content_of(tmp_path)
  assert content["parts"][2]["seconds_given"] == 30
  text = (tmp_path / "accelerator.md").read_text()
  assert "- jax: failed (XlaRuntimeError: RESOURCE_EXHAUSTED)\n" in text
  assert "- slow again: left out (takes about 50 s, and 30 s are left before the end)\n" in text
  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == ["   0:00  jax begins", "   0:00  jax: failed, XlaRuntimeError: RESOURCE_EXHAUSTED"]


WRITES = """
import pathlib, sys
from measuring.record import Record
record = Record(pathlib.Path(sys.argv[1]), began="", minutes=1.0, network={"depth": 10, "growth_rate": 2, "dtype": ""})
while True:
  record.add(part="x" * 10_000, state="running")
  if len(record.content["parts"]) > 40:
    del record.content["parts"][1:]
"""


def test_a_record_is_whole_at_any_moment(tmp_path):
  environment = os.environ | {"PYTHONPATH": str(ROOT / "experiments")}
  writer = subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path)], env=environment)
  try:
    wait_for(tmp_path / "accelerator.md", writer)
    for _ in range(300):
      assert content_of(tmp_path)["parts"]
  finally:
    writer.kill()
    writer.wait()
  assert content_of(tmp_path)["parts"]


MEASURES = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # It may be ignored where the tests run in the background.
sys.path.insert(0, sys.argv[2])
from measuring import parts, program
from measuring.record import Record
out = pathlib.Path(sys.argv[1])
CHILD = '''
import os, pathlib, sys, time
from dn_jax.system import child_processes
child_processes.hold()
pathlib.Path(sys.argv[1], "half").write_text(str(os.getpid()))
pathlib.Path(sys.argv[1], "half").rename(pathlib.Path(sys.argv[1], "child"))
time.sleep(1000)
'''
def hangs(entry, seconds):
  entry["seen"] = [1]
  command, environment = [sys.executable, "-c", CHILD, str(out)], {"PYTHONPATH": sys.argv[2]}
  with program.Program(command, out / "log", seconds, environment) as child:
    return child.answer()
record = Record(out, began="", minutes=1.0, network={"depth": 10, "growth_rate": 2, "dtype": ""})
listed = [parts.Part("first", "first", lambda entry, seconds: {"found": 7}), parts.Part("second", "second", hangs)]
parts.measure(listed, record, parts.Budget(1000))
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_stopped_keeps_what_is_done_and_leaves_no_program_behind(tmp_path, sign):
  environment = os.environ | {"PYTHONPATH": str(ROOT / "experiments")}
  command = [sys.executable, "-c", MEASURES, str(tmp_path), str(ROOT)]
  measuring = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  wait_for(tmp_path / "child", measuring)
  measuring.send_signal(sign)
  measuring.wait(60)
  child = int((tmp_path / "child").read_text())
  wait_for_the_end_of(child)
  assert states(tmp_path) == {"first": "done", "second": "running" if sign == signal.SIGKILL else "cut off"}
  assert content_of(tmp_path)["parts"][0]["found"] == 7


@pytest.mark.parametrize(
  ("script", "why"),
  [
    # JAX writes more after an exception's own line.
    (
      "echo 'jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED' >&2; echo '-----' >&2; exit 1",
      "jax.*: RESOURCE_EXHAUSTED$",
    ),
    ("echo 'no such device' >&2; exit 1", "^no such device$"),
    ("exit 3", "^exit code 3$"),
    ("kill -9 $$", "^killed by SIGKILL$"),
    ("exit 0", "^it ended without an answer$"),
  ],
)
def test_a_program_that_fails_is_told_in_one_line(tmp_path, script, why):
  with (
    pytest.raises(program.PartFailed, match=why),
    program.Program(["sh", "-c", script], tmp_path / "log", 60, {}) as one,
  ):
    one.ask(1)


def test_a_program_that_is_not_there_is_told_in_one_line(tmp_path):
  with pytest.raises(program.PartFailed, match=r"^/nowhere/python: No such file or directory$"):
    program.Program(["/nowhere/python"], tmp_path / "log", 60, {})


def test_a_program_that_hangs_is_cut_off_with_all_that_it_started(tmp_path):
  script = f"sleep 1000 & echo $! > {tmp_path}/started; echo '{{\"one\": 1}}'; wait"
  found = []

  def listen():
    with program.Program(["sh", "-c", script], tmp_path / "log", 2, {}) as one:
      for answer in one.answers():
        found.append(answer)

  with pytest.raises(program.CutOff, match="its time was over, after 2 s"):
    listen()
  assert found == [{"one": 1}]
  wait_for_the_end_of((tmp_path / "started").read_text().strip())


def test_a_program_is_asked_line_by_line_and_answers_until_it_ends(tmp_path):
  script = 'while read n; do echo "{\\"n\\": $n}"; [ $n = 2 ] && break; done; echo \'{"n": 3}\''
  with program.Program(["sh", "-c", script], tmp_path / "log", 60, {}) as one:
    assert one.ask(1) == {"n": 1}
    assert one.ask(2) == {"n": 2}
    assert list(one.answers()) == [{"n": 3}]


def test_a_table_has_a_row_for_each_program_and_a_line_for_what_else_there_is():
  timed = {"state": "done", "first_step_after": 61.4, "temporaries": 2105.2, "device_peak": None}
  training = {
    **{"epochs": 20, "published_epochs": 300, "drops": [10, 15], "steps_per_epoch": 781, "steps_per_command": 32},
    "trained": [
      {"epoch": 1, "test_error": 0.6, "seconds": 8.2},
      {"epoch": 2, "test_error": 0.4321, "seconds": 8.357},
    ],
  }
  listed = [
    {"part": "ours", "batch_size": 64, "rounds_ms": [10.0, 16.0, 9.0], **timed},
    {"part": "theirs", "batch_size": 128, "rounds_ms": [16.0], **timed, "device_peak": 4000.0},
    {"part": "training", "state": "cut off", "why": "its time was over", **training},
    {"part": "PyTorch", "state": "failed", "why": "out of memory"},
    {"part": "block", "state": "running"},
  ]
  lines = table({"began": "today", "minutes": 15.0, "network": NETWORK, "parts": listed}).splitlines()
  assert lines[7:9] == [
    "| ours | 10.00 (9.00 to 16.00) | 6,400 | 1.00 | 61 | 2,105 |  |",
    "| theirs | 16.00 (16.00 to 16.00) | 8,000 | 1.25 | 61 | 2,105 | 4,000 |",
  ]
  assert lines[10:] == [
    "- training: cut off (its time was over; 20 of the published 300 epochs, a tenth of the rate from epoch 11 and "
    "again from 16 on; test error 43.21 % after epoch 2 of 20, 10.60 ms a step in commands of 32)",
    "- PyTorch: failed (out of memory)",
    "- block: running",
  ]
