"""A DenseNet before it is built: its depth, the size of its maps, its remat policies.

Plain Python that imports nothing else, so that a network can be built without the packages that check flags.
"""

from typing import Literal

RematPolicy = Literal["none", "dense_layer", "bottleneck", "block", "layer_by_layer"]


def blocks_of_depth(depth: int, bottleneck: bool, num_blocks: int = 3) -> tuple[int, ...]:
  """Layers of each block for the paper's L, which counts the stem, each transition and the classifier as one.

  L = 4 + 3n for three blocks of n convolutions; a bottleneck layer has two (section 3, "Implementation
  details").

  Raises:
    ValueError: no n fits; the message names the nearest depths that do.
  """
  needs = f"{num_blocks} equal blocks {'with' if bottleneck else 'without'} bottlenecks need"
  return (equal_parts(depth, num_blocks + 1, num_blocks * (2 if bottleneck else 1), needs),) * num_blocks


def equal_parts(depth: int, extra: int, factor: int, needs: str) -> int:
  """n of depth = extra + factor * n.

  Raises:
    ValueError: no n fits; `needs` begins the message, which names the nearest depths that do.
  """
  n, rest = divmod(depth - extra, factor)
  if rest or n < 1:
    below = extra + factor * max(n, 1)
    raise ValueError(f"{needs} depth = {extra} + {factor} * n; the nearest are {below} and {below + factor}")
  return n


def smallest_dense_map(size: int, blocks: int, stem: str) -> int:
  """Height of the last block's feature maps for images of height `size`; 0: nothing is left."""
  return (-(-size // 4) if stem == "imagenet" else size) // 2 ** (blocks - 1)
