"""A sweep under SLURM, for which `slurm_stand_in.py` stands in: what its jobs ask for, how its runs end."""

import collections
import os
import pathlib
import re
import shutil
import signal
import time
import types

import fabricated
import pytest
import slurm_stand_in
import stand_in
import test_runner
from conftest import HANGS, ROOT, metrics
from test_runner import all_done_once, behave, cells, events, quiet

from dn_jax.config.sweep import SLURM, Needs, Submission, Sweep, check_cluster
from dn_jax.errors import ConfigurationError
from dn_jax.runs import collection, records
from dn_jax.sweep import command, runner, slurm
from dn_jax.sweep.cells import cells_of
from dn_jax.sweep.process import Outcome

submitit = pytest.importorskip("submitit", reason="needs submitit: pip install -e '.[slurm]'")

data = test_runner.data  # The fixture.


@pytest.fixture
def jobs(tmp_path, monkeypatch):
  """SLURM's jobs, each a process that finds this tree's package; the sweep looks at them often."""
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
  monkeypatch.setattr(slurm, "_LOOK", 0.05)
  submitit.SlurmJob.watcher.clear()  # Each test's jobs have the same numbers.
  return slurm_stand_in.install(tmp_path / "slurm", monkeypatch)


def asking(out, **asked):
  return Sweep(out=out, cluster=SLURM, **asked)


def sweep(out, data, seeds, said):
  return test_runner.sweep(out, cells(data, seeds), quiet(), slurm.Slurm(asking(out), said.append))


def submitted(jobs):
  return len(list(jobs.glob("*.sh")))


def wait_until(condition):
  until = time.monotonic() + HANGS
  while not condition():
    assert time.monotonic() < until
    time.sleep(0.02)


def test_a_job_asks_sbatch_for_what_the_flags_say(tmp_path, jobs):
  asked = asking(tmp_path, cell=Needs(cpus=8, gpus=2), slurm=Submission("gpu", 90, "vision"))
  check_cluster(asked)
  text = slurm.Slurm(asked, print).executor(tmp_path / "one")._make_submission_file_text("train it", "")
  lines = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in text.splitlines() if "#SBATCH" in line)
  place = tmp_path / "slurm" / "one"
  assert lines.pop("output") == f"{place}/%j_0_log.out"
  assert lines == {
    **{"job-name": "one", "partition": "gpu", "account": "vision", "time": "90", "nodes": "1"},
    **{"cpus-per-task": "8", "gpus-per-node": "2", "signal": "USR1@120", "no-requeue": "", "open-mode": "append"},
    "wckey": "submitit",
  }
  assert text.rstrip().endswith(f"srun --unbuffered --output {place}/%j_%t_log.out train it")
  # What is left open is SLURM's to say.
  text = slurm.Slurm(asking(tmp_path), print).executor(tmp_path / "one")._make_submission_file_text("train it", "")
  assert not {"--partition", "--account", "--time", "--gpus-per-node"} & set(text.replace("=", " ").split())


@pytest.mark.parametrize(
  ("asked", "line"),
  [
    (Sweep(slurm=Submission(minutes=5)), "--slurm.minutes 5: goes with --cluster slurm"),
    (Sweep(cluster="local", slurm=Submission("gpu")), "--slurm.partition gpu: goes with --cluster slurm"),
    (asking(None, cell=Needs(gpus=0.5)), "--cell.gpus 0.5: SLURM gives a job whole ones, at least 0"),
    (asking(None, cell=Needs(cpus=0)), "--cell.cpus 0: SLURM gives a job whole ones, at least 1"),
    (asking(None, cell=Needs(tpus=4)), "--cell.tpus 4: SLURM has no TPUs; 0"),
    (asking(None, at_once=2), "--at-once 2: divides this machine; with --cluster, --cell.gpus"),
  ],
)
def test_flags_that_do_not_go_together_are_refused(asked, line):
  with pytest.raises(ConfigurationError) as error:
    check_cluster(asked)
  assert str(error.value).startswith(line)


def test_a_machine_without_slurm_is_a_line(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(ConfigurationError, match=r"^--cluster slurm: srun is not found; start the sweep on a machine of"):
    slurm.Slurm(asking(tmp_path), print)


def test_a_cluster_without_accounting_is_a_line(tmp_path, jobs):
  (jobs / "accounting").unlink()
  with pytest.raises(ConfigurationError) as error:
    slurm.Slurm(asking(tmp_path), print)
  assert str(error.value) == "--cluster slurm: sacct gives no states (Slurm accounting storage is disabled)"


def test_a_preempted_run_is_submitted_again_and_a_failed_one_is_not(tmp_path, data, jobs):
  behave(data, _0=["told"], _1=["fail"])
  out, said = tmp_path / "out", []
  failed = sweep(out, data, 2, said)
  assert [job.cell.config.seed for job in failed] == [1]
  found = {run.config.seed: run for run in collection.read(out).runs}
  assert (found[0].test_error, found[1].failure.error) == (5.0, "no luck in [/b] $ here")
  assert submitted(jobs) == 3
  done = {("0", "began"): 2, ("0", "stopped"): 1, ("0", "finished"): 1, ("1", "began"): 1}
  assert collections.Counter(events(data)) == done
  assert len(metrics(found[0].folder)) == 3  # The first epoch was not done again.
  assert re.match(r"SLURM: (2|1 \w+, 1) \w+$", said[0])
  assert collection.read(out).skipped == []


def test_a_stop_saves_the_runs_under_way_and_cancels_those_in_the_queue(tmp_path, data, jobs):
  behave(data, _0=["slow"])
  (jobs / "hold").write_text("2")
  out, until = tmp_path / "out", time.monotonic() + HANGS / 4

  def look(job):
    assert time.monotonic() < until

  todo = runner.jobs_of(cells(data, 2), collection.read(out), stand_in.TRAIN)
  ends = slurm.Slurm(asking(out), print)(todo, None, lambda: ("0", "began") in events(data), look)
  assert [end[::2] for _, end in ends] == 2 * [(Outcome.STOPPED, "")]
  assert events(data) == [("0", "began"), ("0", "stopped")]
  assert all(run.failure is None for run in collection.read(out).runs)
  assert (jobs / "2.state").read_text() == "CANCELLED\n"
  assert (jobs / "scancel").read_text() == "--state=PENDING 1 2\n--signal=USR1 1 2\n"


@pytest.mark.parametrize("stopped", [True, False])
def test_a_job_that_sacct_knows_nothing_of_is_not_waited_for_for_ever(
  tmp_path, data, jobs, stopped, monkeypatch, caplog
):
  monkeypatch.setattr(slurm, "_UNCLEAR", 3)
  monkeypatch.setattr(slurm, "_TRIES", 2)
  (jobs / "hold").write_text("1")
  looks = []

  def look(job):
    looks.append(job)
    assert len(looks) < 30

  todo = runner.jobs_of(cells(data, 1), collection.read(tmp_path / "out"), stand_in.TRAIN)
  place = slurm.Slurm(asking(tmp_path / "out"), lambda line: None)
  (jobs / "accounting").unlink()
  ((_, end),) = place(todo, None, lambda: stopped and submitted(jobs) > 0, look)
  if stopped:
    assert (end.outcome, end.error, submitted(jobs)) == (Outcome.STOPPED, "", 1)
  else:
    assert (end.outcome, submitted(jobs)) == (Outcome.FAILED, 2)
    assert end.error.startswith("2 jobs ended without an epoch more, the last one UNKNOWN; ")
  assert len(looks) == 3 * submitted(jobs)
  assert caplog.records == []  # submitit's warnings would stand in the display.


def test_a_run_whose_job_somebody_cancels_is_not_submitted_again(tmp_path, data, jobs):
  behave(data, _0=["slow"])
  out, looks = tmp_path / "out", []

  def look(job):
    # The task saves and is done; SLURM says why a little later.
    if ("0", "began") in events(data) and not looks:
      (jobs / "1.state").write_text("RUNNING")
      os.kill(int((jobs / "1.task").read_text()), signal.SIGTERM)
    if ("0", "stopped") in events(data):
      looks.append(job)
      if len(looks) == 20:
        (jobs / "1.state").write_text("CANCELLED by 1000")

  todo = runner.jobs_of(cells(data, 1), collection.read(out), stand_in.TRAIN)
  ((_, end),) = slurm.Slurm(asking(out), lambda line: None)(todo, None, lambda: False, look)
  assert end[::2] == (Outcome.STOPPED, "job 1 was cancelled")
  assert submitted(jobs) == 1


def test_a_stop_before_anything_is_submitted_cancels_nothing(tmp_path, data, jobs):
  todo = runner.jobs_of(cells(data, 1), collection.read(tmp_path / "out"), stand_in.TRAIN)
  assert list(slurm.Slurm(asking(tmp_path / "out"), pytest.fail)(todo, None, lambda: True, pytest.fail)) == []
  assert not (jobs / "scancel").exists()  # Without a job's number it would be about all of a user's.
  assert submitted(jobs) == 0


def test_a_sweep_started_again_waits_for_the_jobs_of_the_one_that_was_killed(tmp_path, data, jobs):
  class Killed(BaseException):
    pass

  def die(job):
    wait_until(lambda: ("0", "began") in events(data))
    raise Killed

  behave(data, pause=0.5)
  out, said = tmp_path / "out", []
  place = slurm.Slurm(asking(out), said.append)
  first = runner.jobs_of(cells(data, 1), collection.read(out), stand_in.TRAIN)
  with pytest.raises(Killed):
    next(place(first, None, lambda: False, die))
  assert sweep(out, data, 2, said) == []
  assert "SLURM has jobs of an earlier start for 1 of these runs; they are waited for" in said
  assert submitted(jobs) == 2
  all_done_once(out, data, 2)
  assert sweep(out, data, 2, said) == []
  assert submitted(jobs) == 2


def test_the_jobs_of_an_earlier_start_are_asked_for_at_once(tmp_path, data, jobs):
  todo = runner.jobs_of(cells(data, 4), collection.read(tmp_path / "out"), stand_in.TRAIN)
  for number, job in enumerate(todo, 1):
    folder = slurm._jobs_of(job.folder)
    folder.mkdir(parents=True)
    (folder / f"{number}_submitted.pkl").touch()
    (jobs / f"{number}.sh").touch()
    (jobs / f"{number}.state").write_text("COMPLETED")
  before = submitit.SlurmJob.watcher.num_calls
  assert list(slurm.Slurm(asking(tmp_path / "out"), pytest.fail)(todo, None, lambda: True, pytest.fail)) == []
  assert submitit.SlurmJob.watcher.num_calls == before + 1


def test_a_refusal_without_a_word_and_one_of_the_file_system_are_lines(tmp_path, data, jobs):
  out, sbatch = tmp_path / "out", tmp_path / "slurm" / "bin" / "sbatch"
  sbatch.write_text("#!/bin/sh\nexit 1\n")
  with pytest.raises(ConfigurationError, match=r"^--cluster slurm: sbatch refuses: FailedJobError$"):
    sweep(out, data, 1, [])
  shutil.rmtree(out / "slurm")
  (out / "slurm").touch()
  line = rf"^--cluster slurm: a job cannot be submitted: {out}/slurm/\S+: Not a directory; "
  with pytest.raises(ConfigurationError, match=line):
    sweep(out, data, 1, [])


def test_a_refusal_is_a_line_unless_jobs_are_under_way_which_are_waited_for(tmp_path, data, jobs):
  (jobs / "most").write_text("0")
  out, said = tmp_path / "out", []
  with pytest.raises(ConfigurationError, match=r"^--cluster slurm: sbatch refuses: .*not so many$"):
    sweep(out, data, 1, said)
  (jobs / "most").write_text("1")
  wanted = runner.jobs_of(cells(data, 2), collection.read(out), stand_in.TRAIN)
  ends = slurm.Slurm(asking(out), said.append)(wanted, None, lambda: False, lambda job: None)
  assert next(ends)[1].outcome is Outcome.DONE
  assert any(line.endswith(", 1 to submit") for line in said)
  (jobs / "most").write_text("2")
  assert [end.outcome for _, end in ends] == [Outcome.DONE]
  all_done_once(out, data, 2)


def test_a_run_is_submitted_again_as_long_as_it_gets_further(tmp_path):
  folder = fabricated.begun(tmp_path / "run", epochs=1)
  handle = types.SimpleNamespace(state="TIMEOUT", job_id="7")
  run = slurm._Run(runner.Job(None, folder, ()), 1, None, handle)
  for tries in range(1, slurm._TRIES):
    run.tries = tries
    assert slurm._end(run, False) is None
  run.tries = slurm._TRIES
  end = slurm._end(run, False)
  assert end.outcome is Outcome.FAILED
  assert end.error.startswith(f"{slurm._TRIES} jobs ended without an epoch more, the last one TIMEOUT; ")
  run.epochs = 0
  assert slurm._end(run, False) is None
  assert run.tries == 0
  # An earlier failure is not that of this job, nor what somebody cancelled one.
  run.failed = records.Failure("long ago", 1, "then")
  records.write_failure(folder, run.failed)
  handle.state = "CANCELLED by 1000"
  assert slurm._end(run, False)[::2] == (Outcome.STOPPED, "job 7 was cancelled")
  records.write_failure(folder, records.Failure("just now", 1, "now"))
  assert slurm._end(run, False)[::2] == (Outcome.FAILED, "just now")


@pytest.mark.slow
@pytest.mark.thorough
def test_real_runs_under_submitits_local_executor_go_on_after_their_jobs_are_killed(tmp_path, jobs):
  flags = "--data.name digits --model.depth 7 --model.growth-rate 4 --model.no-bottleneck --epochs 2"
  wanted = cells_of([*flags.split(), "--optimizer.learning-rate", "0.1,0.05"])
  out, said, killed = tmp_path / "out", [], []
  place = slurm.Slurm(asking(out), said.append, "local")

  def kill(job):
    if job.folder not in killed and runner.epochs_done(job.folder):
      killed.append(job.folder)
      who = (job.folder / "run.lock").read_text().split()[1]
      os.kill(int(re.search(r"PPid:\s+(\d+)", pathlib.Path(f"/proc/{who}/status").read_text())[1]), signal.SIGKILL)

  there = collection.read(out)
  todo = runner.jobs_of(wanted, there, command.TRAIN)
  ends = [end for _, end in place(todo, None, lambda: False, kill)]
  assert [end.outcome for end in ends] == 2 * [Outcome.DONE]
  assert len(killed) == 2
  assert {len(metrics(run.folder)) for run in collection.read(out).runs} == {2}
