"""A sweep from its cells to its runs."""

import contextlib
import io
import os
import re
import threading

import fabricated
import pytest
import read_only
import rich.console
import stand_in
import test_runner
from test_runner import behave, events

from dn_jax.commands import command_line
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.report import ablation
from dn_jax.sweep import accelerators, cluster, command, forecast, memory, runner
from dn_jax.sweep.accelerators import Accelerators
from dn_jax.sweep.cells import cells_of
from dn_jax.system import lock
from dn_jax.system.signals import Interrupted

data = test_runner.data  # The fixture.


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  """Training a network takes a second."""
  monkeypatch.setattr(command, "TRAIN", stand_in.TRAIN)


def carry_out(out, cells, **flags):
  console = rich.console.Console(file=io.StringIO(), width=250)
  flags = command.Sweep(**({"out": out} | flags))
  return command.carry_out(cells, flags, [], console), console.file.getvalue()


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, data):
  done, printed = carry_out(tmp_path / "[/b]", test_runner.cells(data, 2), dry_run=True)
  assert done is None
  assert f"1 cell, 2 runs, in {tmp_path}/[/b]" in printed
  assert not (tmp_path / "[").exists()


def test_a_sweep_gives_its_runs_back_and_those_of_another_in_the_same_folder_stay_out(tmp_path, data):
  carry_out(tmp_path / "out", test_runner.cells(data, 1))
  done, printed = carry_out(tmp_path / "out", test_runner.cells(data, 2)[1:])
  assert [(run.config.seed, run.test_error) for run in done] == [(1, 6.0)]
  assert "1/1" in printed


def test_a_missing_file_of_weights_is_refused_before_the_plan_unless_its_run_has_begun(tmp_path, data):
  flags = "--data.name digits --model.depth 10 --model.growth-rate 4 --epochs 3 --reset-classifier"
  cells = cells_of([*flags.split(), "--data.dir", str(data), "--weights", str(tmp_path / "w.pth")])
  with pytest.raises(ConfigurationError, match=r"--weights .*w\.pth: there is no such file"):
    carry_out(tmp_path / "out", cells, dry_run=True)
  (fabricated.begun(tmp_path / "out" / "one", cells[0].config) / "checkpoints").mkdir()
  assert "1 cell, 1 run" in carry_out(tmp_path / "out", cells, dry_run=True)[1]


def test_a_cluster_is_tried_before_the_plan_and_not_at_all_where_nothing_is_missing(tmp_path, data, monkeypatch):
  cells = test_runner.cells(data, 1)
  with monkeypatch.context() as patch:
    patch.setattr(forecast, "look", lambda *_: pytest.fail("planned before the cluster was tried"))
    with pytest.raises(ConfigurationError, match="--cluster nowhere: local, auto, or HOST:PORT"):
      carry_out(tmp_path / "out", cells, cluster="nowhere")
  carry_out(tmp_path / "out", cells, cluster="nowhere", dry_run=True)
  carry_out(tmp_path / "out", cells)
  done, _ = carry_out(tmp_path / "out", cells, cluster="nowhere")
  assert done[0].test_error == 5.0


def test_a_cluster_is_left_whatever_happens(tmp_path, data, monkeypatch):
  closed = []

  class Place:
    def __init__(self, address, needs):
      pass

    def close(self):
      closed.append(True)

  monkeypatch.setattr(command, "Cluster", Place)
  monkeypatch.setattr(forecast, "look", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
  with pytest.raises(KeyboardInterrupt):
    carry_out(tmp_path / "out", test_runner.cells(data, 1), cluster=cluster.LOCAL)
  assert closed == [True]


def test_a_sweep_that_was_stopped_says_what_shows_what_is_done(tmp_path, data, monkeypatch):
  def stopped(*_):
    raise Interrupted("stopped, and saved")

  monkeypatch.setattr(runner, "sweep", stopped)
  with pytest.raises(
    Interrupted, match=r"stopped, and saved; 'python experiments/report\.py '.*/o u t'' shows what is done"
  ):
    carry_out(tmp_path / "o u t", test_runner.cells(data, 1))


def test_a_failed_run_is_given_back_with_its_reason(tmp_path, data):
  behave(data, _0=["fail"])
  done, printed = carry_out(tmp_path / "out", test_runner.cells(data, 1))
  assert done[0].failure.error == "no luck in [/b] $ here"
  assert "failed: no luck in [/b] $ here" in printed
  assert events(data) == [("0", "began")]


@pytest.mark.parametrize(
  ("words", "nth", "where"), [("config.json", 6, "_seed1_"), ("sweep.lock", 1, "/report"), ("log.txt", 2, "/report")]
)
def test_a_disk_that_turns_read_only_ends_a_sweep_in_a_line_and_it_goes_on(tmp_path, data, capsys, words, nth, where):
  cells, out = test_runner.cells(data, 3), tmp_path / "out"
  table = lambda runs: ablation.table(ablation.cells_of(runs), "")
  with read_only.turning(out, words, nth) as disk, pytest.raises(SystemExit) as end:
    command_line.main(lambda: command.run(cells, command.Sweep(out=out), [], table, test_runner.quiet()))
  assert disk.is_read_only
  said = capsys.readouterr().err
  assert (end.value.code, said.count("\n")) == (2, 1), said
  assert re.match(f"error: --out {out}.*{where}.*: cannot be written \\(Read-only file system", said)
  done, _ = carry_out(out, cells)
  assert [run.test_error for run in done] == [5.0, 6.0, 7.0]
  assert [seed for seed, event in events(data) if event == "began"] == ["0", "1", "2"]


@pytest.fixture
def gpus(monkeypatch):
  """A machine with two."""
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.setattr(accelerators, "count", lambda: Accelerators("cuda", "NVIDIA H100", 2))


@pytest.mark.usefixtures("gpus")
def test_every_accelerator_of_this_machine_has_a_run(tmp_path, data):
  behave(data, pause=0.1)
  done, printed = carry_out(tmp_path / "out", test_runner.cells(data, 2))
  assert [run.test_error for run in done] == [5.0, 6.0]
  assert [test_runner.environment(data, seed)["CUDA_VISIBLE_DEVICES"] for seed in (0, 1)] == ["0", "1"]
  assert [event for _, event in events(data)][:2] == ["began", "began"]
  assert "2 x NVIDIA H100: 2 runs at once, each on 1" in printed


@pytest.mark.usefixtures("gpus")
def test_the_plan_is_of_the_devices_that_a_run_has(tmp_path, data, monkeypatch):
  asked = []
  monkeypatch.setattr(memory, "ask", lambda configs, *_: asked.extend(configs) or ([(2**20, "")], "1 x NVIDIA H100"))
  cells = test_runner.cells(data, 1)
  carry_out(tmp_path / "out", cells, memory=True, dry_run=True)
  carry_out(tmp_path / "out", cells, memory=True, dry_run=True, devices_per_run=2)
  assert [config.devices for config in asked] == [1, 2]


@pytest.mark.usefixtures("gpus")
def test_more_runs_at_once_than_accelerators_are_refused_before_anything_is_written(tmp_path, data):
  with pytest.raises(
    ConfigurationError, match="--at-once 3: this machine has 2 x NVIDIA H100, and each run takes 1; at most 2"
  ):
    carry_out(tmp_path / "out", test_runner.cells(data, 1), at_once=3)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [{}, {"dry_run": True}, {"cluster": "nowhere", "dry_run": True}])
def test_accelerators_are_counted_only_where_the_answer_matters(tmp_path, data, monkeypatch, flags):
  monkeypatch.setattr(accelerators, "count", lambda: pytest.fail("counted"))
  if flags:  # Else JAX_PLATFORMS=cpu says enough.
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  carry_out(tmp_path / "out", test_runner.cells(data, 1), **flags)
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  if not flags:  # Nothing is missing any more.
    carry_out(tmp_path / "out", test_runner.cells(data, 1), at_once=9)


@pytest.mark.parametrize("name", [lock.RUN, lock.SWEEP])
def test_a_sweep_with_no_run_but_anothers_is_told_at_once_who_is_at_work(tmp_path, data, monkeypatch, name):
  cells = test_runner.cells(data, 2)
  carry_out(tmp_path / "out", cells[:1])
  folder = fabricated.begun(tmp_path / "out" / "other", cells[1].config)
  monkeypatch.setattr(forecast, "look", lambda *_: pytest.fail("planned first"))
  with lock.held(folder, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=rf"--out {folder}: process {os.getpid()} on .* is at work on this run; wait"):
      carry_out(tmp_path / "out", cells)
  assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_whose_run_is_anothers_for_a_moment_begins_it(tmp_path, data):
  cells = test_runner.cells(data, 1)
  folder = fabricated.begun(tmp_path / "out" / "other", cells[0].config)
  with contextlib.ExitStack() as stack:
    stack.enter_context(lock.held(folder, lock.RUN))
    threading.Timer(0.5, stack.pop_all().close).start()
    done, _ = carry_out(tmp_path / "out", cells)
  assert [run.test_error for run in done] == [5.0]
