"""An RDNet before it is built: its channels and the size of its maps; plain Python that imports nothing else."""

# The first block whose layers have squeeze-and-excitation, from 1.
EXCITED_FROM = 3


def inner_channels(channels: int) -> int:
  """Channels between the two 1x1 convolutions of a layer that reads so many: four times as many, in steps of 8."""
  return int(4 * channels / 8) * 8


def kept_channels(compression: float, channels: int) -> int:
  """Channels that a transition keeps, in steps of 8."""
  return int(compression * channels / 8) * 8


def smallest_mixed_map(size: int, patch_size: int, halvings: int) -> int:
  """Height of the last block's maps for images of height `size`; 0: nothing is left."""
  return size // patch_size // 2**halvings
