"""The table of families: what each kind of network takes, what it fills in, its sizes and names.

A new family is an entry of `FAMILIES` and a builder in `dn_jax.models.build`.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

from dn_jax.config.densenet import RematPolicy, blocks_of_depth, equal_parts, smallest_dense_map
from dn_jax.config.rdnet import kept_channels, smallest_mixed_map
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError

# Torch's, of batch norm.
EPSILON = 1e-5
# Torch's programs', of layer norm.
LAYER_NORM_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Family:
  """A kind of network.

  title:         its name in figures
  kind:          (completed configuration) -> title with its variant, such as DenseNet-BC
  name:          (completed configuration) -> name of a network outside the zoo, such as densenet-bc-100-12
  protocol:      key of its published training in `dn_jax.config.protocol`, or a function of the completed configuration
  flags:         fields of `ModelConfig` that it takes, with defaults; a function computes its from the fields before it
  layers:        completes a configuration from its depth; refuses a depth that no such network has
  smallest_map:  (completed configuration, images' height) -> height of the last feature maps
  remat:         policies that it can take
  default_remat: the policy on a CPU where none is asked for; elsewhere `dn_jax.planner.policy` says
  tpu_remat:     (completed configuration) -> the fastest policy on a TPU, where memory allows
  fixed:         fields of other families, and the one value that each has here
  unit:          of a residual network: convolutions of a unit, and the other layers that its depth counts
  dropout:       whether it has dropout
  weights:       whether its weights are read from files and written; then it is in `dn_jax.weights.formats`
  batch_norm:    whether it normalises over the batch
  epsilon:       that its norms add to a variance
  """

  title: str
  kind: Callable[[ModelConfig], str]
  name: Callable[[ModelConfig], str]
  protocol: str | Callable[[ModelConfig], str]
  flags: Mapping[str, Any]
  layers: Callable[[ModelConfig], ModelConfig]
  smallest_map: Callable[[ModelConfig, int], int]
  remat: tuple[RematPolicy, ...]
  default_remat: RematPolicy
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  tpu_remat: Callable[[ModelConfig], RematPolicy] = lambda config: "none"
  unit: tuple[int, int] = (0, 0)
  dropout: bool = True
  weights: bool = False
  batch_norm: bool = True
  epsilon: float = EPSILON


def _stochastic(config: ModelConfig) -> str:
  return "-stochastic-depth" if (config.survival or 1.0) < 1 else ""


# DenseNet


def _dense_blocks(config: ModelConfig) -> ModelConfig:
  """Computes blocks from the depth, or the depth from blocks."""
  blocks = config.blocks
  if blocks is None and config.depth is None and config.stem == "imagenet":
    fits = "needs --model.blocks, or a network such as --model.name densenet-121"
    raise ConfigurationError("model.stem", config.stem, fits)
  if blocks is None:
    depth = 100 if config.depth is None else config.depth
    try:
      blocks = blocks_of_depth(depth, config.bottleneck, num_blocks=4 if config.stem == "imagenet" else 3)
    except ValueError as error:
      raise ConfigurationError("model.depth", depth, str(error)) from None
  equal = len(set(blocks)) == 1
  depth = 1 + len(blocks) + sum(blocks) * (2 if config.bottleneck else 1) if equal else None
  if config.blocks is not None and config.depth not in (None, depth):
    raise ConfigurationError("model.blocks", config.blocks, "give --model.depth or --model.blocks, not both")
  channels = config.initial_channels
  for layers in blocks[:-1]:
    channels = int(config.compression * (channels + layers * config.growth_rate))
    if channels < 1:
      fits = "leaves a transition without channels; take a larger one"
      raise ConfigurationError("model.compression", config.compression, fits)
  survival = None if config.survival == 1 else config.survival
  return dataclasses.replace(config, blocks=blocks, depth=depth, survival=survival)


def _dense_name(config: ModelConfig) -> str:
  letters = ("b" if config.bottleneck else "") + ("c" if config.compression < 1 else "")
  layers = config.depth or "-".join(map(str, config.blocks))
  name = "-".join(["densenet", *([letters] if letters else []), f"{layers}", f"{config.growth_rate}"])
  return name + _stochastic(config)


def _dense_kind(config: ModelConfig) -> str:
  letters = ("B" if config.bottleneck else "") + ("C" if config.compression < 1 else "")
  return "DenseNet" + (f"-{letters}" if letters else "") + (" with stochastic depth" if _stochastic(config) else "")


# RDNet


def _mixing_blocks(config: ModelConfig) -> ModelConfig:
  """Checks that blocks, growth rates and halvings fit together."""
  if config.depth is not None:
    raise ConfigurationError(
      "model.depth", config.depth, "an RDNet has none; give --model.growth-rates, --model.blocks"
    )
  rates, blocks = config.growth_rates, config.blocks
  if len(blocks) != len(rates):
    fits = f"one number for each of the {len(rates)} growth rates"
    raise ConfigurationError("model.blocks", " ".join(map(str, blocks)), fits)
  strange = [number for number in config.downsample if number >= len(blocks)]
  if strange or len(set(config.downsample)) < len(config.downsample):
    fits = f"numbers of blocks that a transition follows, 1 to {len(blocks) - 1}, each once"
    raise ConfigurationError("model.downsample", " ".join(map(str, config.downsample)), fits)
  channels = config.initial_channels
  for layers, rate in zip(blocks[:-1], rates, strict=False):
    channels = kept_channels(config.compression, channels + layers * rate)
    if channels < 1:
      fits = "leaves a transition without channels; take a larger one"
      raise ConfigurationError("model.compression", config.compression, fits)
  return dataclasses.replace(config, downsample=tuple(sorted(config.downsample)))


def _mixing_name(config: ModelConfig) -> str:
  layers = "" if set(config.blocks) == {3} else f"-layers-{'-'.join(map(str, config.blocks))}"
  return f"rdnet-{'-'.join(map(str, config.growth_rates))}{layers}-patch-{config.patch_size}"


# Residual networks


def units_of_depth(depth: int, family: str) -> int:
  """Residual units in each of the three stages.

  Raises:
    ValueError: no number fits; the message names the nearest depths that do.
  """
  convolutions, extra = FAMILIES[family].unit
  return equal_parts(depth, extra, 3 * convolutions, f"{family} needs")


def _residual_units(config: ModelConfig) -> ModelConfig:
  if config.depth is None:
    raise ConfigurationError("model.family", config.family, "needs a depth; give --model.depth")
  try:
    units_of_depth(config.depth, config.family)
  except ValueError as error:
    raise ConfigurationError("model.depth", config.depth, str(error)) from None
  return config


def _residual_name(config: ModelConfig) -> str:
  width = f"-{config.widen_factor}" if "widen_factor" in FAMILIES[config.family].flags else ""
  return f"{config.family}-{config.depth}{width}{_stochastic(config)}"


def _residual_kind(config: ModelConfig) -> str:
  return FAMILIES[config.family].title + (" with stochastic depth" if _stochastic(config) else "")


# The same for all residual networks.
_RESIDUAL: Mapping[str, Any] = {
  "kind": _residual_kind,
  "name": _residual_name,
  "layers": _residual_units,
  "smallest_map": lambda _, size: -(-size // 4),
  "remat": ("none", "dense_layer"),  # The second rematerialises each residual unit.
  "default_remat": "dense_layer",
}

# He initialisation is by inputs in the code of Wide ResNet and of stochastic depth, by outputs in the others'.
FAMILIES: Mapping[str, Family] = {
  "densenet": Family(
    title="DenseNet",
    kind=_dense_kind,
    name=_dense_name,
    protocol="densenet",
    flags={
      "growth_rate": 12,
      "bottleneck": True,
      "bottleneck_width": lambda config: 4 if config.bottleneck else 0,
      "compression": lambda config: 0.5 if config.bottleneck else 1.0,
      "initial_channels": lambda config: 2 * config.growth_rate if config.bottleneck else 16,
      "stem": "cifar",
      "blocks": None,
      "survival": None,  # As in records of before: without.
      "convolution_init": "fan_out",
      "classifier_init": "torch",
    },
    layers=_dense_blocks,
    smallest_map=lambda config, size: smallest_dense_map(size, len(config.blocks), config.stem),
    remat=typing.get_args(RematPolicy),
    default_remat="layer_by_layer",
    # No convolution is computed twice, at every depth that was tried: for a v5e, bfloat16, k=12, 128 images libtpu
    # 0.0.50 estimates 1.9, 3.8 and 13.6 million cycles at L=22, 40 and 100; plain Flax takes 7.1 at L=40 and 30.7 at
    # L=100.
    tpu_remat=lambda config: "bottleneck" if config.bottleneck else "layer_by_layer",
    weights=True,
  ),
  "rdnet": Family(
    title="RDNet",
    kind=lambda config: "RDNet",
    name=_mixing_name,
    protocol="rdnet",
    flags={
      # RDNet-T's.
      "growth_rates": (64, 104, 128, 128, 128, 128, 224),
      "blocks": lambda config: (3,) * len(config.growth_rates),
      "downsample": lambda config: tuple(number for number in (1, 2, 6) if number < len(config.growth_rates)),
      "initial_channels": 64,
      "patch_size": 4,
      "compression": 0.5,
      "survival": 1.0,
      "convolution_init": "fan_in",
      "classifier_init": "torch",
    },
    fixed={"widen_factor": 1, "shortcut": None},
    layers=_mixing_blocks,
    smallest_map=lambda config, size: smallest_mixed_map(size, config.patch_size, len(config.downsample)),
    remat=("none", "dense_layer", "layer_by_layer"),
    default_remat="layer_by_layer",
    dropout=False,
    batch_norm=False,
    epsilon=LAYER_NORM_EPSILON,
    weights=True,
  ),
  "resnet": Family(
    title="ResNet",
    protocol=lambda config: "stochastic-depth" if config.survival < 1 else "resnet",
    flags={
      "survival": 1.0,
      "shortcut": lambda config: "average" if config.survival < 1 else "subsample",
      "convolution_init": lambda config: "fan_in" if config.survival < 1 else "fan_out",
      "classifier_init": "torch",
    },
    fixed={"widen_factor": 1},
    unit=(2, 2),
    dropout=False,
    **_RESIDUAL,
  ),
  "preactivation": Family(
    title="ResNet (pre-activation)",
    protocol="preactivation",
    flags={"survival": 1.0, "convolution_init": "fan_out", "classifier_init": "torch"},
    fixed={"widen_factor": 1, "shortcut": None},
    unit=(3, 2),
    dropout=False,
    **_RESIDUAL,
  ),
  "wide": Family(
    title="Wide ResNet",
    protocol="wide",
    flags={"widen_factor": 1, "survival": 1.0, "convolution_init": "fan_in", "classifier_init": "torch"},
    fixed={"shortcut": None},
    unit=(2, 4),  # Its authors count two shortcuts.
    **_RESIDUAL,
  ),
}
