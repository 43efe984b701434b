"""One run of a sweep, in its own process, with its own log and time-out."""

import contextlib
import datetime
import enum
import os
import pathlib
import shlex
import signal
import subprocess
import tempfile
import time
import types
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import IO, NamedTuple

from dn_jax.distributed import processes
from dn_jax.errors import ConfigurationError
from dn_jax.runs import records
from dn_jax.system import child_processes, folders, lock, signals

LOG = "log.txt"
# Seconds between two looks at a process, and from asking it to stop to killing it.
LOOK, _PATIENCE = 0.2, 300.0
# Exit codes of a process that was told to stop and did not save: it did not listen yet, or was told twice.
_TOLD = {code for number in (signal.SIGTERM, signal.SIGINT, signals.ASK) for code in (-number, 128 + number)}
# Columns of a log, so that no line is broken.
_WIDE = "500"


class Outcome(enum.Enum):
  """How a run's process ended."""

  DONE = "done"
  STOPPED = "stopped"
  FAILED = "failed"
  TAKEN = "taken"


class End(NamedTuple):
  """How a run ended.

  outcome: STOPPED: somebody told it to stop; TAKEN: another process is at work on it
  seconds: that it took
  error:   a line, if it failed or stopped without saving; who has it, if it is taken
  """

  outcome: Outcome
  seconds: float = 0.0
  error: str = ""


# A run that is carried out: it looks at its process whenever it is advanced, and returns how that ended.
Run = Generator[None, None, End]


def carry_out(
  command: Sequence[str], folder: pathlib.Path, time_out: float | None, stop: Callable[[], bool] = lambda: False
) -> End:
  """Carries one run out, and waits for its end; see `begin`."""
  with contextlib.closing(begin(command, folder, time_out, stop)) as run:
    while (end := advance(run)) is None:
      time.sleep(LOOK)
    return end


def advance(run: Run) -> End | None:
  """Looks at a run once: how it ended; None while it is under way."""
  try:
    next(run)
  except StopIteration as stop:
    return stop.value
  return None


def begin(
  command: Sequence[str],
  folder: pathlib.Path,
  time_out: float | None,
  stop: Callable[[], bool],
  environment: Mapping[str, str | None] = types.MappingProxyType({}),
) -> Run:
  """Runs a command; its output goes to the folder's log, the reason of a failure to failure.json.

  The process starts when the run is first advanced. It saves and ends when the run is closed before its end.

  Args:
    command: trains a run in that folder, from its newest checkpoint.
    folder: of the run; exists.
    time_out: seconds after which the run is asked to save and end, and counts as failed; None: no limit.
    stop: asked again and again; once true, the run is asked to save and end.
    environment: variables that the process has in place of ours; None: it lacks the variable.
  """
  since = time.monotonic()

  def end(outcome: Outcome, error: str = "") -> End:
    return End(outcome, time.monotonic() - since, error)

  try:
    with lock.held(folder, lock.SWEEP):
      # A person's, or that of a sweep which was killed and whose runs are about to end.
      if who := lock.holder(folder, lock.RUN):
        return end(Outcome.TAKEN, who)
      if _finished(folder):  # Another sweep did it after this one looked.
        return end(Outcome.DONE)
      records.check_own(folder)
      records.write_failure(folder, None)
      with _log_of(folder) as path:
        with folders.append_to(path) as log:
          own = [f"{name}={value}" for name, value in environment.items() if value is not None]
          line = f"\n{now()} $ {shlex.join([*own, *command])}\n"
          log.write(line.encode(errors="backslashreplace"))
          log.flush()
          said_from = log.tell()
          process = _start(command, log, environment)
          ended_by_us = yield from _watch(process, time_out, stop)
        exit_code = process.returncode
        said = last_words(path, said_from) if exit_code else "it ended without a summary"
      if _finished(folder):  # Even if it failed afterwards.
        return end(Outcome.DONE)
      if not ended_by_us and exit_code == signals.EXIT_CODE:
        return end(Outcome.STOPPED)
      if not ended_by_us and exit_code in _TOLD:
        return end(Outcome.STOPPED, "without saving; it goes on from its last checkpoint")
      if exit_code == 2 and said.endswith(lock.AT_WORK):  # Somebody was faster.
        return end(Outcome.TAKEN, lock.holder(folder, lock.RUN) or "another process")
      error = ended_by_us or killed_by(exit_code) or said
      write_failure(folder, error, exit_code)
      return end(Outcome.FAILED, error)
  except lock.TakenError as taken:
    return end(Outcome.TAKEN, taken.who)
  except ConfigurationError as refused:  # A link in the folder: nothing is written there.
    return end(Outcome.FAILED, str(refused))
  except OSError as refused:  # A full disk, say; the other runs go on.
    error = f"{refused.filename or folder}: {refused.strerror or refused}"
    write_failure(folder, error, None)
    return end(Outcome.FAILED, error)


@contextlib.contextmanager
def _log_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The file that a run prints to. A bucket's objects cannot grow: there the log is written when the run ends."""
  kept = folder / LOG
  if not folders.is_bucket(folder):
    yield kept
    return
  with tempfile.TemporaryDirectory() as near:
    log = pathlib.Path(near) / LOG
    if kept.exists():
      log.write_bytes(kept.read_bytes())
    try:
      yield log
    finally:
      folders.write_whole(kept, log.read_bytes())


def _start(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str | None]) -> subprocess.Popen:
  """Starts a run's process."""
  of_process = alone(child_processes.environment()) | {"COLUMNS": _WIDE} | environment
  # In a session of its own: Ctrl-C goes to the sweep, which passes it on.
  return subprocess.Popen(
    command,
    stdin=subprocess.DEVNULL,
    stdout=log,
    stderr=subprocess.STDOUT,
    env={name: value for name, value in of_process.items() if value is not None},
    start_new_session=True,
  )


def _watch(process: subprocess.Popen, time_out: float | None, stop: Callable[[], bool]) -> Generator[None, None, str]:
  """Looks at a process whenever it is advanced, until that has ended; returns the reason if we ended it as failed."""
  since, asked, why = time.monotonic(), None, ""
  try:
    while process.poll() is None:
      if asked is None and time_out is not None and time.monotonic() - since > time_out:
        why = f"stopped after its time-out of {time_out:,.0f} s; started again, it goes on"
      if asked is None and (why or stop()):
        asked = time.monotonic()
        process.send_signal(signals.ASK)
      if asked is not None and time.monotonic() - asked > _PATIENCE:
        why = why or f"killed: it did not end within {_PATIENCE:.0f} s of being asked to"
        process.kill()
      yield
  finally:  # An exception, as when a cluster takes its worker back: the run saves first.
    if process.returncode is None:
      _end(process)
  return why


def alone(environment: Mapping[str, str]) -> dict[str, str]:
  """The environment of a single process: without a scheduler's variables, and with this very package in its path."""
  alone = {name: value for name, value in environment.items() if name not in processes.SCHEDULERS}
  root = str(pathlib.Path(__file__).parent.parent.parent)
  return alone | {"PYTHONPATH": os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))}


def _end(process: subprocess.Popen) -> None:
  """Asks a process to save and end; kills it if that takes too long, or if we are interrupted again."""
  try:
    process.send_signal(signals.ASK)
    process.wait(_PATIENCE)
  except subprocess.TimeoutExpired:
    pass
  finally:
    if process.poll() is None:
      process.kill()
      process.wait()


def write_failure(folder: pathlib.Path, error: str, exit_code: int | None) -> None:
  """Writes failure.json, if the disk allows."""
  with contextlib.suppress(OSError):
    records.write_failure(folder, records.Failure(error, exit_code, now()))


def _finished(folder: pathlib.Path) -> bool:
  try:
    return records.read_summary(folder) is not None
  except records.RunError:  # The run itself reports it.
    return False


def killed_by(exit_code: int) -> str:
  """The signal that ended a process, in words; empty for other exit codes."""
  if exit_code >= 0:
    return ""
  try:
    name = signal.Signals(-exit_code).name
  except ValueError:
    name = f"signal {-exit_code}"
  return f"killed by {name}" + (" (out of memory?)" if exit_code == -signal.SIGKILL else "")


def last_words(log: pathlib.Path, begin: int = 0) -> str:
  """The line of a log that says why the process ended: its last `error:`, else its last; `begin`: bytes to skip."""
  with log.open("rb") as file:
    file.seek(begin)
    lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
  errors = [line for line in lines if line.startswith("error: ")]
  return (errors or lines or ["it printed nothing"])[-1].removeprefix("error: ")


def now() -> str:
  """The time in the format of records."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
