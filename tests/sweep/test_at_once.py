"""A sweep that carries out several runs at once on this machine."""

import collections
import os
import signal
import threading
import time

import pytest
import test_runner
from conftest import HANGS
from test_runner import all_done_once, behave, cells, events, quiet, sweep

from dn_jax.runs import collection
from dn_jax.sweep import process, runner
from dn_jax.sweep.process import Outcome
from dn_jax.system import lock
from dn_jax.system.signals import Interrupted

data, sweeps = test_runner.data, test_runner.sweeps  # The fixtures.


def wait_until(true, *processes):
  stop = time.monotonic() + HANGS
  while not true():
    assert all(each.is_alive() for each in processes)
    assert time.monotonic() < stop
    time.sleep(0.01)


def began(data):
  return {seed for seed, event in events(data) if event == "began"}


def in_turn(data):
  """How many runs were under way after each event."""
  counts = [0]
  for _, event in events(data):
    counts.append(counts[-1] + {"began": 1, "finished": -1}.get(event, 0))
  return counts


def test_as_many_runs_as_there_are_lanes_are_under_way_each_in_a_lane_of_its_own(tmp_path, data, monkeypatch):
  behave(data, pause=0.1)
  monkeypatch.setenv("TAKEN", "away")
  lanes = [{"OWN": name, "TAKEN": None} for name in "abc"]
  assert sweep(tmp_path / "out", cells(data, 5), quiet(), runner.Here(lanes)) == []
  all_done_once(tmp_path / "out", data, 5)
  assert max(in_turn(data)) == 3
  found = [test_runner.environment(data, seed) for seed in range(5)]
  assert [each["OWN"] for each in found[:3]] == ["a", "b", "c"]
  assert all(each["OWN"] in "abc" and "TAKEN" not in each for each in found)
  for run in collection.read(tmp_path / "out").runs:
    own = found[run.config.seed]["OWN"]
    assert f" $ OWN={own} " in (run.folder / process.LOG).read_text()


def test_a_stop_saves_all_runs_and_begins_no_other(tmp_path, data):
  behave(data, _0=["slow"], _1=["slow"], _2=["slow"])

  def stop():
    wait_until(lambda: len(began(data)) == 3)
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=stop)
  thread.start()
  with pytest.raises(Interrupted):
    sweep(tmp_path / "out", cells(data, 5), quiet(), runner.Here([{}] * 3))
  thread.join()
  assert sorted(events(data)) == [(seed, event) for seed in "012" for event in ("began", "stopped")]
  assert all(run.failure is None for run in collection.read(tmp_path / "out").runs)
  sweep(tmp_path / "out", cells(data, 5), quiet(), runner.Here([{}] * 3))
  all_done_once(tmp_path / "out", data, 5)


def test_runs_that_fail_or_are_killed_do_not_hold_up_the_others(tmp_path, data):
  behave(data, _0=["fail"], _2=["kill"], pause=0.05)
  failed = sweep(tmp_path / "out", cells(data, 5), quiet(), runner.Here([{}] * 2))
  assert sorted(job.cell.config.seed for job in failed) == [0, 2]
  assert sweep(tmp_path / "out", cells(data, 5), quiet(), runner.Here([{}] * 2)) == []
  all_done_once(tmp_path / "out", data, 5)


def test_a_run_that_somebody_else_stops_stops_the_others_too(tmp_path, data):
  behave(data, _0=["told"], _1=["slow"], _2=["slow"])
  with pytest.raises(Interrupted):
    sweep(tmp_path / "out", cells(data, 4), quiet(), runner.Here([{}] * 3))
  counted = collections.Counter(events(data))
  assert [counted[seed, "stopped"] for seed in "0123"] == [1, 1, 1, 0]
  assert "3" not in began(data)


def test_where_nobody_listens_any_more_every_run_under_way_saves(tmp_path, data):
  behave(data, _1=["slow"], _2=["slow"])
  there = collection.read(tmp_path / "out")
  jobs = runner.jobs_of(cells(data, 4), there, test_runner.stand_in.TRAIN)
  ends = runner.Here([{}] * 3)(jobs, None, lambda: False, lambda _: None)
  job, end = next(ends)
  assert (job.cell.config.seed, end.outcome) == (0, Outcome.DONE)
  wait_until(lambda: len(began(data)) == 3)
  # The first has ended while the others go on: they have no part in its lock.
  assert lock.holder(job.folder, lock.SWEEP) is None
  ends.close()
  counted = collections.Counter(events(data))
  assert [counted[seed, "stopped"] for seed in "12"] == [1, 1]
  assert not any(lock.holder(job.folder, name) for job in jobs for name in (lock.SWEEP, lock.RUN))


@pytest.mark.slow
def test_a_sweep_that_is_killed_with_three_runs_under_way_goes_on(tmp_path, data, sweeps):
  out = tmp_path / "out"
  behave(data, pause=0.2)
  for wanted in (3, 6):
    running = sweeps(out, data, 5, 3)
    wait_until(lambda wanted=wanted: sum(event == "began" for _, event in events(data)) >= wanted, running)
    running.kill()  # Not its runs: they are to end by themselves.
    running.join()
  last = sweeps(out, data, 5, 3)
  last.join()
  assert last.exitcode == 0
  all_done_once(out, data, 5, killed=True)


@pytest.mark.slow
def test_two_sweeps_with_two_lanes_each_share_the_runs(tmp_path, data, sweeps):
  out = tmp_path / "out"
  behave(data, pause=0.1)
  both = [sweeps(out, data, 6, 2) for _ in range(2)]
  for each in both:
    each.join()
    assert each.exitcode == 0
  all_done_once(out, data, 6)
  assert len(list(out.iterdir())) == 6
