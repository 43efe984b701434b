"""The layers with weights of a DenseNet, with their names in PyTorch and their places here."""

import dataclasses
from typing import Any, Literal

import numpy as np

from dn_jax.models.densenet import DenseNet

State = dict[str, np.ndarray]
Path = tuple[str, ...]
# The arrays of a layer by its kind, in Keras's order.
PARTS = {
  "conv": ("weight",),
  "linear": ("weight", "bias"),
  "norm": ("weight", "bias", "running_mean", "running_var"),
}


@dataclasses.dataclass(frozen=True)
class Unit:
  """A layer with weights.

  name: as PyTorch calls it, e.g. `features.denseblock1.denselayer1.norm1`
  path: in the tree `params`
  maps: of a norm, the feature maps it reads: (path in `batch_stats`, channels) each
  """

  name: str
  kind: Literal["conv", "norm", "linear"]
  path: Path
  maps: tuple[tuple[Path, int], ...] = ()


def units(network: DenseNet, last_norm: str = "norm5") -> list[Unit]:
  """All layers with weights, in the network's order (Keras's too).

  Args:
    network: the DenseNet.
    last_norm: its name: `norm5` (torchvision) or `norm_final` (the memory-efficient PyTorch implementation).
  """
  result = [Unit("features.conv0", "conv", ("stem", "conv"))]
  channels = network.initial_channels
  if network.stem == "imagenet":
    result.append(Unit("features.norm0", "norm", ("stem", "norm"), ((("stem", "conv_output"), channels),)))
  maps = [(("stem", "output"), channels)]
  for b, layers in enumerate(network.blocks, start=1):
    for n in range(1, layers + 1):
      there, here = f"features.denseblock{b}.denselayer{n}", (f"block{b}", f"layer{n}")
      result.append(Unit(f"{there}.norm1", "norm", (*here, "norm1"), tuple(maps)))
      result.append(Unit(f"{there}.conv1", "conv", (*here, "conv1")))
      if network.bottleneck_width:
        width = network.bottleneck_width * network.growth_rate
        result.append(Unit(f"{there}.norm2", "norm", (*here, "norm2"), (((*here, "bottleneck"), width),)))
        result.append(Unit(f"{there}.conv2", "conv", (*here, "conv2")))
      maps.append(((*here, "output"), network.growth_rate))
    if b < len(network.blocks):
      there, here = f"features.transition{b}", f"transition{b}"
      result.append(Unit(f"{there}.norm", "norm", (here, "norm"), tuple(maps)))
      result.append(Unit(f"{there}.conv", "conv", (here, "conv")))
      maps = [((here, "output"), int(network.compression * sum(width for _, width in maps)))]
  result.append(Unit(f"features.{last_norm}", "norm", ("last", "norm"), tuple(maps)))
  result.append(Unit("classifier", "linear", ("classifier",)))
  return result


def at(tree: Any, path: Path) -> Any:
  """What stands at a path of a nested dictionary."""
  for name in path:
    tree = tree[name]
  return tree
