"""Every published network by name, with its published figures."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from dn_jax.errors import ConfigurationError, near

# The columns of the paper's table 2: "+" is with mirror and shift.
COLUMNS = ("c10", "c10+", "c100", "c100+", "svhn")
# ImageNet's: top-1 and top-5 with one crop, and with ten.
IMAGENET_COLUMNS = ("top-1", "top-5", "10-crop top-1", "10-crop top-5")


class Counted(NamedTuple):
  """Counts of `dn_jax.models.summary`, recorded here since counting all networks takes a minute.

  parameters: with 10 classes, or ImageNet's 1000
  flops:      for an image of 32x32 or 224x224 pixels; a multiply-add counts as two
  """

  parameters: int
  flops: int


@dataclasses.dataclass(frozen=True)
class Published:
  """A network as published.

  title:      in the tables
  model:      fields of `ModelConfig`
  parameters: in millions, as printed; None where not printed
  counted:    for the network here
  errors:     test error in percent by column of `COLUMNS` or `IMAGENET_COLUMNS`
  source:     of the numbers
  protocol:   of the published training, see `dn_jax.config.protocol`
  note:       which numbers are of another network, or counted otherwise
  """

  name: str
  title: str
  model: Mapping[str, Any]
  parameters: float | None
  counted: Counted
  errors: Mapping[str, float]
  source: str
  protocol: str = "densenet"
  note: str = ""

  @property
  def imagenet(self) -> bool:
    """Whether it was trained on ImageNet: 1000 classes, 224x224 pixels."""
    return "top-1" in self.errors


_TABLE_2, _TABLE_3 = "CVPR 2017 paper, table 2", "CVPR 2017 paper, table 3"
_TORCH = "README of the authors' Torch code"

# Parameters in millions as printed, and what `dn_jax.models.summary` counts: parameters and FLOPs.
Size = tuple[float | None, int, int]


def _cifar(
  title: str,
  depth: int,
  growth_rate: int,
  size: Size,
  errors: tuple[float | None, ...],
  source: str = _TABLE_2,
  **model: Any,
) -> Published:
  bottleneck = "BC" in title
  model |= {"depth": depth, "growth_rate": growth_rate, "bottleneck": bottleneck, "stem": "cifar"}
  model["compression"] = 0.5 if bottleneck else 1.0
  name = f"{title.lower()}-{depth}-{growth_rate}"
  title = f"{title} (L={depth}, k={growth_rate})"
  return Published(name, title, model, size[0], Counted(*size[1:]), _columns(errors), source)


def _columns(errors: tuple[float | None, ...]) -> dict[str, float]:
  return {column: error for column, error in zip(COLUMNS, errors, strict=True) if error is not None}


def _baseline(
  name: str, title: str, protocol: str, size: Size, errors: tuple[float | None, ...], note: str = "", **model: Any
) -> Published:
  model["family"] = "resnet" if protocol == "stochastic-depth" else protocol
  return Published(name, title, model, size[0], Counted(*size[1:]), _columns(errors), _TABLE_2, protocol, note)


def _wide(depth: int, widen_factor: int, size: Size, errors: tuple[float | None, ...], **model: Any) -> Published:
  name, title = f"wide-{depth}-{widen_factor}", f"Wide ResNet-{depth}-{widen_factor}"
  if "dropout" in model:
    name, title = f"{name}-dropout", f"{title} with dropout"
  return _baseline(name, title, "wide", size, errors, depth=depth, widen_factor=widen_factor, **model)


def _imagenet(
  name: str, blocks: tuple[int, ...], growth_rate: int, size: Size, errors: tuple[float, ...], source: str = _TABLE_3
) -> Published:
  model = {"blocks": blocks, "growth_rate": growth_rate, "bottleneck": True, "compression": 0.5, "stem": "imagenet"}
  columns = dict(zip(IMAGENET_COLUMNS, errors, strict=False))
  return Published(name, name.replace("densenet", "DenseNet"), model, size[0], Counted(*size[1:]), columns, source)


def _rdnet(
  letter: str,
  name: str,
  channels: tuple[int, tuple[int, ...]],
  downsample: tuple[int, ...],
  survival: float,
  size: Size,
  errors: tuple[float, ...],
) -> Published:
  """channels: of the stem, and the growth rate of each block of three layers."""
  model = {
    "family": "rdnet",
    "initial_channels": channels[0],
    "growth_rates": channels[1],
    "downsample": downsample,
    "survival": survival,
  }
  columns = dict(zip(IMAGENET_COLUMNS, errors, strict=False))
  source = "ECCV 2024 paper and its authors' code"
  return Published(f"rdnet-{name}", f"RDNet-{letter}", model, size[0], Counted(*size[1:]), columns, source, "rdnet")


_CAFFE = {"convolution_init": "fan_in", "classifier_init": "xavier", "dropout": 0.2}
_ENTRIES = (
  _cifar("DenseNet", 40, 12, (1.0, 1_019_722, 529_625_856), (7.00, 5.24, 27.55, 24.42, 1.79)),
  _cifar("DenseNet", 100, 12, (7.0, 6_979_642, 3_539_032_896), (5.77, 4.10, 23.79, 20.20, 1.67)),
  _cifar("DenseNet", 100, 24, (27.2, 27_249_082, 13_778_695_488), (5.83, 3.74, 23.42, 19.25, 1.59)),
  _cifar("DenseNet-BC", 100, 12, (0.8, 769_162, 575_859_384), (5.92, 4.51, 24.15, 22.27, 1.76)),
  _cifar("DenseNet-BC", 250, 24, (15.3, 15_324_406, 10_837_571_448), (5.19, 3.62, 19.64, 17.60, 1.74)),
  _cifar("DenseNet-BC", 190, 40, (25.6, 25_624_430, 18_603_891_480), (None, 3.46, None, 17.18, None)),
  _cifar("Wide-DenseNet-BC", 40, 36, (1.5, 1_542_682, 1_294_597_872), (None, 4.58, None, 22.30, None), _TORCH),
  _cifar("Wide-DenseNet-BC", 40, 48, (2.7, 2_733_130, 2_299_734_336), (None, 3.99, None, 20.29, None), _TORCH),
  _cifar("Wide-DenseNet-BC", 40, 60, (4.3, 4_261_690, 3_591_672_720), (None, 4.01, None, 19.99, None), _TORCH),
  dataclasses.replace(
    _cifar("DenseNet-Caffe", 40, 12, (None, 1_019_722, 529_625_856), (7.09, None, None, None, None), **_CAFFE),
    source="README of the authors' Caffe code",
    protocol="caffe",
  ),
  _imagenet("densenet-121", (6, 12, 24, 16), 32, (8.0, 7_978_856, 5_668_323_328), (25.02, 7.71, 23.61, 6.66)),
  _imagenet("densenet-169", (6, 12, 32, 32), 32, (14.1, 14_149_480, 6_719_686_656), (23.80, 6.85, 22.08, 5.92)),
  _imagenet("densenet-201", (6, 12, 48, 32), 32, (20.0, 20_013_928, 8_582_731_776), (22.58, 6.34, 21.46, 5.54)),
  _imagenet("densenet-264", (6, 12, 64, 48), 32, (33.3, 33_337_704, 11_503_306_752), (22.15, 6.12, 20.80, 5.29)),
  _imagenet("densenet-161", (6, 12, 36, 24), 48, (28.7, 28_681_000, 15_455_814_144), (22.2,), _TORCH),
  _imagenet("densenet-232-48", (6, 12, 48, 48), 48, (55.6, 55_570_984, 20_238_259_200), (21.2,), _TORCH),
  # Trained with a cosine schedule: --optimizer.schedule cosine.
  _imagenet("densenet-264-cosine", (6, 12, 64, 48), 32, (33.3, 33_337_704, 11_503_306_752), (21.6,), _TORCH),
  _imagenet("densenet-264-48-cosine", (6, 12, 64, 48), 48, (72.7, 72_686_632, 25_701_387_264), (20.4,), _TORCH),
  _rdnet("T", "tiny", (64, (64, 104, *[128] * 4, 224)), (1, 2, 6), 0.85, (23.86, 23_863_008, 10_065_346_848), (17.19,)),
  _rdnet(
    "S", "small", (72, (64, *[128] * 8, 240, 240)), (1, 2, 9), 0.65, (50.44, 50_436_448, 17_412_433_680), (16.34,)
  ),
  _rdnet(
    "B", "base", (120, (96, 128, *[168] * 7, 336, 336)), (1, 2, 9), 0.6, (87.45, 87_451_096, 30_716_318_592), (15.63,)
  ),
  _rdnet(
    "L",
    "large",
    (144, (128, 192, *[256] * 8, 360, 360)),
    (1, 2, 10),
    0.5,
    (186.27, 186_269_632, 69_350_587_584),
    (15.21,),
  ),
  # For people without ImageNet; nobody has published it.
  Published(
    "rdnet-cifar",
    "RDNet for 32x32 pixels",
    {
      "family": "rdnet",
      "initial_channels": 32,
      "growth_rates": (24, 32, 48, 64),
      "downsample": (1, 3),
      "patch_size": 2,
      "survival": 0.9,
    },
    None,
    Counted(1_152_074, 109_803_552),
    {},
    "not published",
    "rdnet",
  ),
  # As the paper's table prints them.
  _baseline(
    "resnet-110", "ResNet-110", "resnet", (1.7, 1_727_962, 505_775_360), (None, 6.61, None, None, None), depth=110
  ),
  _baseline(
    "resnet-110-constant-depth",
    "ResNet-110 (reported with stochastic depth)",
    "stochastic-depth",
    (1.7, 1_727_962, 505_775_360),
    (13.63, 6.41, 44.74, 27.22, 2.01),
    depth=110,
    convolution_init="fan_in",
    shortcut="average",
  ),
  _baseline(
    "resnet-110-stochastic-depth",
    "ResNet-110 with stochastic depth",
    "stochastic-depth",
    (1.7, 1_727_962, 505_775_360),
    (11.66, 5.23, 37.80, 24.58, 1.75),
    "the published SVHN error, 1.75, is of a network of 152 layers",
    depth=110,
    survival=0.5,
  ),
  _baseline(
    "resnet-1202-stochastic-depth",
    "ResNet-1202 with stochastic depth",
    "stochastic-depth",
    (10.2, 19_421_274, 5_658_477_824),
    (None, 4.91, None, None, None),
    "it has 19.4M parameters, not the published 10.2M",
    depth=1202,
    survival=0.5,
  ),
  _baseline(
    "preactivation-164",
    "ResNet-164 (pre-activation)",
    "preactivation",
    (1.7, 1_703_258, 489_001_984),
    (11.26, 5.46, 35.58, 24.33, None),
    depth=164,
  ),
  _baseline(
    "preactivation-1001",
    "ResNet-1001 (pre-activation)",
    "preactivation",
    (10.2, 10_327_706, 2_975_699_968),
    (10.56, 4.62, 33.47, 22.71, None),
    "the published 10.2M parameters leave out those of batch norm; with them it has 10.3M",
    depth=1001,
  ),
  _wide(16, 8, (11.0, 10_961_370, 3_096_291_328), (None, 4.81, None, 22.07, None)),
  _wide(28, 10, (36.5, 36_479_194, 10_486_657_536), (None, 4.17, None, 20.50, None)),
  _wide(16, 4, (2.7, 2_748_890, 785_224_704), (None, None, None, None, 1.64), dropout=0.4),
)
NETWORKS: dict[str, Published] = {entry.name: entry for entry in _ENTRIES}


class Recipe(NamedTuple):
  """What others published of a network with a training of their own.

  errors: test error in percent by column of `COLUMNS`
  source: of the numbers
  """

  errors: Mapping[str, float]
  source: str


# By protocol and network. These are no numbers of the paper's tables.
RECIPES: dict[tuple[str, str], Recipe] = {
  ("mixup", "densenet-bc-190-40"): Recipe({"c10+": 2.7, "c100+": 16.8}, "mixup's paper, section 3.2, FROM MEMORY")
}
# Where a person finds the names.
LISTED = "no network of that name; python -m dn_jax zoo lists them"


def paper_densenets() -> list[Published]:
  """The DenseNets for CIFAR in the paper's table 2, and the wide ones of its authors' code."""
  return [entry for entry in NETWORKS.values() if entry.protocol == "densenet" and "c10+" in entry.errors]


def published(name: str) -> Published:
  """The network of that name.

  Raises:
    ConfigurationError: there is none; near names are offered.
  """
  if name not in NETWORKS:
    raise ConfigurationError("model.name", name, near(name, NETWORKS, LISTED))
  return NETWORKS[name]
