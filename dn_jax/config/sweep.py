"""The flags of a sweep beside those of its runs."""

import dataclasses
import pathlib
from typing import Annotated

from annotated_types import Ge, Le, Lt

from dn_jax.config.schema import Positive, Unset
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
  """Reserve so many processors for each run."""
  gpus: Annotated[float, Ge(0)] = 0.0
  """Reserve so many GPUs for each run."""
  tpus: Annotated[float, Ge(0)] = 0.0
  """Reserve so many TPU chips for each run, as Ray counts them (its resource TPU)."""


@dataclasses.dataclass(frozen=True)
class Submission:
  """What each run's job asks SLURM for, beside --cell; anything else by sbatch's environment, such as SBATCH_QOS."""

  partition: Annotated[str | None, Unset("the cluster's own")] = None
  """Submit the jobs to this partition of nodes."""
  minutes: Annotated[Minutes | None, Unset("the partition's limit")] = None
  """Limit a job to so many minutes; a longer run is submitted again, and goes on."""
  account: Annotated[str | None, Unset("the cluster's own")] = None
  """Charge this account."""


@dataclasses.dataclass(frozen=True)
class Sweep:
  """How a sweep is carried out."""

  out: pathlib.Path = pathlib.Path("runs/sweep")
  """Put the runs into this folder, where finished ones are not repeated; tables and figures go to its report/."""
  dry_run: bool = False
  """Print the plan and stop there: cells, parameters, FLOPs and images, as published where the data are not there."""
  memory: bool = False
  """Ask the compiler how much memory a training step takes; each network is compiled once, which may take minutes, and
  the answer kept."""
  target: tuple[str, ...] = ()
  """Estimate a step and a cell on chips that need not be there, such as v5e or h100, by their compilers, which take
  minutes for a network. Without it the plan has the answers that come with the package."""
  time_out: Annotated[Positive | None, Unset("no limit")] = None
  """Stop a run after so many hours; it is saved, and counts as failed."""
  at_once: Annotated[Few | None, Unset("as many as the accelerators allow, one on a CPU")] = None
  """Train so many runs at once on this machine."""
  devices_per_run: Annotated[Few | None, Unset("one, where there are several")] = None
  """Give each run on this machine so many accelerators (of a TPU its chips)."""
  cluster: Annotated[str | None, Unset("on this machine, without Ray")] = None
  """Train on Ray: local starts a cluster on this machine, auto finds the one it belongs to, or HOST:PORT. Or on SLURM,
  by slurm: each run is a job."""
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
