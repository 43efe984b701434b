"""A run in a process of its own: how it ends, and what is written down of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import fabricated
import pytest
from conftest import wait_for

from dn_jax.runs import records
from dn_jax.sweep import process
from dn_jax.sweep.command import TRAIN
from dn_jax.sweep.process import Outcome, carry_out
from dn_jax.system import lock


def python(code):
  return [sys.executable, "-c", code]


@pytest.fixture
def folder(tmp_path):
  return fabricated.begun(tmp_path / "run")


def summary_of(folder):
  return (
    f"open({str(folder / 'summary.json')!r}, 'w').write({json.dumps(fabricated.summary(fabricated.config(), 5.0))!r})"
  )


def failure(folder):
  return json.loads((folder / "failure.json").read_text())


def test_a_run_that_leaves_a_summary_is_done_and_an_earlier_failure_is_forgotten(folder):
  records.write_failure(folder, records.Failure("old", 1, "then"))
  end = carry_out(python(summary_of(folder)), folder, None)
  assert end.outcome is Outcome.DONE
  assert not (folder / "failure.json").exists()


def test_a_run_that_stumbles_after_its_summary_is_done(folder):
  assert carry_out(python(summary_of(folder) + "; 1 / 0"), folder, None).outcome is Outcome.DONE
  assert not (folder / "failure.json").exists()


def test_a_run_that_ends_well_without_a_summary_has_failed(folder):
  assert carry_out(python("print('all well')"), folder, None).outcome is Outcome.FAILED
  assert failure(folder)["error"] == "it ended without a summary"


@pytest.mark.parametrize(
  ("code", "error", "exit_code"),
  [
    ("print('10 % done'); print('error: no luck $ here'); print('  more'); exit(2)", "no luck $ here", 2),
    ("print('a $ b'); raise ValueError('seven')", "ValueError: seven", 1),
    ("exit(3)", "it printed nothing", 3),
    ("import os; print('epochs of 20 steps'); os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?)", -9),
    ("import os; print('fine'); os.kill(os.getpid(), 11)", "killed by SIGSEGV", -11),
    ("import os; os.write(1, bytes(range(128, 256)) + b'\\nlast'); exit(1)", "last", 1),
  ],
)
def test_why_a_run_failed_is_written_down(folder, code, error, exit_code):
  carry_out(python("print('error: of the start before'); exit(1)"), folder, None)
  end = carry_out(python(code), folder, None)
  assert (end.outcome, end.error) == (Outcome.FAILED, error)
  assert (failure(folder)["error"], failure(folder)["exit_code"]) == (error, exit_code)


def test_lines_of_the_log_are_not_broken(folder):
  carry_out(python("import rich.console; rich.console.Console().print('error:', 'x' * 300); exit(1)"), folder, None)
  assert failure(folder)["error"] == "x" * 300


@pytest.mark.parametrize("code", ["exit(75)", "exit(143)", "import os; os.kill(os.getpid(), 15)"])
def test_a_run_that_somebody_told_to_stop_has_not_failed(folder, code):
  assert carry_out(python(code), folder, None).outcome is Outcome.STOPPED
  assert not (folder / "failure.json").exists()


def test_a_run_that_we_tell_to_stop_before_it_listens_has_stopped(folder):
  begin = time.monotonic()
  end = carry_out(python("import time; time.sleep(60)"), folder, None, stop=lambda: True)
  assert end.outcome is Outcome.STOPPED
  assert time.monotonic() - begin < 50


def test_a_run_that_fails_while_it_stops_has_failed(folder):
  code = (
    "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: exit('error: disk full')); "
    "open('{}', 'w'); time.sleep(60)"
  )
  ready = folder / "ready"
  end = carry_out(python(code.format(ready)), folder, None, stop=ready.exists)
  assert (end.outcome, end.error) == (Outcome.FAILED, "disk full")


def test_a_time_out_lets_the_run_save_and_counts_as_failed(folder):
  code = "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: exit(75)); time.sleep(60)"
  end = carry_out(python(code), folder, 3.0)
  assert end.outcome is Outcome.FAILED
  assert failure(folder)["exit_code"] == 75
  assert end.error == "stopped after its time-out of 3 s; started again, it goes on"


def test_a_run_that_does_not_stop_is_killed(folder, monkeypatch):
  monkeypatch.setattr(process, "_PATIENCE", 0.5)
  ready = folder / "ready"
  code = f"import signal, time; signal.signal(signal.SIGUSR1, signal.SIG_IGN); open('{ready}', 'w'); time.sleep(60)"
  end = carry_out(python(code), folder, None, stop=ready.exists)
  assert end.outcome is Outcome.FAILED
  assert "did not end within" in end.error


class _TakenBack(BaseException):
  pass


def test_where_the_sweep_is_taken_away_the_run_does_not_stay_and_the_reason_is_not_replaced(folder, monkeypatch):
  monkeypatch.setattr(process, "_PATIENCE", 0.5)
  pid = folder / "pid"
  code = (
    "import os, signal, time; signal.signal(signal.SIGUSR1, signal.SIG_IGN); "
    f"open('{pid}.new', 'w').write(str(os.getpid())); os.rename('{pid}.new', '{pid}'); time.sleep(60)"
  )

  def stop():
    if pid.exists():
      raise _TakenBack
    return False

  with pytest.raises(_TakenBack):
    carry_out(python(code), folder, None, stop)
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid.read_text()), 0)


def test_a_log_that_cannot_be_written_fails_this_run_alone(folder):
  (folder / process.LOG).mkdir()
  end = carry_out(python("exit(0)"), folder, None)
  assert end.outcome is Outcome.FAILED
  assert end.error == f"{folder / process.LOG}: Is a directory"
  assert failure(folder)["error"] == end.error


def test_a_disk_that_takes_nothing_fails_this_run_alone(folder, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(records.folders, "write_whole", full)
  end = carry_out(python("exit('error: lost')"), folder, None)
  assert (end.outcome, end.error) == (Outcome.FAILED, "lost")
  end = carry_out(["/no/such/python"], folder, None)
  assert (end.outcome, end.error) == (Outcome.FAILED, "/no/such/python: No such file or directory")


@pytest.mark.parametrize("name", [lock.SWEEP, lock.RUN])
def test_a_run_that_another_process_is_at_work_on_is_left_to_it(folder, name):
  with lock.held(folder, name):
    end = carry_out(python("exit(1)"), folder, None)
  assert (end.outcome, end.error) == (Outcome.TAKEN, f"process {os.getpid()} on {socket.gethostname()}")
  assert not (folder / process.LOG).exists()
  assert not (folder / "failure.json").exists()


def test_a_run_that_somebody_begins_while_its_process_starts_is_left_to_them(folder):
  code = f"print('error: --out x: process 7 on here {lock.AT_WORK}'); exit(2)"
  assert carry_out(python(code), folder, None).outcome is Outcome.TAKEN
  assert not (folder / "failure.json").exists()


def test_a_run_that_is_carried_out_is_held_against_other_sweeps_and_free_for_its_own_process(folder):
  code = (
    "import pathlib, sys; from dn_jax.system import lock; folder = pathlib.Path(sys.argv[1]); "
    "exit(f'error: {lock.holder(folder, lock.SWEEP)}, {lock.holder(folder, lock.RUN)}')"
  )
  own = f"process {os.getpid()} on {socket.gethostname()}"
  assert carry_out([*python(code), str(folder)], folder, None).error == f"{own}, None"


@pytest.mark.parametrize("name", ["log.txt", "checkpoints", "failure.json", "set-aside"])
def test_a_run_with_a_link_in_its_folder_fails_and_nothing_is_written_through_it(folder, tmp_path, name):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir() if name in ("checkpoints", "set-aside") else elsewhere.write_text("mine")
  before = elsewhere.stat().st_mtime_ns
  (folder / name).symlink_to(elsewhere)
  end = carry_out(python("exit(0)"), folder, None)
  assert (end.outcome, end.error.partition(" is a link")[0]) == (Outcome.FAILED, f"--out {folder}: {name} in it")
  process.write_failure(folder, end.error, None)
  assert elsewhere.stat().st_mtime_ns == before


def test_a_run_that_another_sweep_has_finished_is_not_begun(tmp_path):
  folder = fabricated.finished(tmp_path / "run")
  assert carry_out(python("exit(1)"), folder, None).outcome is Outcome.DONE
  assert not (folder / process.LOG).exists()


@pytest.mark.slow
def test_a_run_dies_with_its_sweep(folder, tmp_path):
  pid = tmp_path / "pid"
  train = (
    "from dn_jax.system import child_processes; child_processes.hold(); import os, time; "
    f"open('{pid}.new', 'w').write(str(os.getpid())); os.rename('{pid}.new', '{pid}'); time.sleep(60)"
  )
  code = (
    "import pathlib, sys; from dn_jax.sweep.process import carry_out; "
    f"carry_out([sys.executable, '-c', {train!r}], pathlib.Path({str(folder)!r}), None)"
  )
  sweep = subprocess.Popen(python(code))
  wait_for(pid, sweep)
  sweep.send_signal(signal.SIGKILL)
  sweep.wait()
  deadline = time.monotonic() + 50  # By itself it ends after 60.
  while os.path.exists(f"/proc/{pid.read_text()}"):
    with open(f"/proc/{pid.read_text()}/stat") as file:
      if file.read().split()[2] == "Z":
        break
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_a_run_is_of_this_package_whatever_lies_where_it_is_started(folder, tmp_path, monkeypatch):
  (tmp_path / "dn_jax.py").write_text("raise SystemExit('error: of another checkout')")
  monkeypatch.chdir(tmp_path)
  assert carry_out((sys.executable, *TRAIN, "--no-such-flag"), folder, None).error.startswith(
    "--no-such-flag: there is no"
  )


def test_a_run_is_one_process_wherever_the_sweep_was_started(folder, monkeypatch):
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
  code = 'import os; exit(f\'error: {sorted(set(os.environ) & {"SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"})}\')'
  assert carry_out(python(code), folder, None).error == "[]"
