"""A sweep on a Ray cluster: a task a run. Ray is the engine; this says what a task does and what it needs."""

import dataclasses
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dn_jax import runs
from dn_jax.configuration import ConfigurationError
from dn_jax.sweep.carry import Job
from dn_jax.sweep.process import LOG, Outcome, carry_out, now

LOCAL, AUTO = "local", "auto"
# Seconds between two looks at it.
_LOOK = 1.0


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a run takes of a cluster."""

  cpus: float = 1
  """Processors."""
  gpus: float = 0
  """GPUs."""
  tpus: float = 0
  """TPU chips, as Ray counts them (its resource TPU)."""


class Cluster:
  """A `Place` (`dn_jax.sweep.carry`): a Ray cluster, of which this process becomes the driver.

  A run whose worker is lost is begun again elsewhere, from its checkpoint in the shared folder.

  Args:
    address: `local` starts one on this machine; `auto` finds the one this machine belongs to; else host:port.
    needs: of each run.

  Raises:
    ConfigurationError: Ray is not installed, there is no such cluster, or it never has what a run needs.
  """

  def __init__(self, address: str, needs: Needs):
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
      import ray
    except ImportError:
      raise ConfigurationError("cluster", address, "needs an extra: pip install -e '.[sweep]'") from None
    self._ray, self._needs = ray, needs
    for flag, value in (("cell.cpus", needs.cpus), ("cell.gpus", needs.gpus), ("cell.tpus", needs.tpus)):
      if value < 0:
        raise ConfigurationError(flag, value, "must be at least 0")
    try:
      ray.init(
        address=address,
        include_dashboard=False if address == LOCAL else None,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
      )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
      fits = f"cannot be reached ({_first_line(error)}); 'ray start --head' starts one, or take local"
      raise ConfigurationError("cluster", address, fits) from None
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
    """Leaves the cluster; one that was started here ends."""
    self._ray.shutdown()

  def __call__(
    self, jobs: Sequence[Job], time_out: float | None, stop: Callable[[], bool], look: Callable[[Job], None]
  ) -> Iterator[tuple[Job, Outcome, float]]:
    ray = self._ray
    task = ray.remote(_task).options(
      num_cpus=self._needs.cpus,
      num_gpus=self._needs.gpus or None,
      resources={"TPU": self._needs.tpus} if self._needs.tpus else None,
      max_retries=-1,
      retry_exceptions=[_Preempted],
      max_calls=1,
    )
    asked, begin = False, time.monotonic()
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
          outcome, seconds = ray.get(reference)
        except ray.exceptions.TaskCancelledError:
          outcome, seconds = Outcome.STOPPED, time.monotonic() - begin
        except ray.exceptions.RayError as error:
          outcome, seconds = Outcome.FAILED, time.monotonic() - begin
          runs.write_failure(job.folder, {"error": _first_line(error), "exit_code": None, "at": now()})
        if outcome is not Outcome.STOPPED or (job.folder / LOG).exists():
          yield job, outcome, seconds
      for job in under_way.values():
        look(job)


class _Preempted(Exception):
  """A run was told to stop, and saved, though nobody here asked: its machine is going away."""


def _task(command: Sequence[str], folder: pathlib.Path, time_out: float | None) -> tuple[Outcome, float]:
  """On a worker: a run from its newest checkpoint to its end."""
  begin = time.monotonic()
  outcome = carry_out((sys.executable, *command), folder, time_out)
  if outcome is Outcome.STOPPED:
    raise _Preempted(str(folder))
  return outcome, time.monotonic() - begin


def _first_line(error: BaseException) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
