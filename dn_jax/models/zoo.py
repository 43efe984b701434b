"""Every published network by name, with its published figures; and the way from a configuration to a network."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from dn_jax.configuration import ConfigurationError, ModelConfig, near
from dn_jax.models.densenet import DenseNet, blocks_of_depth

# The columns of the paper's table 2: "+" is with mirror and shift.
COLUMNS = ("c10", "c10+", "c100", "c100+", "svhn")


@dataclasses.dataclass(frozen=True)
class Published:
  """A network as published.

  name:       of the zoo
  title:      as the tables print it
  model:      fields of `ModelConfig`
  parameters: in millions, as printed; None where not printed
  errors:     test error in percent by column of `COLUMNS`, or `imagenet` (top-1, single crop)
  source:     where the figures stand
  """

  name: str
  title: str
  model: Mapping[str, Any]
  parameters: float | None
  errors: Mapping[str, float]
  source: str


_TABLE_2 = "CVPR 2017 paper, table 2"
_WIDE = "README of the authors' Torch code"


def _cifar(
  title: str,
  depth: int,
  growth_rate: int,
  bottleneck: bool,
  parameters: float | None,
  errors: tuple[float | None, ...],
  source: str = _TABLE_2,
  **model: Any,
) -> Published:
  slug = title.split(" ")[0].lower()
  return Published(
    f"{slug}-{depth}-{growth_rate}",
    f"{title} (L={depth}, k={growth_rate})",
    {
      "depth": depth,
      "growth_rate": growth_rate,
      "bottleneck": bottleneck,
      "compression": 0.5 if bottleneck else 1.0,
      "stem": "cifar",
      **model,
    },
    parameters,
    {c: e for c, e in zip(COLUMNS, errors, strict=True) if e is not None},
    source,
  )


def _imagenet(
  name: str, blocks: tuple[int, ...], growth_rate: int, parameters: float | None, error: float, source: str
) -> Published:
  return Published(
    name,
    name.replace("densenet", "DenseNet"),
    {"blocks": blocks, "growth_rate": growth_rate, "bottleneck": True, "compression": 0.5, "stem": "imagenet"},
    parameters,
    {"imagenet": error},
    source,
  )


_ENTRIES = (
  _cifar("DenseNet", 40, 12, False, 1.0, (7.00, 5.24, 27.55, 24.42, 1.79)),
  _cifar("DenseNet", 100, 12, False, 7.0, (5.77, 4.10, 23.79, 20.20, 1.67)),
  _cifar("DenseNet", 100, 24, False, 27.2, (5.83, 3.74, 23.42, 19.25, 1.59)),
  _cifar("DenseNet-BC", 100, 12, True, 0.8, (5.92, 4.51, 24.15, 22.27, 1.76)),
  _cifar("DenseNet-BC", 250, 24, True, 15.3, (5.19, 3.62, 19.64, 17.60, 1.74)),
  _cifar("DenseNet-BC", 190, 40, True, 25.6, (None, 3.46, None, 17.18, None)),
  _cifar("Wide-DenseNet-BC", 40, 36, True, 1.5, (None, 4.58, None, 22.30, None), _WIDE),
  _cifar("Wide-DenseNet-BC", 40, 48, True, 2.7, (None, 3.99, None, 20.29, None), _WIDE),
  _cifar("Wide-DenseNet-BC", 40, 60, True, 4.3, (None, 4.01, None, 19.99, None), _WIDE),
  _cifar(
    "DenseNet-Caffe",
    40,
    12,
    False,
    None,
    (7.09, None, None, None, None),
    "README of the authors' Caffe code",
    convolution_init="fan_in",
    dropout=0.2,
  ),
  _imagenet("densenet-121", (6, 12, 24, 16), 32, None, 25.02, "CVPR 2017 paper, table 3"),
  _imagenet("densenet-169", (6, 12, 32, 32), 32, None, 23.80, "CVPR 2017 paper, table 3"),
  _imagenet("densenet-201", (6, 12, 48, 32), 32, None, 22.58, "CVPR 2017 paper, table 3"),
  _imagenet("densenet-264", (6, 12, 64, 48), 32, None, 22.15, "CVPR 2017 paper, table 3"),
  _imagenet("densenet-161", (6, 12, 36, 24), 48, None, 22.2, "README of the authors' Torch code"),
  _imagenet("densenet-232-48", (6, 12, 48, 48), 48, 55.6, 21.2, "README of the authors' Torch code"),
  _imagenet("densenet-264-48", (6, 12, 64, 48), 48, 72.7, 20.4, "README of the authors' Torch code, cosine schedule"),
)
NETWORKS: dict[str, Published] = {entry.name: entry for entry in _ENTRIES}


def published(name: str) -> Published:
  """The network of that name.

  Raises:
    ConfigurationError: there is none; near names are offered.
  """
  if name not in NETWORKS:
    raise ConfigurationError("model.name", name, near(name, NETWORKS))
  return NETWORKS[name]


def complete(config: ModelConfig) -> ModelConfig:
  """Fills in what a configuration leaves open, from its named network or the paper's habits.

  Only `dropout` may stay None: it depends on the data set.

  Raises:
    ConfigurationError: a value that no network can have.
  """
  named = dict(published(config.name).model) if config.name else {}
  if config.depth is not None or config.blocks is not None:
    named.pop("depth", None)
    named.pop("blocks", None)
  if config.bottleneck is not None and config.bottleneck != named.get("bottleneck"):
    named.pop("compression", None)
  unset = {key: value for key, value in named.items() if getattr(config, key) is None}
  config = dataclasses.replace(config, **unset)

  _check(config)
  bottleneck = config.bottleneck if config.bottleneck is not None else True
  growth_rate = config.growth_rate or 12
  stem = config.stem or "cifar"
  compression = config.compression if config.compression is not None else (0.5 if bottleneck else 1.0)
  blocks = config.blocks
  if blocks is None:
    depth = config.depth if config.depth is not None else 100
    try:
      blocks = blocks_of_depth(depth, bottleneck, num_blocks=4 if stem == "imagenet" else 3)
    except ValueError as error:
      raise ConfigurationError("model.depth", depth, str(error)) from None
  equal = len(set(blocks)) == 1
  complete_config = dataclasses.replace(
    config,
    bottleneck=bottleneck,
    growth_rate=growth_rate,
    stem=stem,
    compression=compression,
    blocks=blocks,
    depth=1 + len(blocks) + sum(blocks) * (2 if bottleneck else 1) if equal else None,
    bottleneck_width=(config.bottleneck_width or 4) if bottleneck else 0,
    initial_channels=config.initial_channels or (2 * growth_rate if bottleneck else 16),
    convolution_init=config.convolution_init or "fan_out",
  )
  _check_channels(complete_config)
  return complete_config


def _check(config: ModelConfig) -> None:
  """Refuses what cannot be, flag by flag."""
  if config.depth is not None and config.blocks is not None:
    raise ConfigurationError("model.blocks", config.blocks, "give --model.depth or --model.blocks, not both")
  for name in ("growth_rate", "initial_channels", "depth"):
    value = getattr(config, name)
    if value is not None and value < 1:
      raise ConfigurationError(f"model.{name.replace('_', '-')}", value, "must be at least 1")
  if config.blocks is not None and (not config.blocks or min(config.blocks) < 1):
    raise ConfigurationError("model.blocks", config.blocks, "one or more blocks of at least 1 layer")
  if config.bottleneck is False and config.bottleneck_width:
    raise ConfigurationError("model.bottleneck-width", config.bottleneck_width, "this network has no bottleneck")
  if config.bottleneck_width is not None and config.bottleneck_width < (0 if config.bottleneck is False else 1):
    raise ConfigurationError("model.bottleneck-width", config.bottleneck_width, "must be at least 1")
  if config.compression is not None and not 0 < config.compression <= 1:
    raise ConfigurationError("model.compression", config.compression, "above 0, at most 1")
  if config.dropout is not None and not 0 <= config.dropout < 1:
    raise ConfigurationError("model.dropout", config.dropout, "at least 0, below 1")
  if config.epsilon <= 0:
    raise ConfigurationError("model.epsilon", config.epsilon, "must be above 0")
  if config.bottleneck is False and config.remat == "bottleneck":
    raise ConfigurationError("model.remat", "bottleneck", "this network has no bottleneck to keep; use dense_layer")


def _check_channels(config: ModelConfig) -> None:
  channels = config.initial_channels
  for layers in config.blocks[:-1]:
    channels = int(config.compression * (channels + layers * config.growth_rate))
    if channels < 1:
      raise ConfigurationError(
        "model.compression", config.compression, "leaves a transition without channels; take a larger one"
      )


def build(config: ModelConfig, num_classes: int, param_dtype: jnp.dtype = jnp.float32) -> DenseNet:
  """The network of a completed configuration.

  Args:
    config: from `complete`; a `dropout` of None means none.
    num_classes: width of the classifier.
    param_dtype: of parameters and statistics; float64 makes activations float64 too.
  """
  dtype = jnp.dtype(config.dtype) if param_dtype == jnp.float32 else param_dtype
  return DenseNet(
    blocks=config.blocks,
    growth_rate=config.growth_rate,
    num_classes=num_classes,
    initial_channels=config.initial_channels,
    bottleneck_width=config.bottleneck_width,
    compression=config.compression,
    stem=config.stem,
    dropout_rate=config.dropout or 0.0,
    remat=config.remat,
    epsilon=config.epsilon,
    convolution_init=config.convolution_init,
    dtype=dtype,
    param_dtype=param_dtype,
    precision=None if config.precision == "default" else config.precision,
  )
