"""Every published network by name, with its published figures."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dn_jax.errors import ConfigurationError, near

# The columns of the paper's table 2: "+" is with mirror and shift.
COLUMNS = ("c10", "c10+", "c100", "c100+", "svhn")
# ImageNet's: top-1 and top-5 with one crop, and with ten.
IMAGENET_COLUMNS = ("top-1", "top-5", "10-crop top-1", "10-crop top-5")


@dataclasses.dataclass(frozen=True)
class Published:
  """A network as published.

  name:       of the zoo
  title:      as the tables print it
  model:      fields of `ModelConfig`
  parameters: in millions, as printed; None where not printed
  errors:     test error in percent by column of `COLUMNS` or `IMAGENET_COLUMNS`
  source:     where the figures stand
  protocol:   whose training they were got with, see `dn_jax.config.protocol`
  note:       what of these figures is of another network, or counted otherwise; else empty
  """

  name: str
  title: str
  model: Mapping[str, Any]
  parameters: float | None
  errors: Mapping[str, float]
  source: str
  protocol: str = "densenet"
  note: str = ""

  @property
  def imagenet(self) -> bool:
    """Whether it was trained on ImageNet: 1000 classes, 224x224 pictures."""
    return "top-1" in self.errors


_TABLE_2 = "CVPR 2017 paper, table 2"
_TORCH = "README of the authors' Torch code"


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
    _columns(errors),
    source,
  )


def _columns(errors: tuple[float | None, ...]) -> dict[str, float]:
  return {column: error for column, error in zip(COLUMNS, errors, strict=True) if error is not None}


def _baseline(
  name: str,
  title: str,
  protocol: str,
  parameters: float,
  errors: tuple[float | None, ...],
  note: str = "",
  **model: Any,
) -> Published:
  return Published(name, title, model, parameters, _columns(errors), _TABLE_2, protocol, note)


def _imagenet(
  name: str,
  blocks: tuple[int, ...],
  growth_rate: int,
  parameters: float,
  errors: tuple[float, ...],
  source: str = "CVPR 2017 paper, table 3",
) -> Published:
  return Published(
    name,
    name.replace("densenet", "DenseNet"),
    {"blocks": blocks, "growth_rate": growth_rate, "bottleneck": True, "compression": 0.5, "stem": "imagenet"},
    parameters,
    dict(zip(IMAGENET_COLUMNS, errors, strict=False)),
    source,
  )


_ENTRIES = (
  _cifar("DenseNet", 40, 12, False, 1.0, (7.00, 5.24, 27.55, 24.42, 1.79)),
  _cifar("DenseNet", 100, 12, False, 7.0, (5.77, 4.10, 23.79, 20.20, 1.67)),
  _cifar("DenseNet", 100, 24, False, 27.2, (5.83, 3.74, 23.42, 19.25, 1.59)),
  _cifar("DenseNet-BC", 100, 12, True, 0.8, (5.92, 4.51, 24.15, 22.27, 1.76)),
  _cifar("DenseNet-BC", 250, 24, True, 15.3, (5.19, 3.62, 19.64, 17.60, 1.74)),
  _cifar("DenseNet-BC", 190, 40, True, 25.6, (None, 3.46, None, 17.18, None)),
  _cifar("Wide-DenseNet-BC", 40, 36, True, 1.5, (None, 4.58, None, 22.30, None), _TORCH),
  _cifar("Wide-DenseNet-BC", 40, 48, True, 2.7, (None, 3.99, None, 20.29, None), _TORCH),
  _cifar("Wide-DenseNet-BC", 40, 60, True, 4.3, (None, 4.01, None, 19.99, None), _TORCH),
  dataclasses.replace(
    _cifar(
      "DenseNet-Caffe",
      40,
      12,
      False,
      None,
      (7.09, None, None, None, None),
      "README of the authors' Caffe code",
      convolution_init="fan_in",
      classifier_init="xavier",
      dropout=0.2,
    ),
    protocol="caffe",
  ),
  _imagenet("densenet-121", (6, 12, 24, 16), 32, 8.0, (25.02, 7.71, 23.61, 6.66)),
  _imagenet("densenet-169", (6, 12, 32, 32), 32, 14.1, (23.80, 6.85, 22.08, 5.92)),
  _imagenet("densenet-201", (6, 12, 48, 32), 32, 20.0, (22.58, 6.34, 21.46, 5.54)),
  _imagenet("densenet-264", (6, 12, 64, 48), 32, 33.3, (22.15, 6.12, 20.80, 5.29)),
  _imagenet("densenet-161", (6, 12, 36, 24), 48, 28.7, (22.2,), _TORCH),
  _imagenet("densenet-232-48", (6, 12, 48, 48), 48, 55.6, (21.2,), _TORCH),
  # Trained with a cosine schedule: --optimizer.schedule cosine.
  _imagenet("densenet-264-cosine", (6, 12, 64, 48), 32, 33.3, (21.6,), _TORCH),
  _imagenet("densenet-264-48-cosine", (6, 12, 64, 48), 48, 72.7, (20.4,), _TORCH),
  # As the paper's table prints them.
  _baseline("resnet-110", "ResNet-110", "resnet", 1.7, (None, 6.61, None, None, None), family="resnet", depth=110),
  _baseline(
    "resnet-110-constant-depth",
    "ResNet-110 (reported with stochastic depth)",
    "stochastic-depth",
    1.7,
    (13.63, 6.41, 44.74, 27.22, 2.01),
    family="resnet",
    depth=110,
    convolution_init="fan_in",
    shortcut="average",
  ),
  _baseline(
    "resnet-110-stochastic-depth",
    "ResNet-110 with stochastic depth",
    "stochastic-depth",
    1.7,
    (11.66, 5.23, 37.80, 24.58, 1.75),
    "the published SVHN error, 1.75, is of a network of 152 layers",
    family="resnet",
    depth=110,
    survival=0.5,
  ),
  _baseline(
    "resnet-1202-stochastic-depth",
    "ResNet-1202 with stochastic depth",
    "stochastic-depth",
    10.2,
    (None, 4.91, None, None, None),
    "it has 19.4M parameters, not the published 10.2M",
    family="resnet",
    depth=1202,
    survival=0.5,
  ),
  _baseline(
    "preactivation-164",
    "ResNet-164 (pre-activation)",
    "preactivation",
    1.7,
    (11.26, 5.46, 35.58, 24.33, None),
    family="preactivation",
    depth=164,
  ),
  _baseline(
    "preactivation-1001",
    "ResNet-1001 (pre-activation)",
    "preactivation",
    10.2,
    (10.56, 4.62, 33.47, 22.71, None),
    "the published 10.2M parameters leave out those of batch norm; with them it has 10.3M",
    family="preactivation",
    depth=1001,
  ),
  _baseline(
    "wide-16-8",
    "Wide ResNet-16-8",
    "wide",
    11.0,
    (None, 4.81, None, 22.07, None),
    family="wide",
    depth=16,
    widen_factor=8,
  ),
  _baseline(
    "wide-28-10",
    "Wide ResNet-28-10",
    "wide",
    36.5,
    (None, 4.17, None, 20.50, None),
    family="wide",
    depth=28,
    widen_factor=10,
  ),
  _baseline(
    "wide-16-4-dropout",
    "Wide ResNet-16-4 with dropout",
    "wide",
    2.7,
    (None, None, None, None, 1.64),
    family="wide",
    depth=16,
    widen_factor=4,
    dropout=0.4,
  ),
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
