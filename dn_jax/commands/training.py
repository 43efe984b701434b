"""Flags of `train`: those of a run, and of what is made of it at its end."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from dn_jax.config.schema import NOT_WRITTEN, RunConfig


@dataclasses.dataclass(frozen=True)
class Training:
  run: Annotated[RunConfig, tyro.conf.arg(name="")] = RunConfig()
  confusion: Annotated[pathlib.Path | None, NOT_WRITTEN] = None
  """At the end, write whom the reported network takes for whom on the test images into FILE.svg and FILE.csv."""
  dry_run: bool = False
  """Print the run's parameters, FLOPs and images, as published where the data are not there, and stop there."""
  memory: bool = False
  """With --dry-run: ask the compiler, too, how much memory a training step takes."""
  print_config: bool = False
  """Print every flag's value and where it comes from, as YAML, and start nothing."""
