"""A sweep under SLURM, each run a job of its own, by submitit."""

import collections
import contextlib
import dataclasses
import functools
import logging
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dn_jax.config.sweep import SLURM, Sweep
from dn_jax.errors import ConfigurationError, first_line, in_a_line, reason
from dn_jax.runs import collection, records
from dn_jax.sweep.process import End, Outcome, carry_out
from dn_jax.sweep.runner import Job, epochs_done
from dn_jax.system import folders, signals

# Seconds between two looks at the jobs, and those that a run has to save in before its time limit.
_LOOK, _NOTICE = 2.0, 120
# For so many looks in a row it may be unclear what became of a job: sacct lags behind.
_UNCLEAR = 30
# How often a run is submitted without getting an epoch further.
_TRIES = 6
# Minutes of a job of the local stand-in, which wants a limit.
_LOCAL_MINUTES = 60
_ASK = signals.ASK.name.removeprefix("SIG")


@dataclasses.dataclass
class _Run:
  """A run on its way.

  epochs:  done before its newest job
  failed:  its failure before that
  handle:  submitit's of the newest job; None before the first
  tries:   jobs since it last got further
  unclear: looks in a row at which SLURM did not say what became of the job
  """

  job: Job
  epochs: int
  failed: records.Failure | None
  handle: Any = None
  tries: int = 0
  unclear: int = 0
  begin: float = dataclasses.field(default_factory=time.monotonic)


class Slurm:
  """A `Place` (`dn_jax.sweep.runner`): the nodes that SLURM gives.

  A run that is preempted or comes to its time limit saves, and is submitted again. A stop has the runs under way save,
  and cancels queued jobs. If this process is killed, its jobs go on, and the next sweep waits for them.

  Args:
    sweep: says what a job asks for.
    say: prints a line.
    executor: submitit's name for what carries jobs out; "local" stands in for SLURM.

  Raises:
    ConfigurationError: submitit is not installed, this machine has no SLURM, or one without accounting, or `--out` is
      a bucket's.
  """

  def __init__(self, sweep: Sweep, say: Callable[[str], None], executor: str = SLURM):
    try:
      import submitit
    except ImportError:
      raise ConfigurationError("cluster", SLURM, "needs an extra: pip install -e '.[slurm]'") from None
    if folders.is_bucket(sweep.out):
      raise ConfigurationError("out", sweep.out, "with --cluster slurm it is a folder that all nodes see")
    self._sweep, self._say = sweep, say
    self._kind = submitit.SlurmExecutor if executor == SLURM else submitit.LocalExecutor
    if self._kind is submitit.SlurmExecutor and self._kind.affinity() <= 0:
      raise ConfigurationError("cluster", SLURM, "srun is not found; start the sweep on a machine of the cluster")
    if self._kind is submitit.SlurmExecutor and (why := _no_states()) is not None:
      raise ConfigurationError("cluster", SLURM, f"sacct gives no states ({why})")
    logging.getLogger("submitit").setLevel(logging.ERROR)  # It warns, in the display, at each look that fails.

  def __call__(
    self, jobs: Sequence[Job], time_out: float | None, stop: Callable[[], bool], look: Callable[[Job], None]
  ) -> Iterator[tuple[Job, End]]:
    runs = [_Run(job, epochs_done(job.folder), _failure(job.folder), self._earlier(job)) for job in jobs]
    _look(runs)
    for run in runs:
      if run.handle and _done(run.handle):
        run.handle = None
    left = collections.deque(run for run in runs if not run.handle)
    under_way = [run for run in runs if run.handle]
    if under_way:
      self._say(f"SLURM has jobs of an earlier start for {len(under_way)} of these runs; they are waited for")
    asked, full, said = False, False, ""
    while under_way or (left and not asked):
      while left and not full and not stop():
        try:
          self._submit(left[0], time_out)
        except ConfigurationError:
          if not under_way:
            raise
          full = True  # At a limit on a user's jobs, say, until one has ended.
        else:
          under_way.append(left.popleft())
      if not asked and stop():
        asked = True
        if under_way:  # Without a job's number, scancel takes all of the user's.
          _cancel(under_way)
      if under_way and (now := _states(under_way, len(left))) != said:
        self._say(said := now)
      time.sleep(_LOOK)
      if asked or any(run.unclear for run in under_way):
        _look(under_way)
      for run in list(under_way):
        if not _ended(run, asked):
          look(run.job)
          continue
        under_way.remove(run)
        full = False
        if end := _end(run, asked):
          yield run.job, end
        else:
          left.append(run)

  def executor(self, folder: pathlib.Path) -> Any:
    """submitit's executor for the job of a run's folder."""
    # Beside the runs, since it leaves links. -P: nothing is imported from the folder that the sweep was started in.
    executor = self._kind(_jobs_of(folder), python=f"{shlex.quote(sys.executable)} -P")
    asked, cell = self._sweep.slurm, self._sweep.cell
    if self._kind.name() != SLURM:
      executor.update_parameters(timeout_min=asked.minutes or _LOCAL_MINUTES, stderr_to_stdout=True)
      return executor
    executor.update_parameters(
      job_name=folder.name,
      partition=asked.partition,
      account=asked.account,
      time=asked.minutes,
      cpus_per_task=int(cell.cpus),
      gpus_per_node=int(cell.gpus) or None,
      stderr_to_stdout=True,
      # SLURM would requeue a preempted job itself, beside ours. A run takes this signal any number of times.
      additional_parameters={"no-requeue": True, "signal": f"{_ASK}@{_NOTICE}"},
    )
    return executor

  def _submit(self, run: _Run, time_out: float | None) -> None:
    """Submits a run.

    Raises:
      ConfigurationError: sbatch refuses it, or what it is given cannot be written.
    """
    from submitit.core import utils

    folder = run.job.folder
    run.epochs, run.failed = epochs_done(folder), _failure(folder)
    try:
      run.handle = self.executor(folder).submit(_task, run.job.command, folder, time_out)
    except (utils.FailedJobError, utils.FailedSubmissionError) as error:
      raise ConfigurationError("cluster", SLURM, f"sbatch refuses: {_last(str(error)) or first_line(error)}") from None
    except OSError as error:
      why = in_a_line(error) or reason(error)
      raise ConfigurationError("cluster", SLURM, f"a job cannot be submitted: {why}") from None
    run.tries += 1
    run.unclear = 0

  def _earlier(self, job: Job) -> Any:
    """The newest job of a run that an earlier sweep submitted; None where there is none."""
    folder = _jobs_of(job.folder)
    numbers = [int(name) for path in folder.glob("*_submitted.pkl") if (name := path.name.split("_")[0]).isdecimal()]
    if not numbers or self._kind.name() != SLURM:  # The local one knows its own processes alone.
      return None
    return self._kind.job_class(folder, str(max(numbers)))


def _no_states() -> str | None:
  """Why sacct gives no states, as where SLURM keeps no accounts; None: it gives them."""
  try:
    asked = subprocess.run(
      ["sacct", "--format=JobID,State"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
  except OSError as error:
    return reason(error)
  return (_last(asked.stderr) or f"exit code {asked.returncode}") if asked.returncode else None


def _last(text: str) -> str:
  """The last line of what a command printed; empty where it printed none."""
  return (text.strip().splitlines() or [""])[-1].strip()


def _look(runs: Sequence[_Run]) -> None:
  """Has submitit, whose states are up to ten minutes old, ask for them now."""
  if handle := next((run.handle for run in runs if run.handle), None):
    handle.get_info(mode="force")  # Of one job; it is about all of them.


def _done(handle: Any) -> bool:
  """Whether a job has ended; submitit, which has jobs requeued, waits for a preempted one."""
  return handle.done() or handle.state == "PREEMPTED"


def _ended(run: _Run, asked: bool) -> bool:
  """Whether a run's job has ended and it is known how, or SLURM has not said what became of it for `_UNCLEAR` looks."""
  done, state = _done(run.handle), run.handle.state
  if done and (asked or _recorded(run)):
    return True
  # A job's result is there before SLURM's word on its end, such as that somebody cancelled it.
  if state != "UNKNOWN" and not (done and state in ("PENDING", "RUNNING", "COMPLETING")):
    run.unclear = 0
    return done
  run.unclear += 1
  return run.unclear > _UNCLEAR


def _jobs_of(folder: pathlib.Path) -> pathlib.Path:
  """submitit's folder for a run's: what each job was given, and what it printed beside the run's own log."""
  return folder.parent / collection.JOBS / folder.name


def _states(runs: Sequence[_Run], left: int) -> str:
  """The states of jobs in a line."""
  counted = collections.Counter(run.handle.state.split()[0].lower() for run in runs)
  to_submit = [f"{left} to submit"] if left else []
  return "SLURM: " + ", ".join([*(f"{number} {state}" for state, number in sorted(counted.items())), *to_submit])


def _end(run: _Run, asked: bool) -> End | None:
  """How a run ended whose job has, by the run's records; None: it is to be submitted again.

  Args:
    run: whose job has ended.
    asked: whether the sweep was told to stop.
  """
  if end := _recorded(run):
    return end
  seconds, folder = time.monotonic() - run.begin, run.job.folder
  if asked:
    return End(Outcome.STOPPED, seconds)
  state = run.handle.state
  if state.startswith("CANCELLED"):
    return End(Outcome.STOPPED, seconds, f"job {run.handle.job_id} was cancelled")
  if epochs_done(folder) > run.epochs:
    run.tries = 0
  if run.tries < _TRIES:
    return None
  error = f"{_TRIES} jobs ended without an epoch more, the last one {state}; started again, it goes on"
  return End(Outcome.FAILED, seconds, f"{error}; see {_jobs_of(folder)}")


def _recorded(run: _Run) -> End | None:
  """The end of a run that its records tell; None where they have none."""
  seconds, folder = time.monotonic() - run.begin, run.job.folder
  with contextlib.suppress(records.RunError):
    if records.read_summary(folder):
      return End(Outcome.DONE, seconds)
  failed = _failure(folder)
  if failed and failed != run.failed:
    return End(Outcome.FAILED, seconds, failed.error)
  return None


def _failure(folder: pathlib.Path) -> records.Failure | None:
  with contextlib.suppress(records.RunError):
    return records.read_failure(folder)
  return None


def _cancel(runs: Sequence[_Run]) -> None:
  """Has SLURM cancel the jobs that are queued, and ask the others to save."""
  for how in ("--state=PENDING", f"--signal={_ASK}"):
    with contextlib.suppress(OSError):
      subprocess.run(
        ["scancel", how, *(run.handle.job_id for run in runs)], stdin=subprocess.DEVNULL, capture_output=True
      )


def _task(command: Sequence[str], folder: pathlib.Path, time_out: float | None) -> str:
  """Takes a run to its end, or until SLURM asks it to stop, on a node; returns how that ended."""
  asked: list[int] = []
  for number in (signals.ASK, signal.SIGTERM):  # A notice of the time limit, or ours; and of a preemption.
    signal.signal(number, lambda number, _: asked.append(number))
  carry = functools.partial(carry_out, (sys.executable, *command), folder, time_out, lambda: bool(asked))
  while (end := carry()).outcome is Outcome.TAKEN and not asked:  # By a process of a lost job, which is just ending.
    time.sleep(_LOOK)
  return end.outcome.value
