"""Memory of a training step by its shapes: a formula, where the compiler is not to be asked.

In numbers of the activations' dtype, on one device. A dense layer with C inputs, bottleneck width w (0 without one) and
growth rate k keeps for its backward pass, for each pixel of its block:

  none        2C + 2w + k    the concatenation and its norm, the bottleneck's output and its norm, what the layer adds
  bottleneck  w + k
  others      k

Where layers are recomputed, the widest block needs room to do so: 6 numbers for each of its final channels and pixels,
3 under `layer_by_layer`. A residual unit keeps its convolutions' outputs and their norms under `none`, else its result,
with room for the widest unit's outputs twice. The stem keeps two maps. Parameters take 12 bytes each: value, momentum,
gradient.

Against the compiler for this machine, a step needs between half and twice as much (`tests/planner/test_memory.py`).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from dn_jax.config import rdnet
from dn_jax.config.families import units_of_depth
from dn_jax.config.schema import RematPolicy
from dn_jax.planner.plan import Question

# A step may need so many times what the formula says.
FACTOR = 2


class _Layer(NamedTuple):
  """A dense layer, or a residual unit.

  pixels:   of its maps
  inputs:   their channels
  within:   channels that it makes on the way
  adds:     channels that it makes at last
  weights:  numbers of its parameters
  """

  pixels: int
  inputs: int
  within: int
  adds: int
  weights: int


def temporaries(question: Question, policy: RematPolicy, devices: int = 1) -> int:
  """Bytes that a step under a policy needs on each of its devices, besides its arguments."""
  model = question.model
  dense = model.family in ("densenet", "rdnet")
  layers = list(_layers(question))

  def kept(layer: _Layer) -> int:
    before = 2 * layer.inputs if dense else 0
    return {"none": before + 2 * layer.within, "bottleneck": layer.within}.get(policy, 0) + layer.adds

  room = {"none": 0, "layer_by_layer": 3}.get(policy, 6 if dense else 2)
  widest = max(layer.pixels * (layer.inputs + layer.adds if dense else layer.within) for layer in layers)
  stem = 2 * _stem_pixels(question) * layers[0].inputs
  images = math.ceil(question.batch_size / devices / question.accumulation)
  numbers = images * (stem + sum(layer.pixels * kept(layer) for layer in layers) + room * widest)
  return numbers * (2 if model.dtype == "bfloat16" else 4)


def needed(question: Question, policy: RematPolicy, devices: int = 1) -> int:
  """Bytes that a step under a policy needs on each of its devices, its parameters included."""
  return temporaries(question, policy, devices) + 12 * sum(layer.weights for layer in _layers(question))


def _layers(question: Question) -> Iterator[_Layer]:
  kinds = {"densenet": _dense_layers, "rdnet": _mixing_layers}
  return kinds.get(question.model.family, _residual_units)(question)


def _stem_pixels(question: Question) -> int:
  height, width, _ = question.image_shape
  if patch := question.model.patch_size:
    return (height // patch) * (width // patch)
  return (height // 2) * (width // 2) if question.model.stem == "imagenet" else height * width


def _dense_layers(question: Question) -> Iterator[_Layer]:
  model = question.model
  pixels = _stem_pixels(question) // (4 if model.stem == "imagenet" else 1)
  channels, k = model.initial_channels, model.growth_rate
  w = model.bottleneck_width * k if model.bottleneck else 0
  for layers in model.blocks:
    for _ in range(layers):
      weights = channels * w + 9 * w * k if w else 9 * channels * k
      yield _Layer(pixels, channels, w, k, weights)
      channels += k
    channels, pixels = int(channels * model.compression), pixels // 4


def _mixing_layers(question: Question) -> Iterator[_Layer]:
  model = question.model
  pixels, channels = _stem_pixels(question), model.initial_channels
  for block, (layers, k) in enumerate(zip(model.blocks, model.growth_rates, strict=True), start=1):
    for _ in range(layers):
      inner = rdnet.inner_channels(channels)
      yield _Layer(pixels, channels, inner, k, channels * (49 + inner) + inner * k)
      channels += k
    kept = rdnet.kept_channels(model.compression, channels)
    channels, pixels = kept, pixels // (4 if block in model.downsample else 1)


def _residual_units(question: Question) -> Iterator[_Layer]:
  model = question.model
  pixels = _stem_pixels(question)
  inputs = 16
  for stage in range(3):
    width = 16 * 2**stage * (model.widen_factor or 1)
    narrow = model.family == "preactivation"
    outputs = 4 * width if narrow else width
    for _ in range(units_of_depth(model.depth, model.family)):
      weights = inputs * width + 9 * width**2 + width * outputs if narrow else 9 * width * (inputs + width)
      yield _Layer(pixels, inputs, (2 * width if narrow else width) + outputs, outputs, weights)
      inputs = outputs
    pixels //= 4
