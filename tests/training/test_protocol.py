"""Unset flags are as published."""

import pytest

from dn_jax.configuration import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from dn_jax.experiment import resolve


# Paper, sections 4.1 and 4.2: epochs, batch, held-out pictures, reported network, dropout without augmentation.
@pytest.mark.parametrize(
  ("name", "epochs", "validation", "report"),
  [("cifar10", 300, 0, "last"), ("cifar100", 300, 0, "last"), ("svhn_cropped", 40, 6000, "best")],
)
def test_published_protocols(name, epochs, validation, report):
  config = resolve(RunConfig(DataConfig(name)))
  assert (config.epochs, config.batch_size, config.data.validation, config.report) == (epochs, 64, validation, report)
  assert config.model.dropout == 0.2
  sgd = config.optimizer
  assert (sgd.learning_rate, sgd.momentum, sgd.nesterov, sgd.weight_decay) == (0.1, 0.9, True, 1e-4)
  assert (sgd.schedule, sgd.drops, sgd.drop_factor) == ("steps", (0.5, 0.75), 0.1)


def test_augmented_pictures_need_no_dropout():
  assert resolve(RunConfig(DataConfig("cifar10", augment=True))).model.dropout == 0.0


def test_a_flag_outweighs_the_protocol():
  config = resolve(
    RunConfig(
      DataConfig("cifar10", augment=True, validation=5000),
      ModelConfig(dropout=0.1),
      OptimizerConfig(weight_decay=0.0),
      epochs=3,
    )
  )
  assert (config.epochs, config.model.dropout, config.optimizer.weight_decay) == (3, 0.1, 0.0)
  assert config.report == "best"  # Held-out pictures were asked for.
