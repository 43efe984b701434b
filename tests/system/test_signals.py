"""Signals reach a process whatever it is in."""

import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import HANGS, ROOT, run, small_run

from dn_jax.system.signals import ASK

# Waits to be asked to stop, then goes into a command to the device that never ends; arguments: port, count, number.
WAITING = """
import sys, time
import jax
from dn_jax.config.schema import DistributedConfig
from dn_jax.distributed import processes
from dn_jax.system.signals import Interruption

port, count, number = map(int, sys.argv[1:])
if count > 1:
  processes.join(DistributedConfig(f"localhost:{port}", count, number, heartbeat=10))
endless = jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: (x + 1) % 1000, x))
with processes.ending_together(), Interruption() as interruption:
  print("ready", flush=True)
  while not interruption.asked():
    time.sleep(0.05)
  print("asked", flush=True)
  endless(1).block_until_ready()
"""

# In such a command from the beginning.
DEEP = WAITING.replace("while not", "endless(1).block_until_ready()\n  while not")


def start(program, count=1):
  with socket.socket() as probe:
    probe.bind(("", 0))
    port = probe.getsockname()[1]
  return [
    subprocess.Popen(
      [sys.executable, "-c", program, str(port), str(count), str(number)],
      cwd=ROOT,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for number in range(count)
  ]


@pytest.fixture
def ended():
  """Processes that a test started, and that must not outlive it."""
  processes = []
  yield processes
  for process in processes:
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_a_process_that_is_in_a_command_to_the_device(ended, number):
  ended += start(WAITING)
  (process,) = ended
  assert process.stdout.readline() == "ready\n"
  process.send_signal(number)
  assert process.stdout.readline() == "asked\n"
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(number)
  assert process.wait(HANGS) == -number


@pytest.mark.slow
def test_what_a_sweep_sends_its_runs_ends_nothing_and_counts_for_no_signal(ended):
  ended += start(WAITING)
  (process,) = ended
  assert process.stdout.readline() == "ready\n"
  process.send_signal(ASK)
  assert process.stdout.readline() == "asked\n"
  for number in (ASK, signal.SIGTERM, ASK):
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert process.wait(HANGS) == -signal.SIGTERM


@pytest.mark.slow
def test_two_signals_end_a_process_that_is_deep_in_its_first_command(ended):
  ended += start(DEEP)
  (process,) = ended
  assert process.stdout.readline() == "ready\n"
  time.sleep(0.5)
  process.send_signal(signal.SIGTERM)
  time.sleep(0.3)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert process.wait(HANGS) == -signal.SIGTERM


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_of_two_processes_all_hear_the_first_signal_and_the_second_ends_its_own(ended, number):
  ended += start(WAITING, 2)
  assert [process.stdout.readline() for process in ended] == ["ready\n"] * 2
  ended[1].send_signal(number)
  assert [process.stdout.readline() for process in ended] == ["asked\n"] * 2
  time.sleep(0.5)
  assert [process.poll() for process in ended] == [None] * 2
  ended[1].send_signal(number)
  assert ended[1].wait(HANGS) == -number


@pytest.mark.thorough
@pytest.mark.slow
def test_two_signals_end_one_of_two_processes_before_they_have_agreed(ended):
  ended += start(DEEP, 2)
  assert [process.stdout.readline() for process in ended] == ["ready\n"] * 2
  time.sleep(0.5)
  ended[1].send_signal(signal.SIGTERM)
  time.sleep(0.3)
  assert [process.poll() for process in ended] == [None] * 2
  ended[1].send_signal(signal.SIGTERM)
  assert ended[1].wait(HANGS) == -signal.SIGTERM


@pytest.mark.slow
def test_afterwards_signals_do_what_they_did_before():
  found = subprocess.run(
    [
      *(sys.executable, "-c"),
      """
import os, signal
from dn_jax.system.signals import Interruption
heard = []
signal.signal(signal.SIGINT, signal.default_int_handler)  # Not there in a shell's background.
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
for _ in range(100):  # What listens may be late.
  with Interruption() as interruption:
    os.kill(os.getpid(), signal.SIGTERM)
    while not interruption.asked():
      pass
  assert heard == []
assert signal.set_wakeup_fd(-1) == -1
os.kill(os.getpid(), signal.SIGTERM)
assert heard == [signal.SIGTERM]
try:
  os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
  print("as before")
""",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert found.stdout == "as before\n", found.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks in /proc for what a process has loaded")
def test_a_signal_before_training_ends_with_the_code_of_one_that_is_to_be_started_again(tmp_path, ended):
  process = subprocess.Popen(
    [sys.executable, *small_run(tmp_path / "run")],
    cwd=ROOT,
    text=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )
  ended.append(process)
  while "jaxlib" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text():  # The first of many imports.
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=HANGS)
  assert (process.returncode, stderr) == (75, "stopped as asked, outside training; the same command goes on\n")


@pytest.mark.parametrize(
  "then",
  [
    "abort()",
    "threading.Thread(target=abort).start()\ntime.sleep(60)",
    "threading.Thread(target=abort).start()\nwhile True: pass",
  ],
  ids=["in the main thread", "while it waits", "while it computes"],
)
def test_an_abort_in_c_ends_as_it_is_told_to_whatever_the_main_thread_is_in(then):
  program = f"""
import ctypes, os, threading, time
from dn_jax.system import signals
signals.at_abort(lambda _: (os.write(2, b"its words\\n"), os._exit(76)))
abort = ctypes.CDLL(None).abort
{then}
"""
  done = run("-c", program)
  assert (done.returncode, done.stderr) == (76, "its words\n")


@pytest.mark.parametrize(("of", "said"), [("abort()", "True"), ("thread()", "False")])
def test_an_abort_says_whether_its_thread_was_running_python(of, said):
  program = f"""
import ctypes, os, time
from dn_jax.system import signals
signals.at_abort(lambda runs_python: (os.write(2, str(runs_python).encode()), os._exit(3)))
libc = ctypes.CDLL(None)
abort = libc.abort
def thread():
  libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, ctypes.cast(abort, ctypes.c_void_p), None)
  time.sleep(60)
{of}
"""
  done = run("-c", program)
  assert (done.returncode, done.stderr) == (3, said)


def test_afterwards_an_abort_is_what_it_was_before():
  program = "import os\nfrom dn_jax.system import signals\nsignals.at_abort(lambda _: os._exit(76))\n"
  assert run("-c", program + "signals.at_abort(None)\nos.abort()").returncode == -signal.SIGABRT
