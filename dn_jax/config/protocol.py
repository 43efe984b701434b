"""The published training protocols by author and data set.

Sources: `densenet`: CVPR 2017 paper, section 4.2, and the authors' Torch code. `caffe`: the authors' Caffe
code. `stochastic-depth`: its authors' Torch code. `wide`: its authors' scripts. `resnet`: its paper, FROM MEMORY
(64,000 iterations of 128 images, here as 164 epochs of 391 or 390 steps). `preactivation`: its authors' Torch code,
which trains as fb.resnet.torch, with the paper's batch, iterations and slow start FROM MEMORY.
`digits` has no published protocol, and takes the one for CIFAR-10 with 40 epochs and nothing held out. Where a protocol
has nothing on SVHN, DenseNet's is taken. All streamed data sets take DenseNet's protocol for ImageNet.
"""

import dataclasses

from dn_jax.config import datasets
from dn_jax.config.network import FAMILIES
from dn_jax.config.schema import RunConfig
from dn_jax.errors import ConfigurationError


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


_DENSENET = Protocol(epochs=300, dropout_without_augmentation=0.2)
_DENSENET_SVHN = dataclasses.replace(_DENSENET, epochs=40, validation=6000, report="best")
_IMAGENET = Protocol(epochs=90, batch_size=256, drops=(1 / 3, 2 / 3))
_HE = Protocol(epochs=164, batch_size=128, warmup_steps=400)
_STOCHASTIC_DEPTH = Protocol(epochs=500, batch_size=128, normalise="pixel", validation=5000, report="best")
_WIDE = Protocol(
  epochs=200, batch_size=128, weight_decay=5e-4, drops=(0.3, 0.6, 0.8), drop_factor=0.2, padding="reflect"
)

_CIFAR = {
  "densenet": _DENSENET,
  # 230,000 iterations of 64 pictures are 294 epochs.
  "caffe": dataclasses.replace(_DENSENET, epochs=294, normalise="mean"),
  "resnet": dataclasses.replace(_HE, nesterov=False, normalise="mean"),
  "stochastic-depth": _STOCHASTIC_DEPTH,
  "preactivation": _HE,
  "wide": _WIDE,
}


def _on_digits(protocol: Protocol) -> Protocol:
  changes = {"normalise": "channel", "validation": 0, "report": "last", "dropout_without_augmentation": 0.0}
  return dataclasses.replace(protocol, epochs=40, warmup_steps=0, **changes)


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
  by = "" if whose == "densenet" else f" by {whose}"
  if data == "digits":
    return f"none is published for digits; as for cifar10{by}, over 40 epochs"
  if data not in datasets.CATALOG:
    return "published for ImageNet by densenet" if by else "published for ImageNet"
  # Where the others have nothing on SVHN, DenseNet's is taken, but for its dropout.
  own = data != "svhn_cropped" or whose in ("densenet", "stochastic-depth", "wide")
  return f"published for {data}{by if own else ' by densenet'}"


def of_streamed(config: RunConfig) -> str | None:
  """A line about the protocol of a resolved run with streamed images; None for other runs."""
  whose, data = config.protocol, config.data.name
  if data in datasets.CATALOG:
    return None
  own = (whose, data) == ("densenet", "imagenet2012")
  return "protocol: densenet's for ImageNet" + ("" if own else f" ({whose} has none of its own for {data})")


def fill_in(config: RunConfig) -> RunConfig:
  """Fills in unset fields from the run's protocol, which is set.

  Where a person asks for a validation split and none was published, the best network is reported unless --report says
  otherwise: hyper-parameters are chosen on held-out images.
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
  data = dataclasses.replace(config.data, **filled(config.data))
  optimizer = dataclasses.replace(config.optimizer, **filled(config.optimizer))
  model = config.model
  if model.dropout is None:
    dropped_out = FAMILIES[model.family].dropout and not data.augment
    rate = protocol.dropout_without_augmentation if dropped_out else 0.0
    model = dataclasses.replace(model, dropout=rate)
  if config.report is None and (asked_for_validation or nothing_held_out):
    config = dataclasses.replace(config, report="best" if asked_for_validation else "last")
  config = dataclasses.replace(config, data=data, optimizer=optimizer, model=model)
  return dataclasses.replace(config, **filled(config))
