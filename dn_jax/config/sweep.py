"""How many runs are carried out: the flags that a sweep has beside those of its runs."""

import dataclasses
import math
import pathlib

from dn_jax.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a run takes of a cluster."""

  cpus: float = 1
  """Processors."""
  gpus: float = 0
  """GPUs."""
  tpus: float = 0
  """TPU chips, as Ray counts them (its resource TPU)."""


@dataclasses.dataclass(frozen=True)
class Sweep:
  """How a sweep is carried out."""

  out: pathlib.Path = pathlib.Path("runs/sweep")
  """Folder of the runs: what is done there is not done again. Tables and pictures go to its report/."""
  dry_run: bool = False
  """Print the plan and stop there."""
  memory: bool = True
  """Have the compiler say what a training step takes; it compiles each network once, answers are kept."""
  time_out: float | None = None
  """Hours after which a run is stopped, saved, and counted as failed."""
  cluster: str | None = None
  """Runs on Ray: local starts a cluster on this machine, auto finds the one it belongs to, or HOST:PORT."""
  cell: Needs = Needs()


def check(sweep: Sweep) -> None:
  """Looks at values before anything else is imported.

  Raises:
    ConfigurationError: one that does not fit.
  """
  if sweep.time_out is not None and not 0 < sweep.time_out < math.inf:
    raise ConfigurationError("time-out", sweep.time_out, "must be above 0")
