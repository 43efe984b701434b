"""DenseNets in PyTorch's files, by torchvision's names.

| names                                              | of                                                     |
|----------------------------------------------------|--------------------------------------------------------|
| `features.denseblock1.denselayer1.norm1.weight`    | torchvision, timm, the memory-efficient implementation |
| `features.denseblock1.denselayer1.norm.1.weight`   | torchvision's first files                              |
| `denseblock1.denselayer1.norm1.weight`             | the module `features` by itself                        |
| `features.stage1.unit1.conv1.bn.weight`            | pytorchcv                                              |
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dn_jax.config.about import AboutInput
from dn_jax.config.network import is_for_imagenet
from dn_jax.config.schema import ModelConfig
from dn_jax.models.densenet import DenseNet
from dn_jax.weights import blocks
from dn_jax.weights.table import Format, Program, Unit

_BEFORE = r"(?P<prefix>(?:.+?\.)??)(?P<container>(?:features\.)?)"
_KIND = {"bn": "norm", "conv": "conv"}
_LAYERS = {
  r"conv0|norm0|norm5|transition\d{1,4}\.(?:norm|conv)": lambda found: found[0],
  r"norm_final": lambda found: "norm5",  # The memory-efficient implementation's.
  r"(denseblock\d{1,4}\.denselayer\d{1,4}\.(?:norm|conv))\.?([12])": lambda found: found[1] + found[2],
  r"init_block(?:\.conv)?": lambda found: "conv0",
  r"init_block\.bn": lambda found: "norm0",
  r"stage(\d{1,4})\.unit(\d{1,4})\.conv([12]?)\.(bn|conv)": (
    lambda found: f"denseblock{found[1]}.denselayer{found[2]}.{_KIND[found[4]]}{found[3] or 1}"
  ),
  r"stage(\d{1,4})\.trans\1\.conv\.(bn|conv)": lambda found: f"transition{int(found[1]) - 1}.{_KIND[found[2]]}",
  r"post_activ\.bn": lambda found: "norm5",
}
_LAYER = re.compile(r"features\.denseblock(\d{1,4})\.denselayer(\d{1,4})\.conv1\.weight")
_WORDS = {
  "growth_rate": "its growth rate is {}, not {}",
  "bottleneck_width": "its bottlenecks are {} times the growth rate wide, not {}",
  "initial_channels": "its stem has {} channels, not {}",
}


def _units(network: DenseNet) -> list[Unit]:
  """All layers with weights, in the network's order (Keras's too)."""
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
      maps = [((here, "output"), _kept(network.compression, sum(width for _, width in maps)))]
  result.append(Unit("features.norm5", "norm", ("last", "norm"), tuple(maps)))
  result.append(Unit("classifier", "linear", ("classifier",)))
  return result


def _kept(compression: float, channels: int) -> int:
  return int(compression * channels)


def _model_of(state: Mapping[str, Any]) -> ModelConfig | None:
  found = (match for name in state if (match := _LAYER.fullmatch(name)))
  layers = blocks.layers_of((int(match[1]), int(match[2])) for match in found)
  if layers is None:
    return None
  kernel = lambda name: state[f"features.{name}.weight"].shape
  stem, first = kernel("conv0"), kernel("denseblock1.denselayer1.conv1")
  imagenet = "features.norm0.weight" in state
  if stem[2:] != ((7, 7) if imagenet else (3, 3)) or stem[0] != first[1]:  # Such as timm's deep stems.
    return None
  bottleneck = "features.denseblock1.denselayer1.conv2.weight" in state
  growth_rate = kernel("denseblock1.denselayer1.conv2")[0] if bottleneck else first[0]
  transitions = [kernel(f"transition{b}.conv")[:2] for b in range(1, len(layers))]
  return ModelConfig(
    blocks=layers,
    growth_rate=growth_rate,
    bottleneck=bottleneck,
    bottleneck_width=first[0] // growth_rate if bottleneck else None,
    compression=blocks.compression_of(transitions, _kept),
    initial_channels=stem[0],
    stem="imagenet" if imagenet else "cifar",
  )


def _differences(found: ModelConfig, asked: ModelConfig) -> Iterator[str]:
  if found.stem != asked.stem:
    yield f"its stem is that for {'ImageNet' if found.stem == 'imagenet' else 'CIFAR'}, not {asked.stem}'s"
  yield from blocks.different_layers(found, asked)
  if found.bottleneck != asked.bottleneck:
    yield f"its layers have {'' if found.bottleneck else 'no '}bottlenecks"
  yield from blocks.different_fields(found, asked, _WORDS)
  yield from blocks.different_transitions(found, asked, _kept, lambda model: [model.growth_rate] * len(model.blocks))


DENSENET = Format(
  network=DenseNet,
  called="a DenseNet",
  whose="PyTorch's (torchvision's) DenseNet",
  programs=(
    Program(re.compile(_BEFORE + r"denseblock\d{1,4}\.denselayer\d{1,4}\..*"), "classifier"),
    Program(re.compile(_BEFORE + r"stage\d{1,4}\.unit\d{1,4}\..*"), "output", "pytorchcv's read as torchvision's"),
  ),
  container="features.",
  layers=_LAYERS,
  stem="features.conv0",
  units=_units,
  model_of=_model_of,
  fields=(
    "blocks",
    "growth_rate",
    "bottleneck",
    "bottleneck_width",
    "compression",
    "initial_channels",
    "stem",
    "depth",  # It says the layers of all blocks, where they are as many as it takes for granted.
  ),
  differences=_differences,
  images=lambda model: ("imagenet2012" if is_for_imagenet(model) else "cifar10", AboutInput()),
)
