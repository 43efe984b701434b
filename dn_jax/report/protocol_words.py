"""A run's training in words, from its configuration, beside the published protocol."""

import dataclasses

from dn_jax.config import datasets, protocol, zoo
from dn_jax.config.nested import identity
from dn_jax.config.network import protocol_of
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, OptimizerConfig, RunConfig
from dn_jax.report.words import in_words, short_flag

# Where each protocol is published. "FROM MEMORY": no text or code was at hand.
SOURCES: dict[str, str] = {
  "densenet": "CVPR 2017 paper, section 4.2, and the authors' Torch code",
  "caffe": "the authors' Caffe code",
  "stochastic-depth": "its authors' Torch code",
  "wide": "its authors' code (scripts/train_cifar.sh, train_svhn.sh)",
  "resnet": "FROM MEMORY of its paper, section 4.2: batch, iterations, slow start; the rest fb.resnet.torch",
  "preactivation": "its authors' Torch code (fb.resnet.torch); FROM MEMORY of its paper: batch, iterations, slow start",
  "rdnet": "its authors' configuration of timm for ImageNet (train_configs/rdnet.yaml)",
  "mixup": "its authors' code for CIFAR-10; FROM MEMORY of its paper: CIFAR-100, DenseNet-BC, ImageNet's alpha",
}
# What is done to training images besides, by the fields of `DataConfig`; the last one has a deviation.
_ALTERED = {
  "mixup": "images mixed by mixup of alpha {:g}",
  "cutmix": "boxes of others pasted by CutMix of alpha {:g}",
  "erasing": "a box erased by a chance of {:g}",
  "cutout": "a square of {} pixels cut out",
  "rand_augment": "RandAugment of magnitude {:g}",
}
_NORMALISED = {
  "channel": "each channel less its published mean, by its deviation",
  "pixel": "less the mean image, by one deviation",
  "mean": "less the mean image, not divided",
}


def source_of(config: RunConfig) -> str:
  """Where a run's protocol is published."""
  whose, data = config.protocol, config.data.name
  if whose == "rdnet" and data in datasets.CATALOG:
    return f"{SOURCES[whose]}; of {data} it says nothing"
  borrowed = data == "svhn_cropped" and whose in ("caffe", "resnet", "preactivation", "mixup")
  return SOURCES[whose] + ("; of SVHN it says nothing: DenseNet's schedule" if borrowed else "")


def shortened(config: RunConfig) -> float | None:
  """A run's epochs as a share of its protocol's; None if it has as many, or more."""
  published = protocol.of(config.protocol, config.data.name).epochs
  return config.epochs / published if config.epochs < published else None


def text(config: RunConfig) -> str:
  """A resolved run's training: schedule, optimizer, dropout, input, held-out images, reported network."""
  published = protocol.of(config.protocol, config.data.name)
  optimizer, data, model = config.optimizer, config.data, config.model
  drops = _series([f"{share:.0%}" for share in optimizer.drops])
  warmup = f"{optimizer.warmup_steps} steps at a tenth of the rate" + _beside(
    optimizer.warmup_steps, published.warmup_steps
  )
  from_rate = "" if optimizer.warmup_rate is None else f" from {optimizer.warmup_rate:g}"
  parts = [
    f"{config.epochs} epoch{'s' * (config.epochs > 1)}" + _beside(config.epochs, published.epochs),
    f"batch {config.batch_size}",
    f"rate {optimizer.learning_rate:g} along a cosine to {optimizer.final_rate or 0:g}"
    if optimizer.schedule == "cosine"
    else f"rate {optimizer.learning_rate:g} times {optimizer.drop_factor:g} at {drops}",
    *([warmup] if optimizer.warmup_steps or published.warmup_steps else []),
    *([f"the rate scaled by the batch over {optimizer.rate_batch}"] if optimizer.rate_batch else []),
    *([f"rising to it in {optimizer.warmup_epochs:g} epochs" + from_rate] if optimizer.warmup_epochs else []),
    *([f"labels smoothed by {optimizer.label_smoothing:g}"] if optimizer.label_smoothing else []),
    *(["losses weighted so that each class counts the same"] if data.class_weights else []),
    *([f"a moving average of the parameters tested, decay {optimizer.average:g}"] if optimizer.average else []),
    *([f"the classifier at {optimizer.classifier_rate:g} times the rate"] if optimizer.classifier_rate != 1 else []),
    *(
      [f"from the weights {config.weights}" + ", a fresh classifier" * config.reset_classifier]
      if config.weights
      else []
    ),
    *([f"{', '.join(config.freeze)} frozen"] if config.freeze else []),
    *(["batch norm's running averages frozen"] if config.freeze_statistics else []),
    *_update_rule(optimizer),
    f"dropout {model.dropout:g}" if model.dropout else "no dropout",
    *(["images turned to grey"] if data.channels == 1 else []),
    f"input {_normalised(data)}",
    *_augmented(data),
    *_altered(data),
    f"{data.validation:,} images held out" if data.validation else "nothing held out",
    "the network best on them reported" if config.report == "best" else "the last network reported",
    *([f"activations in {model.dtype}"] if model.dtype != "float32" else []),
    *([f"products at precision {model.precision}"] if model.precision != "default" else []),
    *([f"batch norm over {config.statistics_groups} parts of a batch"] if config.statistics_groups > 1 else []),
    "an epoch's smaller last batch " + ("dropped" if config.last_batch == "drop" else "used"),
  ]
  return ", ".join(parts)


def own_protocol(config: RunConfig) -> str:
  """The key of the protocol that was published for a run's network, whichever the run follows."""
  model = config.model
  return zoo.NETWORKS[model.name].protocol if model.name in zoo.NETWORKS else protocol_of(model)


def changes(config: RunConfig) -> str:
  """What tells a run's training from the published one, except its length: `protocol densenet, batch-size 128`."""
  longer = config.epochs > protocol.of(config.protocol, config.data.name).epochs
  words = [f"{name} {value}" for name, value, _ in differences(config)]
  return ", ".join([*words, *([f"epochs {config.epochs}"] if longer else [])])


def recipe(config: RunConfig) -> zoo.Recipe | None:
  """What others published of a run's network with the protocol that the run follows; None where there is nothing."""
  return zoo.RECIPES.get((config.protocol, config.model.name))


def differences(config: RunConfig, own: str | None = None) -> list[tuple[str, str, str]]:
  """Name, value and published value of each flag in which a run's training is not the published one, but the epochs.

  The published ones are of the protocol that the run follows; an empty one is none.

  Args:
    config: resolved.
    own: the protocol that the run should follow; None: the one published for its network.
  """
  # What of a network's flags is a matter of training; all else says which network it is.
  model = dataclasses.replace(config.model, dropout=None, dtype="float32", precision="default", remat=None)
  asked = RunConfig(DataConfig(config.data.name, augment=config.data.augment), model, protocol=config.protocol)
  published, found = identity(resolve(asked)), identity(config)
  # With a shorter schedule goes a shorter warm-up.
  apart = ("seed", "epochs", *(["optimizer.warmup-steps", "optimizer.warmup-epochs"] if shortened(config) else []))
  own = own or own_protocol(config)
  result = [("protocol", config.protocol, own)] if config.protocol != own else []
  return result + [
    (short_flag(flag), in_words(value), in_words(published.get(flag)))
    for flag, value in found.items()
    if value != published.get(flag) and flag not in apart
  ]


def _update_rule(config: OptimizerConfig) -> list[str]:
  where = " (kernels alone)" if config.decay == "kernels" else ""
  if config.name == "adamw":
    betas = f"AdamW, beta1 {config.momentum:g}, beta2 {config.beta2:g}"
    return [betas, f"weight decay {config.weight_decay:g} times the rate{where}"]
  momentum = f"momentum {config.momentum:g}" + (" (Nesterov)" if config.nesterov else "")
  return [momentum, f"weight decay {config.weight_decay:g}{where}"]


def _augmented(data: DataConfig) -> list[str]:
  if datasets.recorded(data).streamed:
    jitter = "" if data.rand_augment else ", with jitter of colours and lighting"
    crop = f"crops of random area and aspect, mirrored{jitter} (fb.resnet.torch)"
    resized = ", resized by a bicubic filter" if data.interpolation == "bicubic" else ""
    return [f"{crop if data.augment else 'the middle'}, {data.size} pixels{resized}"]
  return [f"shifted images padded with {'zeros' if data.padding == 'zero' else 'their mirror image'}"] * data.augment


def _altered(data: DataConfig) -> list[str]:
  found = dataclasses.asdict(data)
  words = [text.format(found[name]) for name, text in _ALTERED.items() if found[name]]
  if data.rand_augment and data.rand_augment_deviation:
    words.append(f"its magnitude's deviation {data.rand_augment_deviation:g}")
  return words


def _normalised(data: DataConfig) -> str:
  info = datasets.recorded(data)
  if data.normalise == "channel" and not any(info.mean):
    return f"by {info.std[0]:g}"
  return _NORMALISED[data.normalise]


def _beside(value: int, published: int) -> str:
  return "" if value == published else f" (published: {published})"


def _series(words: list[str]) -> str:
  return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else "no epoch"
