"""Flags of `train`: those of a run, and of what is made of it at its end."""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from dn_jax.commands.flags import values_of
from dn_jax.config import saved
from dn_jax.config.schema import NOT_WRITTEN, RunConfig, Unset
from dn_jax.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Training:
  run: Annotated[RunConfig, tyro.conf.arg(name="")] = RunConfig()
  config: Annotated[pathlib.Path | None, Unset("published values")] = None
  """Start from a run's config.json, from its folder, or from YAML with the flags' names; flags win. In a record, and in
  what --print-config prints, values that are as published or follow from others follow the flags too, and a line says
  what changed. A record's folder, processes and remat policy are not taken."""
  confusion: Annotated[pathlib.Path | None, NOT_WRITTEN] = None
  """At the end, write whom the reported network takes for whom on the test images into FILE.svg and FILE.csv."""
  dry_run: bool = False
  """Print the run's parameters, FLOPs and images, as published where the data are not there, and stop there."""
  memory: bool = False
  """With --dry-run: ask the compiler, too, how much memory a training step takes."""
  print_config: bool = False
  """Print every flag's value and where it comes from, as YAML, and start nothing."""


def saved_run() -> saved.Saved:
  """What the file says that --config names among the words of `sys.argv`; without the flag, nothing.

  Raises:
    ConfigurationError: it cannot be read, or a value in it does not fit.
  """
  words = values_of(["--config"], sys.argv[1:])
  if words and not words[0]:
    raise ConfigurationError("config", "''", "give a file, or a run's folder")
  return saved.read(pathlib.Path(words[0])) if words else saved.Saved()
