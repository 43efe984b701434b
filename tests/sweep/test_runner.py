"""A sweep carried out here: every run once, whatever befalls it. `stand_in_train.py` stands in for train.py."""

import collections
import json
import multiprocessing
import os
import pathlib
import random
import re
import signal
import sys
import threading
import time
from multiprocessing import forkserver

import fabricated
import pytest
import rich.console
import stand_in
from conftest import ROOT

from dn_jax.runs import collection, records
from dn_jax.sweep import runner
from dn_jax.sweep.cells import cells_of
from dn_jax.sweep.display import Display
from dn_jax.system.signals import Interrupted

# The sweep of `cells`, as a process from its start: OUT DATA SEEDS [CLUSTER [RETRIES]].
SWEEP = """
import pathlib, sys
import rich.console
sys.path[:0] = [{tests!r}, {tests!r} + "/sweep"]
import test_runner
out, data, seeds, *more = sys.argv[1:]
place = test_runner.runner.Here()
if more:
  from dn_jax.sweep import cluster
  cluster._RETRIES = int(more[1]) if more[1:] else cluster._RETRIES
  place = cluster.Cluster(more[0], cluster.Needs())
console = rich.console.Console(width=300)
test_runner.sweep(pathlib.Path(out), test_runner.cells(pathlib.Path(data), int(seeds)), console, place)
""".format(tests=str(ROOT / "tests"))


def cells(data, seeds):
  flags = "--data.name digits --model.depth 10 --model.growth-rate 4 --epochs 3 --data.dir"
  return cells_of([*flags.split(), str(data)], seeds)


def sweep(out, wanted, console, place=runner.Here()):
  there = collection.read(out)
  missing = runner.missing(wanted, there)
  display = Display(console, {cell.key: 1.0 for cell in missing})
  return runner.sweep(runner.jobs_of(missing, there, stand_in.TRAIN), place, None, display)


def quiet():
  return rich.console.Console(file=open(os.devnull, "w"), width=300)


def events(data):
  path = data / "events.txt"
  return [tuple(line.split()[1:]) for line in path.read_text().splitlines()] if path.exists() else []


def environment(data, seed):
  """Of a run."""
  return json.loads((data / f"environment-{seed}.json").read_text())


def behave(data, **behaviour):
  (data / "behaviour.json").write_text(json.dumps({name.lstrip("_"): words for name, words in behaviour.items()}))


@pytest.fixture
def data(tmp_path):
  return stand_in.prepare(tmp_path / "data")


def apart(out, data, seeds, at_once=1):
  """The body of a process that carries the sweep of `cells` out, so many runs at once."""
  os.setsid()
  sweep(out, cells(data, seeds), quiet(), runner.Here([{}] * at_once))


@pytest.fixture(scope="module")
def sweeps():
  """What begins a sweep as a process of its own, of one that has imported what each needs: else that takes seconds."""
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload([__name__])
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # Python 3.12 does not hand the path on to it.
    forkserver.ensure_running()
  begun = []

  def begin(*arguments):
    begun.append(context.Process(target=apart, args=arguments))
    begun[-1].start()
    return begun[-1]

  yield begin
  for process in begun:
    process.kill()
    process.join()
  forkserver._forkserver._stop()


def all_done_once(out, data, seeds, killed=False):
  """Checks the records and events of a sweep's runs; one that was killed may have had no time for its last event."""
  found = collection.read(out)
  assert {run.config.seed: run.test_error for run in found.runs} == {seed: 5.0 + seed for seed in range(seeds)}
  counted = collections.Counter(events(data))
  assert all(counted[str(seed), "finished"] in ((0, 1) if killed else (1,)) for seed in range(seeds)), counted
  assert not [event for event in counted if event[1] in ("clash", "again")]
  assert found.skipped == []
  for run in found.runs:
    assert [record.epoch for record in records.read_records(run.folder)] == [1, 2, 3]


def test_a_failed_run_is_recorded_and_the_rest_go_on_and_a_new_start_does_what_is_missing(tmp_path, data):
  behave(data, _0=["fail"], _1=["kill"])
  out = tmp_path / "out"
  failed = sweep(out, cells(data, 3), quiet())
  assert [job.cell.config.seed for job in failed] == [0, 1]
  found = {run.config.seed: run for run in collection.read(out).runs}
  assert found[0].failure.error == "no luck in [/b] $ here"
  assert found[1].failure.error == "killed by SIGKILL (out of memory?)"
  assert found[2].test_error == 7.0
  assert sweep(out, cells(data, 3), quiet()) == []
  all_done_once(out, data, 3)
  # Nothing is missing, so nothing begins.
  before = events(data)
  assert sweep(out, cells(data, 3), quiet()) == []
  assert events(data) == before


def test_runs_that_failed_before_come_last(tmp_path):
  wanted = cells(tmp_path, 4)
  fabricated.failed(tmp_path / "a", wanted[0].config)
  fabricated.begun(tmp_path / "b", wanted[1].config)
  fabricated.finished(tmp_path / "c", wanted[2].config)
  left = runner.missing(wanted, collection.read(tmp_path))
  assert [cell.config.seed for cell in left] == [1, 3, 0]


def test_jobs_have_absolute_paths_wherever_the_sweep_was_started(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  wanted = cells("data", 2)
  jobs = runner.jobs_of(wanted, collection.read(pathlib.Path("out")), stand_in.TRAIN)
  for job in jobs:
    assert job.folder == tmp_path / "out" / job.folder.name
    command = list(job.command)
    assert command[command.index("--out") + 1] == str(job.folder)
    assert command[command.index("--data.dir") + 1] == str(tmp_path / "data")
    assert records.read_config(job.folder) == job.cell.config


def test_a_damaged_run_is_done_again_beside_and_not_touched(tmp_path, data):
  out = tmp_path / "out"
  sweep(out, cells(data, 1), quiet())
  (folder,) = out.iterdir()
  summary = folder / "summary.json"
  summary.write_bytes(summary.read_bytes()[:50])
  before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  sweep(out, cells(data, 1), quiet())
  assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
  found = collection.read(out)
  assert [run.folder for run in found.runs] == [out / f"{folder.name}-2"]
  assert [line for line in found.skipped if str(summary) in line]


def test_a_run_that_another_sweep_has_is_waited_for_and_not_done_twice(tmp_path, data, sweeps):
  out = tmp_path / "out"
  behave(data, pause=0.5)
  first = sweeps(out, data, 1)
  while ("0", "began") not in events(data):
    assert first.is_alive()
    time.sleep(0.01)
  with (tmp_path / "printed").open("w+") as file:
    assert sweep(out, cells(data, 2), rich.console.Console(file=file, width=300)) == []
    file.seek(0)
    printed = file.read()
  first.join()
  assert first.exitcode == 0
  assert re.search(r"seed0  process \d+ on \S+ is at work on it; it is waited for", printed)
  assert printed.index("seed1  6.00 % test error") < printed.index("seed0  5.00 % test error")
  all_done_once(out, data, 2)


def test_sweeps_that_begin_at_the_same_time_share_the_runs(tmp_path, data, sweeps):
  out = tmp_path / "out"
  behave(data, pause=0.05)
  both = [sweeps(out, data, 3) for _ in range(2)]
  for process in both:
    process.join()
    assert process.exitcode == 0
  all_done_once(out, data, 3)
  assert len(list(out.iterdir())) == 3


def test_a_stop_saves_the_run_and_begins_no_other(tmp_path, data):
  out = tmp_path / "out"
  behave(data, _0=["slow"])
  wanted = cells(data, 2)

  def stop():
    while ("0", "began") not in events(data):
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=stop)
  thread.start()
  with pytest.raises(Interrupted):
    sweep(out, wanted, quiet())
  thread.join()
  assert events(data) == [("0", "began"), ("0", "stopped")]
  assert all(run.failure is None for run in collection.read(out).runs)
  sweep(out, wanted, quiet())
  all_done_once(out, data, 2)


@pytest.mark.slow
def test_a_sweep_killed_at_any_time_goes_on_where_it_was(tmp_path, data, sweeps):
  out, seeds, rng = tmp_path / "out", 4, random.Random(0)
  behave(data, pause=0.2)
  for number in range(4):
    before = len(events(data))
    process = sweeps(out, data, seeds)
    # Every other time at any moment of a run, which on a busy machine begins late.
    while number % 2 and process.is_alive() and len(events(data)) == before:
      time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 1.0))
    process.kill()  # Not its runs: they are to end by themselves.
    process.join()
  last = sweeps(out, data, seeds)
  last.join()
  assert last.exitcode == 0
  all_done_once(out, data, seeds, killed=True)
