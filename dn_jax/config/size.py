"""What a network would need, from its flags alone, before anything is built."""

import itertools
import os

from dn_jax.config import datasets
from dn_jax.config.schema import ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError

# No machine holds more: of float32 these are 4 TB.
MOST_PARAMETERS = 10**12
MOST_LAYERS = 10_000
# A chip may have more memory than the machine that it is in; none has so many times as much.
_TIMES = 16


def parameters(model: ModelConfig, classes: int = 10, channels: int = 3) -> int:
  """The number of parameters of a completed configuration.

  Args:
    model: completed.
    classes: outputs of the classifier.
    channels: of an image.
  """
  return _dense(model, classes, channels) if model.family == "densenet" else _residual(model, classes, channels)


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

  Counted are what must be there at least: parameters, gradients and momentum, and the images of a batch, in float32.

  Args:
    config: resolved.

  Raises:
    ConfigurationError: it says what it would need and what there is.
  """
  info = datasets.info_of(config.data)
  height, width, channels = info.image_shape
  there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * (config.distributed.num_processes or 1)
  count = parameters(config.model, info.num_classes or 10, channels)
  state = 3 * 4 * count
  if state > _TIMES * there:
    fits = f"the network would have {count:,} parameters, {_gigabytes(state)} to train; this machine has "
    raise ConfigurationError(*_widest(config.model), fits + _gigabytes(there))
  for flag, size in (("batch-size", config.batch_size), ("evaluation-batch-size", config.evaluation_batch_size)):
    if (images := 4 * size * height * width * channels) > _TIMES * there:
      fits = f"its images would take {_gigabytes(images)}; this machine has {_gigabytes(there)}"
      raise ConfigurationError(flag, size, fits)


def _gigabytes(count: int) -> str:
  return f"{count / 1e9:,.0f} GB"


def _widest(model: ModelConfig) -> tuple[str, object]:
  """The flag that most likely makes a network too large, and its value."""
  if model.family != "densenet":
    name = "widen_factor" if model.widen_factor > 1 else "depth"
  else:  # Unset, the first channels are twice the growth rate.
    name = "initial_channels" if model.initial_channels > 2 * model.growth_rate else "growth_rate"
  return f"model.{name.replace('_', '-')}", getattr(model, name)


def _dense(model: ModelConfig, classes: int, channels: int) -> int:
  imagenet = model.stem == "imagenet"
  c, k = model.initial_channels, model.growth_rate
  count = (49 if imagenet else 9) * channels * c + (2 * c if imagenet else 0)
  for block, layers in enumerate(model.blocks):
    for _ in range(layers):
      inner = model.bottleneck_width * k if model.bottleneck else 0
      count += 2 * c + (c * inner + 2 * inner + 9 * inner * k if inner else 9 * c * k)
      c += k
    if block < len(model.blocks) - 1:
      kept = int(model.compression * c)
      count += 2 * c + c * kept
      c = kept
  return count + 2 * c + c * classes + classes


def _residual(model: ModelConfig, classes: int, channels: int) -> int:
  wide, bottleneck = model.family == "wide", model.family == "preactivation"
  # Of depth = extra + 3 * convolutions * n, see `dn_jax.config.network`.
  units = (model.depth - (4 if wide else 2)) // (9 if bottleneck else 6)
  before, count = 16, 9 * channels * 16 + (2 * 16 if model.family == "resnet" else 0)
  for stage, number in itertools.product(range(3), range(units)):
    after = 16 * 2**stage * (4 if bottleneck else model.widen_factor)
    if bottleneck:
      inner = after // 4
      count += 2 * before + before * inner + 2 * inner + 9 * inner**2 + 2 * inner + inner * after
    elif wide:
      count += 2 * before + 9 * before * after + 2 * after + 9 * after**2
    else:
      count += 9 * before * after + 2 * after + 9 * after**2 + 2 * after
    if model.family != "resnet" and (before != after or (stage and not number)):
      count += before * after
    before = after
  return count + (0 if model.family == "resnet" else 2 * before) + before * classes + classes
