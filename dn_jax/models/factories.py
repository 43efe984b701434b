"""The submodules that a DenseNet and a ResNet make alike, from attributes that both have."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from dn_jax.models.batch_stats import BatchNorm, MeasureMap
from dn_jax.models.dropout import Dropout
from dn_jax.models.initial import CLASSIFIER, CONVOLUTION

ModuleFactory = Callable[..., Any]


class Factories(NamedTuple):
  """conv(channels, kernel_size), norm(), measure(), dropout(); each also takes Flax's `name`."""

  conv: ModuleFactory
  norm: ModuleFactory
  measure: ModuleFactory
  dropout: ModuleFactory


def factories(network: nn.Module, convolve: Callable[..., Any], padding: Any = "SAME") -> Factories:
  """The factories of a network's submodules; its convolutions call `convolve`, and are padded thus unless told."""
  return Factories(
    conv=functools.partial(
      nn.Conv,
      padding=padding,
      use_bias=False,
      kernel_init=CONVOLUTION[network.convolution_init],
      conv_general_dilated=convolve,
      precision=network.precision,
      dtype=network.dtype,
      param_dtype=network.param_dtype,
    ),
    norm=functools.partial(BatchNorm, network.epsilon, dtype=network.dtype, param_dtype=network.param_dtype),
    measure=functools.partial(MeasureMap, network.momentum, param_dtype=network.param_dtype, cut=network.cut),
    dropout=functools.partial(Dropout, network.dropout_rate, network.cut),
  )


def classifier(network: nn.Module) -> nn.Dense:
  """The last layer, [batch, channels] to logits [batch, num_classes]; computed in `param_dtype`."""
  return nn.Dense(
    network.num_classes,
    kernel_init=CLASSIFIER[network.classifier_init],
    precision=network.precision,
    dtype=network.param_dtype,
    param_dtype=network.param_dtype,
    name="classifier",
  )
