"""One run of a sweep, in its own process, with its own log and time-out."""

import datetime
import enum
import pathlib
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from dn_jax import runs, tether
from dn_jax.training import interruption

LOG = "log.txt"
# Seconds between two looks at a process, and until one that was asked to stop is killed.
_LOOK, _PATIENCE = 0.2, 300.0


class Outcome(enum.Enum):
  """How a run's process ended."""

  DONE = "done"
  STOPPED = "stopped"
  FAILED = "failed"


def carry_out(
  command: Sequence[str], folder: pathlib.Path, time_out: float | None, stop: Callable[[], bool] = lambda: False
) -> Outcome:
  """Runs a command to its end; what it prints goes to the folder's log, how it failed to its failure.json.

  Args:
    command: trains a run in that folder, from its newest checkpoint.
    folder: of the run; exists.
    time_out: seconds after which the run is asked to save and end, and counts as failed; None: no end.
    stop: looked at all the time; once true, the run is asked to save and end.

  Returns:
    How it ended: STOPPED where it saved and ended because it was asked to, by `stop` or by somebody else.
  """
  runs.write_failure(folder, None)
  begin, asked = time.monotonic(), None
  with (folder / LOG).open("ab") as log:
    log.write(f"\n{now()} $ {shlex.join(command)}\n".encode())
    log.flush()
    # In a session of its own: a Ctrl-C is for the sweep, which passes it on.
    process = subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      env=tether.environment(),
      start_new_session=True,
    )
    try:
      while process.poll() is None:
        late = time_out is not None and time.monotonic() - begin > time_out
        if asked is None and (late or stop()):
          asked = time.monotonic()
          process.send_signal(signal.SIGTERM)
        if asked is not None and time.monotonic() - asked > _PATIENCE:
          process.kill()
        time.sleep(_LOOK)
    except BaseException:  # A cluster takes its worker back: the run saves and ends before that.
      process.send_signal(signal.SIGTERM)
      process.wait(_PATIENCE)
      raise
  timed_out = time_out is not None and asked is not None and asked - begin > time_out
  if process.returncode == 0:
    return Outcome.DONE
  if not timed_out and (process.returncode == interruption.EXIT_CODE or asked is not None):
    return Outcome.STOPPED
  error = f"stopped after its time-out of {time_out:,.0f} s; started again, it goes on" if timed_out else ""
  runs.write_failure(folder, {"error": error or last_words(folder / LOG), "exit_code": process.returncode, "at": now()})
  return Outcome.FAILED


def last_words(log: pathlib.Path) -> str:
  """The line of a log that says why the process ended: its last `error:`, else its last."""
  lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
  begin = max((n for n, line in enumerate(lines) if " $ " in line), default=-1)
  lines = lines[begin + 1 :]
  errors = [line for line in lines if line.startswith("error: ")]
  return (errors or lines or ["it printed nothing"])[-1].removeprefix("error: ")


def now() -> str:
  """The time, as records have it."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
