"""The published protocols as data, by network family and data set.

Sources: CVPR 2017 paper, section 4.2; the authors' Torch code (weight decay on every parameter, order of the
input's steps). `digits` has no published protocol: it takes CIFAR's, with fewer epochs.
"""

import dataclasses

from dn_jax.configuration import RunConfig


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What a published number was trained with; the fields are those of the flags."""

  epochs: int
  batch_size: int = 64
  learning_rate: float = 0.1
  momentum: float = 0.9
  nesterov: bool = True
  weight_decay: float = 1e-4
  schedule: str = "steps"
  drops: tuple[float, ...] = (0.5, 0.75)
  drop_factor: float = 0.1
  # Pictures of the training set held out, and whose test error is reported.
  validation: int = 0
  report: str = "last"
  # The dropout rate where the pictures are not augmented.
  dropout_without_augmentation: float = 0.2


PROTOCOLS: dict[tuple[str, str], Protocol] = {
  ("densenet", "cifar10"): Protocol(epochs=300),
  ("densenet", "cifar100"): Protocol(epochs=300),
  ("densenet", "svhn_cropped"): Protocol(epochs=40, validation=6000, report="best"),
  ("densenet", "digits"): Protocol(epochs=40, dropout_without_augmentation=0.0),
}


def fill_in(config: RunConfig, protocol: Protocol) -> RunConfig:
  """Replaces every None of a run's configuration that the protocol speaks of.

  A validation split that a person asks for where none was published makes the best network the reported one
  (hyper-parameters chosen on held-out pictures), unless --report says otherwise.
  """

  def filled(part: object) -> dict[str, object]:
    return {
      field.name: getattr(protocol, field.name)
      for field in dataclasses.fields(part)
      if getattr(part, field.name) is None and hasattr(protocol, field.name)
    }

  data = dataclasses.replace(config.data, **filled(config.data))
  optimizer = dataclasses.replace(config.optimizer, **filled(config.optimizer))
  model = config.model
  if model.dropout is None:
    rate = 0.0 if data.augment else protocol.dropout_without_augmentation
    model = dataclasses.replace(model, dropout=rate)
  if config.report is None and data.validation and not protocol.validation:
    config = dataclasses.replace(config, report="best")
  config = dataclasses.replace(config, data=data, optimizer=optimizer, model=model)
  return dataclasses.replace(config, **filled(config))
