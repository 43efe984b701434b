"""A sweep on a Ray cluster, each run a task."""

import logging
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dn_jax.config.sweep import Needs
from dn_jax.errors import ConfigurationError
from dn_jax.sweep.process import LOG, End, Outcome, carry_out
from dn_jax.sweep.runner import Job
from dn_jax.system import folders

LOCAL, AUTO = "local", "auto"
# Seconds between two looks at the cluster, for its machine to answer, and for the cluster to let a driver in.
_LOOK, _REACH, _JOIN = 1.0, 5.0, 60.0
# Joins a cluster and leaves.
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
# How often a run is restarted after its worker was lost; a run that kills its worker does so every time.
_RETRIES = 5


class Cluster:
  """A `Place` (`dn_jax.sweep.runner`): a Ray cluster with this process as its driver.

  If a worker is lost, its run restarts elsewhere from its checkpoint in the shared folder.

  Args:
    address: `local` starts a cluster on this machine, `auto` finds the one this machine belongs to; or HOST:PORT.
    needs: of each run.

  Raises:
    ConfigurationError: Ray is not installed, the cluster cannot be reached, or it is too small for a run.
  """

  def __init__(self, address: str, needs: Needs):
    check_address(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(_RETRIES))  # Ray's default: for ever.
    try:
      import ray
    except ImportError:
      raise ConfigurationError("cluster", address, "needs an extra: pip install -e '.[sweep]'") from None
    self._ray, self._needs = ray, needs
    if address != LOCAL:
      _probe(address)
    try:
      ray.init(
        address=address,
        include_dashboard=False if address == LOCAL else None,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
      )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
      raise _unreachable(address, in_words(error)) from None
    has = ray.cluster_resources()
    for flag, name, value in (
      ("cell.cpus", "CPU", needs.cpus),
      ("cell.gpus", "GPU", needs.gpus),
      ("cell.tpus", "TPU", needs.tpus),
    ):
      if value > has.get(name, 0):
        self.close()
        raise ConfigurationError(flag, value, f"the cluster has {has.get(name, 0):g} in all")

  def close(self) -> None:
    """Leaves the cluster; ends it if it was started here."""
    self._ray.shutdown()

  def __call__(
    self, jobs: Sequence[Job], time_out: float | None, stop: Callable[[], bool], look: Callable[[Job], None]
  ) -> Iterator[tuple[Job, End]]:
    ray = self._ray
    # A worker does one run, so that its accelerator is free for the next one's.
    task = ray.remote(max_calls=1)(_task).options(
      num_cpus=self._needs.cpus,
      num_gpus=self._needs.gpus or None,
      resources={"TPU": self._needs.tpus} if self._needs.tpus else None,
      max_retries=_RETRIES,
      retry_exceptions=[Preempted],
    )
    asked, begin = False, time.monotonic()
    logged = {job.folder: folders.size(job.folder / LOG) for job in jobs}
    under_way: dict[Any, Job] = {task.remote(job.command, job.folder, time_out): job for job in jobs}
    while under_way:
      if not asked and stop():
        asked = True
        for reference in under_way:
          ray.cancel(reference)
      ended, _ = ray.wait(list(under_way), num_returns=1, timeout=_LOOK)
      for reference in ended:
        job = under_way.pop(reference)
        try:
          end = ray.get(reference)
        except ray.exceptions.TaskCancelledError:
          end = End(Outcome.STOPPED, time.monotonic() - begin)
        except ray.exceptions.RayError as error:
          end = End(Outcome.FAILED, time.monotonic() - begin, in_words(error))
        began = end.outcome is not Outcome.STOPPED or folders.size(job.folder / LOG) > logged[job.folder]
        if began:
          yield job, end
      for job in under_way.values():
        look(job)


class Preempted(Exception):
  """A run was told to stop, and saved, but not by this sweep: its machine is going away."""


def _task(command: Sequence[str], folder: pathlib.Path, time_out: float | None) -> End:
  """Takes a run to its end, on a worker."""
  # Ray cancels by Python's handler of SIGINT; a worker lacks it if the sweep was started in a shell's background.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  begin = time.monotonic()
  folder = folders.of("out", folder)
  while (end := carry_out((sys.executable, *command), folder, time_out)).outcome is Outcome.TAKEN:
    time.sleep(_LOOK)  # By another process, or by that of a lost worker, which is just ending.
  if end.outcome is Outcome.STOPPED:
    raise Preempted(f"told to stop, though nobody here asked, {_RETRIES + 1} times; started again, it goes on")
  return end._replace(seconds=time.monotonic() - begin)


def check_address(address: str) -> None:
  """Refuses a malformed address, and one where nobody answers.

  Raises:
    ConfigurationError: says which addresses fit.
  """
  if address in (LOCAL, AUTO):
    return
  host, colon, port = address.rpartition(":")
  if not colon or not re.fullmatch(r"[\w.\-]+|\[[0-9a-fA-F:]+\]", host) or not port.isdecimal() or int(port) > 65535:
    fits = "local, auto, or HOST:PORT of a Ray cluster that this machine belongs to; or slurm"
    if address.startswith("ray://"):
      fits += "; Ray's client (ray://) is not used: start the sweep on a machine of the cluster"
    raise ConfigurationError("cluster", address, fits)
  try:
    socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
  except OSError as error:
    raise _unreachable(address, error.strerror or str(error)) from None


def _probe(address: str) -> None:
  """Refuses a cluster that cannot be joined. A process of its own tries: Ray retries for minutes, and may abort."""
  try:
    done = subprocess.run(
      [sys.executable, "-c", _PROBE, address], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_JOIN
    )
  except subprocess.TimeoutExpired:
    raise _unreachable(address, f"no cluster answers there within {_JOIN:.0f} s") from None
  if done.returncode:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    why = lines[-1] if lines else f"exit code {done.returncode}"
    if "RAY_AUTH_MODE" not in os.environ:
      why += "; one with token authentication wants RAY_AUTH_MODE=token"
    raise _unreachable(address, why)


def _unreachable(address: str, why: str) -> ConfigurationError:
  return ConfigurationError(
    "cluster", address, f"cannot be reached ({why}); 'ray start --head' starts one, or take local"
  )


def in_words(error: BaseException) -> str:
  """An error from Ray in one line: the error that the task raised, else the last line with words."""
  cause = getattr(error, "cause", None)
  if isinstance(cause, BaseException):
    return f"{type(cause).__name__}: {in_words(cause)}"
  lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
  return lines[-1] if lines else type(error).__name__
