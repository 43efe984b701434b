"""Flags of commands that take a trained network."""

import dataclasses
import pathlib
from typing import Literal

from dn_jax.config.schema import Count, ModelConfig

Which = Literal["reported", "last", "best"]


@dataclasses.dataclass(frozen=True)
class Moved:
  """Where a run's data set is now."""

  dir: pathlib.Path | None = None
  """Folder of a run's data set, if it has moved since."""


@dataclasses.dataclass(frozen=True)
class Asked:
  """Overrides of a trained network's own record; None: as the run or the file has it."""

  model: ModelConfig = ModelConfig()
  """The network of a file that does not say which it is."""
  labels: pathlib.Path | None = None
  """A file with the classes' names, one per line, in the order of the network's outputs."""
  size: Count | None = None
  """Side of the crop that the network sees."""
  resize: Count | None = None
  """A picture's shorter side before it is cropped."""
