"""The flags of a sweep beside those of its runs."""

import dataclasses
import pathlib
from typing import Annotated

from annotated_types import Ge, Le, Lt

from dn_jax.config.schema import Positive
from dn_jax.errors import ConfigurationError

# The cluster that is no Ray cluster.
SLURM = "slurm"
# Of one machine.
Few = Annotated[int, Ge(1), Le(1024)]
# Time limit of a job, of which two minutes are for saving.
Minutes = Annotated[int, Ge(5), Lt(2**31)]


@dataclasses.dataclass(frozen=True)
class Needs:
  """A run's share of a cluster."""

  cpus: Annotated[float, Ge(0)] = 1.0
  """Processors."""
  gpus: Annotated[float, Ge(0)] = 0.0
  """GPUs."""
  tpus: Annotated[float, Ge(0)] = 0.0
  """TPU chips, as Ray counts them (its resource TPU)."""


@dataclasses.dataclass(frozen=True)
class Submission:
  """What each run's job asks SLURM for, beside --cell; anything else by sbatch's environment, such as SBATCH_QOS."""

  partition: str | None = None
  """Partition of the nodes; by default the cluster's own."""
  minutes: Minutes | None = None
  """Time limit of a job; a longer run is submitted again, and goes on. By default the partition's."""
  account: str | None = None
  """Account that is charged."""


@dataclasses.dataclass(frozen=True)
class Sweep:
  """How a sweep is carried out."""

  out: pathlib.Path = pathlib.Path("runs/sweep")
  """Folder of the runs; finished ones are not repeated. Tables and figures go to its report/."""
  dry_run: bool = False
  """Print the plan and stop there: cells, parameters, FLOPs, images, as published where the data are not there."""
  memory: bool = False
  """The plan asks the compiler how much memory a training step takes; each network is compiled once, which may take
  minutes, and the answer kept."""
  target: tuple[str, ...] = ()
  """Chips that need not be there, such as v5e or h100: the plan estimates a step and a cell on one, by its compiler,
  which takes minutes for a network. Without it: as far as answers come with the package."""
  time_out: Positive | None = None
  """Hours after which a run is stopped, saved, and counted as failed."""
  at_once: Few | None = None
  """Runs at once on this machine; by default as many as its accelerators allow, one on a CPU."""
  devices_per_run: Few | None = None
  """Accelerators of each run on this machine (of a TPU its chips); by default one where there are several."""
  cluster: str | None = None
  """Runs on Ray: local starts a cluster on this machine, auto finds the one it belongs to, or HOST:PORT. slurm: each
  run is a job under SLURM."""
  cell: Needs = Needs()
  slurm: Submission = Submission()


def check_cluster(sweep: Sweep) -> None:
  """Refuses flags that do not go with where the runs go.

  Raises:
    ConfigurationError: says what a cluster goes by.
  """
  for flag, value in (("at-once", sweep.at_once), ("devices-per-run", sweep.devices_per_run)):
    if value is not None and sweep.cluster is not None:
      raise ConfigurationError(flag, value, "divides this machine; with --cluster, --cell.gpus and --cell.tpus say it")
  if sweep.cluster != SLURM:
    for name, value in dataclasses.asdict(sweep.slurm).items():
      if value is not None:
        raise ConfigurationError(f"slurm.{name}", value, "goes with --cluster slurm")
    return
  for name, value, least in (("cpus", sweep.cell.cpus, 1), ("gpus", sweep.cell.gpus, 0)):
    if value < least or value % 1:
      raise ConfigurationError(f"cell.{name}", value, f"SLURM gives a job whole ones, at least {least}")
  if sweep.cell.tpus:
    raise ConfigurationError("cell.tpus", sweep.cell.tpus, "SLURM has no TPUs; 0")
