"""How a family's networks are written down in PyTorch's files: layers with weights, names, what shapes tell."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import flax.linen as nn
import numpy as np

from dn_jax.config.about import AboutInput
from dn_jax.config.schema import ModelConfig

State = dict[str, np.ndarray]
Path = tuple[str, ...]
# The arrays of a layer by its kind: their names in PyTorch, in Keras's order, and here.
PARTS: Mapping[str, Mapping[str, str]] = {
  "conv": {"weight": "kernel"},
  "biased_conv": {"weight": "kernel", "bias": "bias"},
  "linear": {"weight": "kernel", "bias": "bias"},
  "norm": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
  "layer_norm": {"weight": "scale", "bias": "bias"},
  "layer_scale": {"gamma": "layer_scale"},
}
# Those that are in `batch_stats`.
AVERAGES = ("mean", "var")


@dataclasses.dataclass(frozen=True)
class Unit:
  """A layer with weights.

  name: as PyTorch calls it, e.g. `features.denseblock1.denselayer1.norm1`
  path: in the tree `params`
  maps: of a batch norm, the feature maps it reads: (path in `batch_stats`, channels) each
  """

  name: str
  kind: Literal["conv", "biased_conv", "linear", "norm", "layer_norm", "layer_scale"]
  path: Path
  maps: tuple[tuple[Path, int], ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A program's names for a family's tensors.

  layer:      of layers that every such network has, and hardly another; groups `prefix` (of wrappers) and `container`
              (the module of all layers but the classifier, where a file may leave it out)
  classifier: its linear layer
  words:      for a line, where the names are translated
  """

  layer: re.Pattern[str]
  classifier: str
  words: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Format:
  """How a family's networks are written down; those of `dn_jax.weights.formats` are read and written.

  network:     class of its networks
  called:      such a network, with an article
  whose:       the names that are written, in words
  programs:    whose names are read; the first one's are written
  container:   the module of all layers but the classifier, with a dot; or nothing
  layers:      patterns of a layer's name below the container, and what it is called there
  stem:        the first convolution
  units:       (network) -> its layers with weights, in order
  model_of:    (state) -> the network of its shapes, to be completed; None, or an error of a missing name or of a shape
               with too few numbers, where they are of none
  fields:      of `ModelConfig` that shapes tell, as flags are listed
  differences: (network of a file, network asked for) -> what differs, in words; more than the first need not be right
  images:      (network) -> the data set whose images it is for, and what is prepared otherwise than there, where a
               file does not say
  strange:     (state) -> why these shapes are of a relative that no flags ask for, in words
  """

  network: type[nn.Module]
  called: str
  whose: str
  programs: tuple[Program, ...]
  container: str
  layers: Mapping[str, Callable[[re.Match[str]], str]]
  stem: str
  units: Callable[[Any], list[Unit]]
  model_of: Callable[[Mapping[str, Any]], ModelConfig | None]
  fields: tuple[str, ...]
  differences: Callable[[ModelConfig, ModelConfig], Iterator[str]]
  images: Callable[[ModelConfig], tuple[str, AboutInput]]
  strange: Callable[[Mapping[str, Any]], str | None] = lambda _: None

  @property
  def classifier(self) -> str:
    """The linear layer at the end."""
    return self.programs[0].classifier


def at(tree: Any, path: Path) -> Any:
  """What stands at a path of a nested dictionary."""
  for name in path:
    tree = tree[name]
  return tree
