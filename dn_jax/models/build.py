"""From a configuration to a network: what is left open is filled in, what cannot be is refused."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from dn_jax.config import zoo
from dn_jax.config.schema import ModelConfig, RematPolicy
from dn_jax.errors import ConfigurationError
from dn_jax.models import densenet, remat
from dn_jax.models.densenet import DenseNet, blocks_of_depth
from dn_jax.models.resnet import ResNet, units_of_depth

_DENSENET_ONLY = (
  "growth_rate",
  "blocks",
  "bottleneck",
  "bottleneck_width",
  "compression",
  "initial_channels",
  "stem",
)
_RESNET_ONLY = ("widen_factor", "survival", "shortcut")
_RESNET_REMAT = ("none", "dense_layer")


def complete(config: ModelConfig) -> ModelConfig:
  """Fills in what a configuration leaves open, from its named network or the papers' habits.

  Only `dropout` may stay None: it depends on the data set. A name stays only where the network is still the
  published one.

  Raises:
    ConfigurationError: a value that no network can have.
  """
  named = dict(zoo.published(config.name).model) if config.name else {}
  if config.depth is not None or config.blocks is not None:
    named.pop("depth", None)
    named.pop("blocks", None)
  if config.bottleneck is not None and config.bottleneck != named.get("bottleneck"):
    named.pop("compression", None)
  unset = {key: value for key, value in named.items() if getattr(config, key) is None}
  config = dataclasses.replace(config, **unset)
  family, stochastic_depth = config.family or "densenet", (config.survival or 1) < 1
  config = dataclasses.replace(
    config,
    family=family,
    # He initialisation by inputs in the code of Wide ResNet and of stochastic depth, by outputs in the others'.
    convolution_init=config.convolution_init or ("fan_in" if family == "wide" or stochastic_depth else "fan_out"),
    remat=config.remat or ("layer_by_layer" if family == "densenet" else "dense_layer"),
    classifier_init=config.classifier_init or "torch",
  )
  _check(config)
  config = _complete_densenet(config) if config.family == "densenet" else _complete_resnet(config)
  if config.name and _changed(config):
    config = dataclasses.replace(config, name=None)
  return config


def _changed(config: ModelConfig) -> bool:
  """Whether a completed configuration is another network than the one it is named after."""
  published = complete(ModelConfig(**zoo.published(config.name).model))
  architecture = ("family", "depth", "convolution_init", "classifier_init", *_DENSENET_ONLY, *_RESNET_ONLY)
  return any(getattr(config, name) != getattr(published, name) for name in architecture)


def _complete_densenet(config: ModelConfig) -> ModelConfig:
  _refuse(config, _RESNET_ONLY)
  bottleneck = config.bottleneck if config.bottleneck is not None else True
  growth_rate = config.growth_rate or 12
  stem = config.stem or "cifar"
  compression = config.compression if config.compression is not None else (0.5 if bottleneck else 1.0)
  blocks = config.blocks
  if blocks is None and config.depth is None and stem == "imagenet":
    raise ConfigurationError("model.stem", stem, "needs --model.blocks, or a network such as --model.name densenet-121")
  if blocks is None:
    depth = config.depth if config.depth is not None else 100
    try:
      blocks = blocks_of_depth(depth, bottleneck, num_blocks=4 if stem == "imagenet" else 3)
    except ValueError as error:
      raise ConfigurationError("model.depth", depth, str(error)) from None
  depth = 1 + len(blocks) + sum(blocks) * (2 if bottleneck else 1) if len(set(blocks)) == 1 else None
  if config.blocks is not None and config.depth not in (None, depth):
    raise ConfigurationError("model.blocks", config.blocks, "give --model.depth or --model.blocks, not both")
  config = dataclasses.replace(
    config,
    bottleneck=bottleneck,
    growth_rate=growth_rate,
    stem=stem,
    compression=compression,
    blocks=blocks,
    depth=depth,
    bottleneck_width=(config.bottleneck_width or 4) if bottleneck else 0,
    initial_channels=config.initial_channels or (2 * growth_rate if bottleneck else 16),
  )
  channels = config.initial_channels
  for layers in blocks[:-1]:
    channels = int(compression * (channels + layers * growth_rate))
    if channels < 1:
      raise ConfigurationError(
        "model.compression", compression, "leaves a transition without channels; take a larger one"
      )
  return config


def _complete_resnet(config: ModelConfig) -> ModelConfig:
  _refuse(config, _DENSENET_ONLY)
  if config.depth is None:
    raise ConfigurationError("model.family", config.family, "needs a depth; give --model.depth")
  if config.remat not in (*_RESNET_REMAT, "auto"):
    raise ConfigurationError(
      "model.remat", config.remat, "is for DenseNet; a ResNet takes none, or dense_layer for each residual unit"
    )
  if config.family != "wide" and config.widen_factor not in (None, 1):
    raise ConfigurationError("model.widen-factor", config.widen_factor, "is for --model.family wide")
  if config.family != "resnet" and config.survival not in (None, 1):
    raise ConfigurationError("model.survival", config.survival, "is for --model.family resnet")
  if config.family != "resnet" and config.shortcut is not None:
    raise ConfigurationError("model.shortcut", config.shortcut, "is for --model.family resnet")
  if config.family != "wide" and config.dropout:
    raise ConfigurationError("model.dropout", config.dropout, f"a {config.family} network has no dropout")
  try:
    units_of_depth(config.depth, config.family)
  except ValueError as error:
    raise ConfigurationError("model.depth", config.depth, str(error)) from None
  survival = 1.0 if config.survival is None else config.survival
  shortcut = (config.shortcut or ("average" if survival < 1 else "subsample")) if config.family == "resnet" else None
  return dataclasses.replace(config, widen_factor=config.widen_factor or 1, survival=survival, shortcut=shortcut)


def _refuse(config: ModelConfig, names: tuple[str, ...]) -> None:
  for name in names:
    if getattr(config, name) is not None:
      raise ConfigurationError(
        f"model.{name.replace('_', '-')}", getattr(config, name), f"does not apply to a {config.family} network"
      )


def _check(config: ModelConfig) -> None:
  """Refuses what cannot be, flag by flag."""
  for name in ("growth_rate", "initial_channels", "depth", "widen_factor"):
    value = getattr(config, name)
    if value is not None and value < 1:
      raise ConfigurationError(f"model.{name.replace('_', '-')}", value, "must be at least 1")
  if config.blocks is not None and (not config.blocks or min(config.blocks) < 1):
    raise ConfigurationError("model.blocks", config.blocks, "one or more blocks of at least 1 layer")
  if config.bottleneck is False and config.bottleneck_width:
    raise ConfigurationError("model.bottleneck-width", config.bottleneck_width, "this network has no bottleneck")
  if config.bottleneck is not False and config.bottleneck_width is not None and config.bottleneck_width < 1:
    raise ConfigurationError("model.bottleneck-width", config.bottleneck_width, "must be at least 1")
  if config.compression is not None and not 0 < config.compression <= 1:
    raise ConfigurationError("model.compression", config.compression, "above 0, at most 1")
  if config.survival is not None and not 0 < config.survival <= 1:
    raise ConfigurationError("model.survival", config.survival, "above 0, at most 1")
  if config.dropout is not None and not 0 <= config.dropout < 1:
    raise ConfigurationError("model.dropout", config.dropout, "at least 0, below 1")
  if not config.epsilon > 0:
    raise ConfigurationError("model.epsilon", config.epsilon, "must be above 0")
  if config.bottleneck is False and config.remat == "bottleneck":
    raise ConfigurationError("model.remat", "bottleneck", "this network has no bottleneck to keep; use dense_layer")


def remat_policies(config: ModelConfig) -> tuple[RematPolicy, ...]:
  """The policies that a completed configuration can take; `auto` chooses among them."""
  if config.family != "densenet":
    return _RESNET_REMAT
  return tuple(policy for policy in remat.POLICIES if config.bottleneck or policy != "bottleneck")


def smallest_map(config: ModelConfig, size: int) -> int:
  """Height of the last feature maps of a completed configuration, for pictures of that height."""
  if config.family != "densenet":
    return -(-size // 4)
  return densenet.smallest_map(size, len(config.blocks), config.stem)


def check_pictures(config: ModelConfig, size: int, batch_size: int, groups: int = 1) -> None:
  """Refuses pictures that a completed configuration cannot train on.

  Args:
    config: completed.
    size: the pictures' smaller side.
    batch_size: pictures a step.
    groups: statistics groups of these, each normalised by itself.

  Raises:
    ConfigurationError: nothing is left of them, or a single number to normalise.
  """
  smallest = smallest_map(config, size)
  if smallest < 1:
    fits = f"pictures of {size}x{size} pixels shrink to nothing; take fewer blocks or --model.stem cifar"
    raise ConfigurationError("model.blocks", config.blocks, fits)
  if batch_size // groups * smallest**2 == 1:
    fits = "the last block would normalise over a single pixel; at least "
    raise ConfigurationError("batch-size", batch_size, fits + (f"2 for each of {groups} groups" if groups > 1 else "2"))


def build(config: ModelConfig, num_classes: int, param_dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """The network of a completed configuration.

  Args:
    config: from `complete`; a `dropout` of None means none, and `auto` has been chosen for.
    num_classes: width of the classifier.
    param_dtype: of parameters and statistics; float64 makes activations float64 too.

  Returns:
    A module with the call (images [batch, height, width, channels], train) -> logits [batch, num_classes].
  """
  shared = {
    "num_classes": num_classes,
    "dropout_rate": config.dropout or 0.0,
    "remat": config.remat,
    "epsilon": config.epsilon,
    "convolution_init": config.convolution_init,
    "classifier_init": config.classifier_init,
    "dtype": jnp.dtype(config.dtype) if param_dtype == jnp.float32 else param_dtype,
    "param_dtype": param_dtype,
    "precision": None if config.precision == "default" else config.precision,
  }
  if config.family != "densenet":
    units = units_of_depth(config.depth, config.family)
    return ResNet(
      config.family,
      units,
      widen_factor=config.widen_factor,
      survival=config.survival,
      average_shortcut=config.shortcut == "average",
      **shared,
    )
  return DenseNet(
    blocks=config.blocks,
    growth_rate=config.growth_rate,
    initial_channels=config.initial_channels,
    bottleneck_width=config.bottleneck_width,
    compression=config.compression,
    stem=config.stem,
    **shared,
  )
