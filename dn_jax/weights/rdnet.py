"""RDNets in PyTorch's files, by timm's names.

| names                                                    | of                                       |
|----------------------------------------------------------|------------------------------------------|
| `dense_stages.1.2.dense_block0.layers.layers.0.weight`   | timm, and its authors                    |
| `stem.0.weight`                                          | timm                                     |
| `stem.stem.0.weight`                                     | its authors, NAVER                       |

timm counts stages, blocks and layers from 0, and calls a layer "dense block" and a block "dense stage". A stage is a
`Sequential`: in the first the layers are its module 0; in the others they come after a norm (0) and a convolution (1).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dn_jax.config.about import AboutInput
from dn_jax.config.network import is_for_imagenet
from dn_jax.config.rdnet import EXCITED_FROM, kept_channels
from dn_jax.config.schema import ModelConfig
from dn_jax.models.rdnet import RDNet
from dn_jax.weights import blocks
from dn_jax.weights.table import Format, Program, Unit

_SAME = lambda found: found[0]
_LAYERS = {
  r"stem\.(?:stem\.)?([01])": lambda found: f"stem.{found[1]}",
  r"dense_stages\.\d{1,4}\.[01]": _SAME,
  r"dense_stages\.\d{1,4}\.[02]\.dense_block\d{1,4}(?:\.layers\.layers\.(?:[0124]|5\.fc))?": _SAME,
  r"head\.norm": _SAME,
}
_LAYER = re.compile(r"dense_stages\.(\d{1,4})\.[02]\.dense_block(\d{1,4})\.layers\.layers\.4\.weight")
_WORDS = {
  "initial_channels": "its stem has {} channels, not {}",
  "patch_size": "its stem cuts images into patches of {} pixels a side, not {}",
}


def _stage(block: int) -> str:
  """Of the layers of a block, which is counted from 1."""
  return f"dense_stages.{block - 1}.{2 if block > 1 else 0}"


def _units(network: RDNet) -> list[Unit]:
  """All layers with weights, in the network's order."""
  result = [Unit("stem.0", "biased_conv", ("stem", "conv")), Unit("stem.1", "layer_norm", ("stem", "norm"))]
  for b, layers in enumerate(network.blocks, start=1):
    if b > 1:
      there, here = f"dense_stages.{b - 1}", f"transition{b - 1}"
      result.append(Unit(f"{there}.0", "layer_norm", (here, "norm")))
      result.append(Unit(f"{there}.1", "biased_conv", (here, "conv")))
    for n in range(1, layers + 1):
      there, here = f"{_stage(b)}.dense_block{n - 1}", (f"block{b}", f"layer{n}")
      result.append(Unit(there, "layer_scale", here))
      result.append(Unit(f"{there}.layers.layers.0", "biased_conv", (*here, "mix")))
      result.append(Unit(f"{there}.layers.layers.1", "layer_norm", (*here, "norm")))
      result.append(Unit(f"{there}.layers.layers.2", "biased_conv", (*here, "expand")))
      result.append(Unit(f"{there}.layers.layers.4", "biased_conv", (*here, "project")))
      if b >= EXCITED_FROM:
        result.append(Unit(f"{there}.layers.layers.5.fc", "biased_conv", (*here, "excite")))
  result.append(Unit("head.norm", "layer_norm", ("last", "norm")))
  result.append(Unit("head.fc", "linear", ("classifier",)))
  return result


def _model_of(state: Mapping[str, Any]) -> ModelConfig | None:
  found = (match for name in state if (match := _LAYER.fullmatch(name)))
  layers = blocks.layers_of((int(match[1]) + 1, int(match[2]) + 1) for match in found)
  if layers is None:
    return None
  kernel = lambda name: state[f"{name}.weight"].shape
  channels, _, patch_size, width = kernel("stem.0")
  if patch_size != width:
    return None
  transitions = [kernel(f"dense_stages.{b}.1") for b in range(1, len(layers))]
  if any(sides not in ([1, 1], [2, 2]) for _, _, *sides in transitions):
    return None
  return ModelConfig(
    family="rdnet",
    blocks=layers,
    growth_rates=tuple(kernel(f"{_stage(b)}.dense_block0.layers.layers.4")[0] for b in range(1, len(layers) + 1)),
    initial_channels=channels,
    downsample=tuple(b for b, shape in enumerate(transitions, start=1) if shape[2] == 2),
    patch_size=patch_size,
    compression=blocks.compression_of([shape[:2] for shape in transitions], kept_channels),
  )


def _differences(found: ModelConfig, asked: ModelConfig) -> Iterator[str]:
  yield from blocks.different_layers(found, asked)
  for b, (theirs, others) in enumerate(zip(found.growth_rates, asked.growth_rates, strict=True), start=1):
    if theirs != others:
      yield f"the growth rate of its dense block {b} is {theirs}, not {others}"
  yield from blocks.different_fields(found, asked, _WORDS)
  for b in range(1, len(found.blocks)):
    if (b in found.downsample) != (b in asked.downsample):
      yield f"its transition {b} {'halves' if b in found.downsample else 'keeps'} the map's size"
  yield from blocks.different_transitions(found, asked, kept_channels, lambda model: model.growth_rates)


def _strange(state: Mapping[str, Any]) -> str | None:
  if not any(map(_LAYER.fullmatch, state)):
    return None
  if len(getattr(state.get("stem.1.weight"), "shape", ())) == 4:
    return "is an RDNet whose stem is of overlapping 3x3 convolutions (timm's `overlap`); only patches are built"
  if "norm_pre.weight" in state:
    return "is an RDNet with a norm before its pool (timm's `head_norm_first`); only one after it is built"
  if not any(name.endswith(".gamma") for name in state):
    return "is an RDNet without layer scale; only layers with it are built"
  return None


def _images(model: ModelConfig) -> tuple[str, AboutInput]:
  if not is_for_imagenet(model):
    return "cifar10", AboutInput()
  # timm's `default_cfgs`: a crop of 0.9 of the image.
  return "imagenet2012", AboutInput(resize=248, interpolation="bicubic")


RDNET = Format(
  network=RDNet,
  called="an RDNet",
  whose="timm's RDNet",
  programs=(
    Program(
      re.compile(r"(?P<prefix>(?:.+?\.)??)(?P<container>)dense_stages\.\d{1,4}\.\d{1,4}\.dense_block\d{1,4}\..*"),
      "head.fc",
    ),
  ),
  container="",
  layers=_LAYERS,
  stem="stem.0",
  units=_units,
  model_of=_model_of,
  fields=("blocks", "growth_rates", "initial_channels", "downsample", "patch_size", "compression"),
  differences=_differences,
  images=_images,
  strange=_strange,
)
