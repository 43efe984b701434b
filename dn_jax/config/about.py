"""A weights file's description of itself: its network, its classes and its input."""

import dataclasses
from typing import Annotated

from annotated_types import Ge, Le, doc

from dn_jax.config.check import STRICT
from dn_jax.config.schema import BitDepth, Channels, Interpolation, ModelConfig, Size

# For each channel, or for each value of a mean image [height, width, channels]; pixel values are 0 to 255.
_Mean = Annotated[float, Ge(-1e6), Le(1e6)]
_Deviation = Annotated[float, Ge(1e-6), Le(1e6)]
_EACH = "for each channel, or for each pixel and channel"
PixelMeans = Annotated[tuple[_Mean, ...] | tuple[tuple[tuple[_Mean, ...], ...], ...], doc(f"a number {_EACH}")]
PixelDeviations = Annotated[
  tuple[_Deviation, ...] | tuple[tuple[tuple[_Deviation, ...], ...], ...], doc(f"a number of at least 1e-6 {_EACH}")
]


@dataclasses.dataclass(frozen=True)
class AboutInput:
  """A weights file's description of its input, see `dn_jax.inference.load.Input`."""

  __pydantic_config__ = STRICT

  size: Size | None = None
  resize: Size | None = None
  mean: PixelMeans | None = None
  std: PixelDeviations | None = None
  bit_depth: BitDepth | None = None
  channels: Channels | None = None
  interpolation: Interpolation | None = None


@dataclasses.dataclass(frozen=True)
class About:
  """A weights file's description of itself, in its metadata."""

  __pydantic_config__ = STRICT

  model: ModelConfig | None = None
  classes: tuple[str, ...] | None = None
  input: AboutInput = AboutInput()
