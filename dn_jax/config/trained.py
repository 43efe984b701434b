"""Flags of commands that take a trained network."""

import dataclasses
import pathlib
from typing import Annotated, Literal

from dn_jax.config.schema import Count, Interpolation, ModelConfig, Unset

Which = Literal["reported", "last", "best"]


@dataclasses.dataclass(frozen=True)
class Moved:
  """Where a run's data set is now."""

  dir: Annotated[pathlib.Path | None, Unset("as the run has it")] = None
  """Read a run's data set from this folder, if it has moved since."""


@dataclasses.dataclass(frozen=True)
class Asked:
  """Overrides of a trained network's own record; None: as the run or the file has it."""

  model: ModelConfig = ModelConfig()
  """The network of a file that does not say which it is."""
  labels: Annotated[pathlib.Path | None, Unset("as the run or the file has them, else numbers")] = None
  """Take the classes' names from this file, one per line, in the order of the network's outputs."""
  size: Annotated[Count | None, Unset("as the run or the file has it")] = None
  """Crop images to squares of this side, in pixels."""
  resize: Annotated[Count | None, Unset("the crop keeps its share of the image")] = None
  """Resize an image's shorter side to this before it is cropped, in pixels."""
  interpolation: Annotated[Interpolation | None, Unset("as the run or the file has it, else bilinear")] = None
  """Resize images by this filter."""
