"""What a network would need, from its flags alone, before anything is built."""

import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

from dn_jax.config import datasets, rdnet
from dn_jax.config.schema import ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError

# No machine holds more: of float32 these are 4 TB.
MOST_PARAMETERS = 10**12
MOST_LAYERS = 10_000
# A chip may have more memory than the machine that it is in; none has so many times as much.
_TIMES = 16


class Size(NamedTuple):
  """The size of a network.

  parameters: trained ones
  flops:      of a forward pass, for one image: of convolutions and matrix products, a multiply-add counted as two. A
              transition's 1x1 convolution is counted before the pool, as published.
  """

  parameters: int
  flops: int


def of(model: ModelConfig, classes: int, image_shape: tuple[int, int, int]) -> Size:
  """The size of a network, by formula.

  Args:
    model: completed.
    classes: outputs of the classifier.
    image_shape: (height, width, channels).
  """
  walk = _WALKS.get(model.family, _residual)
  return Size(*map(sum, zip(*walk(model, classes, image_shape), strict=True)))


def parameters(model: ModelConfig, classes: int = 10, channels: int = 3) -> int:
  """The number of parameters of a completed configuration, see `of`."""
  return of(model, classes, (1, 1, channels)).parameters


def refuse_endless(model: ModelConfig) -> None:
  """Refuses a completed configuration that no machine could hold, or that would take hours to build.

  Raises:
    ConfigurationError: it has too many layers or parameters, of which the message says the number.
  """
  if model.blocks and sum(model.blocks) > MOST_LAYERS:
    blocks = " ".join(map(str, model.blocks))[:60]
    raise ConfigurationError("model.blocks", blocks, f"{sum(model.blocks):,} layers; at most {MOST_LAYERS:,} in all")
  if (count := parameters(model)) > MOST_PARAMETERS:
    raise ConfigurationError(*_widest(model), f"the network would have {count:,} parameters; no machine holds so many")


def refuse_beyond_this_machine(config: RunConfig) -> None:
  """Refuses a resolved run that needs many times this machine's memory.

  Counted are what must be there at least: parameters, gradients and the optimizer's means of these, and the images of
  a batch, in float32.

  Args:
    config: resolved.

  Raises:
    ConfigurationError: it says what it would need and what there is.
  """
  info = datasets.info_of(config.data)
  height, width, channels = info.image_shape
  there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * (config.distributed.num_processes or 1)
  count = parameters(config.model, info.num_classes or 10, channels)
  state = 3 * 4 * count + beyond_momentum(config, channels, info.num_classes or 10)
  if state > _TIMES * there:
    fits = f"the network would have {count:,} parameters, {_gigabytes(state)} to train; this machine has "
    raise ConfigurationError(*_widest(config.model), fits + _gigabytes(there))
  for flag, size in (("batch-size", config.batch_size), ("evaluation-batch-size", config.evaluation_batch_size)):
    if (images := 4 * size * height * width * channels) > _TIMES * there:
      fits = f"its images would take {_gigabytes(images)}; this machine has {_gigabytes(there)}"
      raise ConfigurationError(flag, size, fits)


def beyond_momentum(config: RunConfig, channels: int, classes: int) -> int:
  """Bytes of a resolved run's state beyond parameters, gradients and SGD's momentum.

  AdamW has a second mean, and a moving average of the parameters is one more.
  """
  copies = (config.optimizer.name == "adamw") + (config.optimizer.average > 0)
  return 4 * copies * parameters(config.model, classes, channels) if copies else 0


def _gigabytes(count: int) -> str:
  return f"{count / 1e9:,.0f} GB"


def _widest(model: ModelConfig) -> tuple[str, object]:
  """The flag that most likely makes a network too large, and its value."""
  if model.family == "rdnet":
    name = "initial_channels" if model.initial_channels > 2 * max(model.growth_rates) else "growth_rates"
  elif model.family != "densenet":
    name = "widen_factor" if model.widen_factor > 1 else "depth"
  else:  # Unset, the first channels are twice the growth rate.
    name = "initial_channels" if model.initial_channels > 2 * model.growth_rate else "growth_rate"
  return f"model.{name.replace('_', '-')}", getattr(model, name)


def _convolution(kernel: int, inputs: int, outputs: int, pixels: int) -> Size:
  """A square kernel without a bias, whose output has so many pixels."""
  weights = kernel**2 * inputs * outputs
  return Size(weights, 2 * pixels * weights)


def _with_bias(kernel: int, inputs: int, outputs: int, pixels: int) -> Size:
  weights, flops = _convolution(kernel, inputs, outputs, pixels)
  return Size(weights + outputs, flops)


def _norm(channels: int) -> Size:
  return Size(2 * channels, 0)


def _classifier(inputs: int, classes: int) -> Size:
  return Size(inputs * classes + classes, 2 * inputs * classes)


def _dense(model: ModelConfig, classes: int, image_shape: tuple[int, int, int]) -> Iterator[Size]:
  """The layers of a DenseNet."""
  height, width, channels = image_shape
  c, k, inner = model.initial_channels, model.growth_rate, model.bottleneck_width * model.growth_rate
  if model.stem == "imagenet":  # A convolution and a max pool, both of stride 2.
    height, width = -(-height // 2), -(-width // 2)
    yield _convolution(7, channels, c, height * width)
    yield _norm(c)
    height, width = -(-height // 2), -(-width // 2)
  else:
    yield _convolution(3, channels, c, height * width)
  for block, layers in enumerate(model.blocks, start=1):
    pixels = height * width
    for _ in range(layers):
      yield _norm(c)
      if inner:
        yield from (_convolution(1, c, inner, pixels), _norm(inner))
      yield _convolution(3, inner or c, k, pixels)
      c += k
    if block < len(model.blocks):
      kept = int(model.compression * c)
      yield from (_norm(c), _convolution(1, c, kept, pixels))
      c, height, width = kept, height // 2, width // 2
  yield from (_norm(c), _classifier(c, classes))


def _mixing(model: ModelConfig, classes: int, image_shape: tuple[int, int, int]) -> Iterator[Size]:
  """The layers of an RDNet."""
  height, width, channels = image_shape
  height, width, c = height // model.patch_size, width // model.patch_size, model.initial_channels
  yield from (_with_bias(model.patch_size, channels, c, height * width), _norm(c))
  for block, (layers, k) in enumerate(zip(model.blocks, model.growth_rates, strict=True), start=1):
    pixels = height * width
    for _ in range(layers):
      inner = rdnet.inner_channels(c)
      depthwise = Size(49 * c + c, 2 * pixels * 49 * c)
      yield from (depthwise, _norm(c), _with_bias(1, c, inner, pixels), _with_bias(1, inner, k, pixels))
      if block >= rdnet.EXCITED_FROM:
        yield _with_bias(1, k, k, 1)
      yield Size(k, 0)  # Layer scale.
      c += k
    if block < len(model.blocks):
      kept, stride = rdnet.kept_channels(model.compression, c), 2 if block in model.downsample else 1
      height, width = height // stride, width // stride
      yield from (_norm(c), _with_bias(stride, c, kept, height * width))
      c = kept
  yield from (_norm(c), _classifier(c, classes))


def _residual(model: ModelConfig, classes: int, image_shape: tuple[int, int, int]) -> Iterator[Size]:
  """The layers of a residual network."""
  wide, bottleneck, original = (model.family == name for name in ("wide", "preactivation", "resnet"))
  # Of depth = extra + 3 * convolutions * n, see `dn_jax.config.families`.
  units = (model.depth - (4 if wide else 2)) // (9 if bottleneck else 6)
  height, width, channels = image_shape
  before = 16
  yield _convolution(3, channels, before, height * width)
  if original:
    yield _norm(before)
  for stage, number in itertools.product(range(3), range(units)):
    shrinks = bool(stage) and not number
    if shrinks:
      height, width = -(-height // 2), -(-width // 2)
    pixels, after = height * width, 16 * 2**stage * (4 if bottleneck else model.widen_factor)
    if bottleneck:
      inner = after // 4
      yield from (_norm(before), _convolution(1, before, inner, pixels))
      yield from (_norm(inner), _convolution(3, inner, inner, pixels))
      yield from (_norm(inner), _convolution(1, inner, after, pixels))
    else:  # The original units have their norms after the convolutions.
      yield from (_norm(after if original else before), _convolution(3, before, after, pixels))
      yield from (_norm(after), _convolution(3, after, after, pixels))
    if not original and (before != after or shrinks):
      yield _convolution(1, before, after, pixels)
    before = after
  if not original:
    yield _norm(before)
  yield _classifier(before, classes)


# By family; the others are residual networks.
_WALKS = {"densenet": _dense, "rdnet": _mixing}
