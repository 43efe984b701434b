"""What a person says of a trained network besides where it is."""

import dataclasses
import pathlib
from typing import Literal

from dn_jax.config.schema import ModelConfig

Which = Literal["reported", "last", "best"]


@dataclasses.dataclass(frozen=True)
class Moved:
  """Where a run's data set is now."""

  dir: pathlib.Path | None = None
  """Folder of a run's data set, if it has moved since."""


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a person says of a network besides where it is; None: as the run or the file has it."""

  model: ModelConfig = ModelConfig()
  """Which network a file is of that does not say so itself."""
  labels: pathlib.Path | None = None
  """A file with the classes' names, one a line, in the order of the network's outputs."""
  size: int | None = None
  """Side of the crop that the network sees."""
  resize: int | None = None
  """A picture's shorter side before that."""
