"""The published training protocols by author and data set.

Sources: `densenet`: CVPR 2017 paper, section 4.2, and the authors' Torch code. `caffe`: the authors' Caffe
code. `stochastic-depth`: its authors' Torch code. `wide`: its authors' scripts. `resnet`: its paper, FROM MEMORY
(64,000 iterations of 128 images, here as 164 epochs of 391 or 390 steps). `preactivation`: its authors' Torch code,
which trains as fb.resnet.torch, with the paper's batch, iterations and slow start FROM MEMORY.
`rdnet`: its authors' configuration of timm (naver-ai/rdnet, train_configs/rdnet.yaml: four processes of 64 images, two
batches a step). `mixup`: its authors' code for CIFAR-10 (facebookresearch/mixup-cifar10), with CIFAR-100, DenseNet-BC
and ImageNet's alpha FROM MEMORY of its paper, sections 3.1 and 3.2.
`digits` has no published protocol, and takes the one for CIFAR-10 with 40 epochs and nothing held out. Where a protocol
has nothing on SVHN, DenseNet's is taken. All streamed data sets take DenseNet's protocol for ImageNet. Under `rdnet`
all data sets take RDNet's for ImageNet: it is published for no other.
"""

import dataclasses
import math
from typing import Any

from dn_jax.config import datasets
from dn_jax.config.families import FAMILIES
from dn_jax.config.schema import OptimizerConfig, RunConfig
from dn_jax.errors import ConfigurationError

SGD = "sgd"
# PyTorch's, of AdamW.
BETA2 = 0.999


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A published training; the fields are those of the flags."""

  epochs: int
  batch_size: int = 64
  learning_rate: float = 0.1
  momentum: float = 0.9
  nesterov: bool = True
  weight_decay: float = 1e-4
  schedule: str = "steps"
  drops: tuple[float, ...] = (0.5, 0.75)
  drop_factor: float = 0.1
  warmup_steps: int = 0
  normalise: str = "channel"
  padding: str = "zero"
  validation: int = 0
  report: str = "last"
  # The dropout rate where images are not augmented.
  dropout_without_augmentation: float = 0.0
  # A field that is None fills nothing in.
  name: str | None = None
  beta2: float | None = None
  decay: str | None = None
  final_rate: float | None = None
  # In a shorter training the warm-up is shorter by the same factor.
  warmup_epochs: float = 0.0
  warmup_rate: float | None = None
  label_smoothing: float = 0.0
  mixup: float | None = None
  cutmix: float | None = None
  erasing: float | None = None
  cutout: int | None = None
  rand_augment: float | None = None
  rand_augment_deviation: float | None = None
  interpolation: str | None = None
  # A test crop's share of an image's shorter side, of images that are read one by one.
  crop: float | None = None


_DENSENET = Protocol(epochs=300, dropout_without_augmentation=0.2)
_DENSENET_SVHN = dataclasses.replace(_DENSENET, epochs=40, validation=6000, report="best")
_IMAGENET = Protocol(epochs=90, batch_size=256, drops=(1 / 3, 2 / 3))
_HE = Protocol(epochs=164, batch_size=128, warmup_steps=400)
_STOCHASTIC_DEPTH = Protocol(epochs=500, batch_size=128, normalise="pixel", validation=5000, report="best")
_WIDE = Protocol(
  epochs=200, batch_size=128, weight_decay=5e-4, drops=(0.3, 0.6, 0.8), drop_factor=0.2, padding="reflect"
)
# `padding` and `normalise` are those of CIFAR and SVHN, of which it says nothing.
_RDNET = Protocol(
  epochs=300,
  batch_size=512,
  name="adamw",
  learning_rate=1e-3,
  beta2=BETA2,
  nesterov=False,
  weight_decay=0.05,
  decay="kernels",
  schedule="cosine",
  final_rate=1e-6,
  warmup_epochs=20.0,
  warmup_rate=1e-4,
  label_smoothing=0.1,
  mixup=0.8,
  cutmix=1.0,
  erasing=0.25,
  rand_augment=9.0,
  rand_augment_deviation=0.5,
)
_MIXUP = Protocol(epochs=200, batch_size=128, nesterov=False, mixup=1.0)

_CIFAR = {
  "densenet": _DENSENET,
  # 230,000 iterations of 64 pictures are 294 epochs.
  "caffe": dataclasses.replace(_DENSENET, epochs=294, normalise="mean"),
  "resnet": dataclasses.replace(_HE, nesterov=False, normalise="mean"),
  "stochastic-depth": _STOCHASTIC_DEPTH,
  "preactivation": _HE,
  "wide": _WIDE,
  "rdnet": _RDNET,
  "mixup": _MIXUP,
}


def _on_digits(protocol: Protocol) -> Protocol:
  changes = {"normalise": "channel", "validation": 0, "report": "last", "dropout_without_augmentation": 0.0}
  return dataclasses.replace(protocol, epochs=40, warmup_steps=0, **changes)


# Values of fields that were `added` which mean what None means where no protocol says otherwise.
_SAME_AS_NONE = {
  "name": SGD,
  "decay": "all",
  "final_rate": 0.0,
  "interpolation": "bilinear",
  **dict.fromkeys(("mixup", "cutmix", "erasing", "cutout", "rand_augment", "rand_augment_deviation"), 0),
}
# Of any streamed data set.
STREAMED = "streamed"
PROTOCOLS: dict[tuple[str, str], Protocol] = {
  **{(name, data): protocol for name, protocol in _CIFAR.items() for data in ("cifar10", "cifar100")},
  **{(name, "digits"): _on_digits(protocol) for name, protocol in _CIFAR.items()},
  **{(name, "svhn_cropped"): _DENSENET_SVHN for name in ("densenet", "caffe")},
  **{
    (name, "svhn_cropped"): dataclasses.replace(_DENSENET_SVHN, dropout_without_augmentation=0.0)
    for name in ("resnet", "preactivation")
  },
  **{(name, STREAMED): _IMAGENET for name in _CIFAR},
  ("stochastic-depth", "svhn_cropped"): dataclasses.replace(
    _STOCHASTIC_DEPTH, epochs=50, drops=(0.6, 0.7), validation=6000
  ),
  ("wide", "svhn_cropped"): dataclasses.replace(
    _WIDE,
    epochs=160,
    learning_rate=0.01,
    drops=(0.5, 0.75),
    drop_factor=0.1,
    padding="zero",
    dropout_without_augmentation=0.4,
  ),
  # Its batch is a third of the digits. RandAugment's operations are for values up to 255, and these end at 16.
  ("rdnet", "digits"): dataclasses.replace(
    _RDNET, epochs=40, batch_size=64, warmup_epochs=3.0, rand_augment=None, rand_augment_deviation=None
  ),
  ("rdnet", "svhn_cropped"): dataclasses.replace(_RDNET, epochs=40, warmup_epochs=3.0, validation=6000, report="best"),
  ("rdnet", STREAMED): dataclasses.replace(_RDNET, interpolation="bicubic", crop=0.9),
  ("mixup", "svhn_cropped"): dataclasses.replace(_DENSENET_SVHN, dropout_without_augmentation=0.0, mixup=1.0),
  ("mixup", STREAMED): dataclasses.replace(_IMAGENET, mixup=0.2),
}


def of(whose: str, data: str) -> Protocol:
  """The protocol of an author for a data set.

  Raises:
    ConfigurationError: there is none for that data set.
  """
  key = (whose, data if data in datasets.CATALOG else STREAMED)
  if key not in PROTOCOLS:
    others = [name for name, of_data in PROTOCOLS if of_data == key[1]]
    raise ConfigurationError("protocol", whose, f"there is none for {data}; one of {', '.join(others)}")
  return PROTOCOLS[key]


def source(whose: str, data: str) -> str:
  """Whose publication `of` has the values from, in words."""
  by, streamed = "" if whose == "densenet" else f" by {whose}", data not in datasets.CATALOG
  if whose == "rdnet" and not streamed:
    apart = {"digits": ", over 40 epochs in batches of 64, without RandAugment", "svhn_cropped": ", over 40 epochs"}
    return f"none is published for {data}; as for ImageNet{by}{apart.get(data, '')}"
  if data == "digits":
    return f"none is published for digits; as for cifar10{by}, over 40 epochs"
  densenets = " by densenet" + ", with mixup" * (whose == "mixup")
  if streamed:
    return "published for ImageNet" + (densenets if by and whose != "rdnet" else by)
  # Where the others have nothing on SVHN, DenseNet's is taken, but for its dropout.
  own = data != "svhn_cropped" or whose in ("densenet", "stochastic-depth", "wide")
  return f"published for {data}{by if own else densenets}"


def of_streamed(config: RunConfig) -> str | None:
  """A line about the protocol of a resolved run with streamed images; None for other runs."""
  whose, data = config.protocol, config.data.name
  if data in datasets.CATALOG:
    return None
  owner = whose if whose == "rdnet" else "densenet"
  own = (whose, data) == (owner, "imagenet2012")
  words = f"protocol: {owner}'s for ImageNet" + ", with mixup" * (whose == "mixup")
  return words + ("" if own else f" ({whose} has none of its own for {data})")


def resize_of(whose: str, data: str, size: int) -> int | None:
  """The shorter side of a streamed test image before its crop of `size` pixels; None: nothing is published of it."""
  crop = of(whose, data).crop
  return None if crop is None else math.floor(size / crop)


def fill_in(config: RunConfig) -> RunConfig:
  """Fills in unset fields from the run's protocol, which is set.

  Where a person asks for a validation split and none was published, the best network is reported unless --report says
  otherwise: hyper-parameters are chosen on held-out images.

  Raises:
    ConfigurationError: an optimizer is asked for without a rate and a weight decay, and the protocol's are another's.
  """
  protocol = of(config.protocol, config.data.name)

  def filled(part: object) -> dict[str, object]:
    return {
      field.name: getattr(protocol, field.name)
      for field in dataclasses.fields(part)
      if getattr(part, field.name) is None and hasattr(protocol, field.name)
    }

  asked_for_validation = bool(config.data.validation) and not protocol.validation
  nothing_held_out = config.data.validation == 0
  data = _as_unsaid(dataclasses.replace(config.data, **filled(config.data)), protocol)
  optimizer = _as_unsaid(_optimizer(config, protocol), protocol)
  model = config.model
  if model.dropout is None:
    dropped_out = FAMILIES[model.family].dropout and not data.augment
    rate = protocol.dropout_without_augmentation if dropped_out else 0.0
    model = dataclasses.replace(model, dropout=rate)
  if config.report is None and (asked_for_validation or nothing_held_out):
    config = dataclasses.replace(config, report="best" if asked_for_validation else "last")
  config = dataclasses.replace(config, data=data, optimizer=optimizer, model=model)
  return dataclasses.replace(config, **filled(config))


def _optimizer(config: RunConfig, protocol: Protocol) -> OptimizerConfig:
  """A run's optimizer, with what its protocol has for that optimizer and that schedule."""
  asked, usual = config.optimizer, protocol.name or SGD
  name = asked.name or usual
  published: dict[str, Any] = {
    field.name: getattr(protocol, field.name) for field in dataclasses.fields(asked) if hasattr(protocol, field.name)
  }
  if name != usual:
    if asked.learning_rate is None or asked.weight_decay is None:
      needs = "give --optimizer.learning-rate and --optimizer.weight-decay"
      fits = f"the rate and the decay of protocol {config.protocol} are for {usual}; {needs}"
      raise ConfigurationError("optimizer.name", name, fits)
    published |= {"nesterov": False, "beta2": BETA2 if name == "adamw" else None}
  if (asked.schedule or protocol.schedule) != "cosine":
    published["final_rate"] = None
  epochs = protocol.epochs if config.epochs is None else config.epochs
  published["warmup_epochs"] *= max(0, min(epochs, protocol.epochs)) / protocol.epochs
  if not (published["warmup_epochs"] if asked.warmup_epochs is None else asked.warmup_epochs):
    published["warmup_rate"] = None
  return dataclasses.replace(
    asked, **{field: value for field, value in published.items() if getattr(asked, field) is None}
  )


def _as_unsaid[Part](part: Part, protocol: Protocol) -> Part:
  """A part of a run in which values that say the same as none are none: a run is the same however it is asked for.

  Where the protocol has a value, it would be filled in for none.
  """
  added = [
    field.name for field in dataclasses.fields(part) if field.metadata.get("added") and field.name in _SAME_AS_NONE
  ]
  unsaid = [name for name in added if getattr(part, name) == _SAME_AS_NONE[name] and getattr(protocol, name) is None]
  return dataclasses.replace(part, **dict.fromkeys(unsaid))
