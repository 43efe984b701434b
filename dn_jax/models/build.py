"""From a completed configuration to a network."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dn_jax.config.families import units_of_depth
from dn_jax.config.network import policy_of
from dn_jax.config.schema import ModelConfig
from dn_jax.models.densenet import DenseNet
from dn_jax.models.rdnet import RDNet
from dn_jax.models.resnet import ResNet


def _densenet(config: ModelConfig, **shared: Any) -> DenseNet:
  return DenseNet(
    blocks=config.blocks,
    growth_rate=config.growth_rate,
    initial_channels=config.initial_channels,
    bottleneck_width=config.bottleneck_width,
    compression=config.compression,
    stem=config.stem,
    **shared,
  )


def _rdnet(config: ModelConfig, **shared: Any) -> RDNet:
  del shared["dropout_rate"]
  return RDNet(
    blocks=config.blocks,
    growth_rates=config.growth_rates,
    initial_channels=config.initial_channels,
    downsample=config.downsample,
    patch_size=config.patch_size,
    compression=config.compression,
    **shared,
  )


def _resnet(config: ModelConfig, **shared: Any) -> ResNet:
  return ResNet(
    config.family,
    units_of_depth(config.depth, config.family),
    widen_factor=config.widen_factor,
    average_shortcut=config.shortcut == "average",
    **shared,
  )


# By the family's name in `dn_jax.config.families.FAMILIES`.
BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
  "densenet": _densenet,
  "rdnet": _rdnet,
  **dict.fromkeys(("resnet", "preactivation", "wide"), _resnet),
}


def build(config: ModelConfig, num_classes: int) -> nn.Module:
  """The network of a completed configuration.

  Args:
    config: from `complete_model`; a `dropout` of None means none, a `remat` of None the family's default; not `auto`.
    num_classes: width of the classifier.

  Returns:
    A module with the call (images [batch, height, width, channels], train) -> logits [batch, num_classes].
  """
  return BUILDERS[config.family](
    config,
    num_classes=num_classes,
    dropout_rate=config.dropout or 0.0,
    survival=1.0 if config.survival is None else config.survival,
    remat=policy_of(config),
    epsilon=config.epsilon,
    convolution_init=config.convolution_init,
    classifier_init=config.classifier_init,
    dtype=jnp.dtype(config.dtype),
    precision=None if config.precision == "default" else config.precision,
  )
