"""Unset flags are as published."""

import typing

import pytest

from dn_jax.config import datasets, protocol
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, OptimizerConfig, ProtocolName, RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.training import optimizer


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


def test_digits_are_trained_on_as_the_page_says():
  config = resolve(RunConfig(DataConfig("digits", augment=True)))
  assert (config.epochs, config.batch_size, config.data.validation, config.report) == (40, 64, 0, "last")
  assert resolve(RunConfig(DataConfig("digits"))).model.dropout == 0.0
  info = datasets.info_of(DataConfig("digits"))
  assert (info.mirror, info.pad) == (False, 1)


def test_networks_without_dropout_get_none_from_a_protocol_and_refuse_the_flag():
  for name in ("resnet-110", "preactivation-164", "resnet-110-stochastic-depth"):
    assert resolve(RunConfig(DataConfig("svhn_cropped"), ModelConfig(name=name))).model.dropout == 0.0
    with pytest.raises(
      ConfigurationError, match=r"--model\.dropout 0\.2: a (resnet|preactivation) network has no dropout"
    ):
      resolve(RunConfig(DataConfig("cifar10"), ModelConfig(name=name, dropout=0.2)))
  assert (
    resolve(RunConfig(DataConfig("cifar10"), ModelConfig(name="resnet-110"), protocol="densenet")).model.dropout == 0
  )
  # train_svhn.sh of Wide ResNet sets 0.4 for any of its networks.
  assert resolve(RunConfig(DataConfig("svhn_cropped"), ModelConfig(name="wide-16-8"))).model.dropout == 0.4


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


# Stochastic depth: its authors' Torch code. Wide ResNet: its authors' scripts. ResNet: its paper, section 4.2.
# Pre-activation: its authors' Torch code and fb.resnet.torch. Epochs, batch, rate, decay, drops and factor,
# Nesterov, held out, input, border, initialisation.
@pytest.mark.parametrize(
  ("network", "data", "expected"),
  [
    (
      "resnet-110-stochastic-depth",
      "cifar10",
      (500, 128, 0.1, 1e-4, (0.5, 0.75), 0.1, True, 5000, "pixel", "zero", "fan_in"),
    ),
    (
      "resnet-110-constant-depth",
      "cifar100",
      (500, 128, 0.1, 1e-4, (0.5, 0.75), 0.1, True, 5000, "pixel", "zero", "fan_in"),
    ),
    (
      "resnet-110-stochastic-depth",
      "svhn_cropped",
      (50, 128, 0.1, 1e-4, (0.6, 0.7), 0.1, True, 6000, "pixel", "zero", "fan_in"),
    ),
    ("wide-28-10", "cifar10", (200, 128, 0.1, 5e-4, (0.3, 0.6, 0.8), 0.2, True, 0, "channel", "reflect", "fan_in")),
    (
      "wide-16-4-dropout",
      "svhn_cropped",
      (160, 128, 0.01, 5e-4, (0.5, 0.75), 0.1, True, 0, "channel", "zero", "fan_in"),
    ),
    ("resnet-110", "cifar10", (164, 128, 0.1, 1e-4, (0.5, 0.75), 0.1, False, 0, "mean", "zero", "fan_out")),
    ("preactivation-164", "cifar10", (164, 128, 0.1, 1e-4, (0.5, 0.75), 0.1, True, 0, "channel", "zero", "fan_out")),
    ("densenet-caffe-40-12", "cifar10", (294, 64, 0.1, 1e-4, (0.5, 0.75), 0.1, True, 0, "mean", "zero", "fan_in")),
  ],
)
def test_each_network_brings_its_own_protocol(network, data, expected):
  config = resolve(RunConfig(DataConfig(data, augment=True), ModelConfig(name=network)))
  sgd = config.optimizer
  found = (config.epochs, config.batch_size, sgd.learning_rate, sgd.weight_decay, sgd.drops, sgd.drop_factor)
  data = config.data
  input_and_start = (data.validation, data.normalise, data.padding, config.model.convolution_init)
  assert (*found, sgd.nesterov, *input_and_start) == expected


def test_another_networks_protocol_can_be_asked_for():
  config = resolve(RunConfig(DataConfig("cifar10"), ModelConfig(depth=40), protocol="wide"))
  assert (config.epochs, config.optimizer.weight_decay) == (200, 5e-4)


def test_pre_activation_networks_start_at_a_tenth_of_the_rate_for_400_steps():
  from dn_jax.training import optimizer

  config = resolve(RunConfig(DataConfig("cifar10"), ModelConfig(name="preactivation-164")))
  rate = optimizer.learning_rate(config.optimizer, config.epochs, 390)
  assert [float(rate(step)) for step in (0, 399, 400, 31_979, 31_980)] == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01])


def test_resolving_twice_changes_nothing():
  for name in ("densenet-bc-100-12", "resnet-110-stochastic-depth", "wide-28-10", "densenet-caffe-40-12"):
    once = resolve(RunConfig(DataConfig("svhn_cropped"), ModelConfig(name=name)))
    assert resolve(once) == once


def test_imagenet_is_trained_as_published():
  config = resolve(RunConfig(DataConfig("imagenet2012", augment=True), ModelConfig(name="densenet-121")))
  sgd = config.optimizer
  assert (config.epochs, config.batch_size, config.report) == (90, 256, "last")
  assert (sgd.learning_rate, sgd.momentum, sgd.nesterov, sgd.weight_decay) == (0.1, 0.9, True, 1e-4)
  assert optimizer.drop_epochs(sgd, config.epochs) == [30, 60]
  assert (config.model.dropout, config.data.validation) == (0.0, 0)
  assert (config.data.size, config.data.resize) == (224, 256)
  assert resolve(RunConfig(DataConfig("imagenet2012"), ModelConfig(name="densenet-121"))).model.dropout == 0.0


def test_whatever_is_streamed_has_imagenets_protocol_and_a_run_says_so(tmp_path):
  imagenet = protocol.of("densenet", "imagenet2012")
  own = resolve(RunConfig(DataConfig("imagenet2012"), ModelConfig(name="densenet-121")))
  assert protocol.of_streamed(own) == "protocol: densenet's for ImageNet"
  for whose in typing.get_args(ProtocolName):
    assert protocol.of(whose, "folder") == protocol.of(whose, "imagenet2012") == imagenet
    asked = RunConfig(DataConfig("folder", tmp_path), ModelConfig(depth=10), protocol=whose)
    said = f"protocol: densenet's for ImageNet ({whose} has none of its own for folder)"
    assert protocol.of_streamed(resolve(asked)) == said
  assert protocol.of_streamed(resolve(RunConfig())) is None


def test_every_protocol_speaks_of_every_data_set_of_the_catalog():
  pairs = {(whose, data) for whose in typing.get_args(ProtocolName) for data in (*datasets.CATALOG, protocol.STREAMED)}
  assert set(protocol.PROTOCOLS) == pairs


def test_a_data_set_of_the_catalog_that_a_protocol_does_not_speak_of_is_refused(monkeypatch):
  for whose in ("densenet", "wide"):
    monkeypatch.delitem(protocol.PROTOCOLS, (whose, "cifar10"))
  words = "there is none for cifar10; one of caffe, resnet, stochastic-depth, preactivation"
  with pytest.raises(ConfigurationError, match=f"^--protocol densenet: {words}$"):
    resolve(RunConfig())
