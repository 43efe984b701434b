"""Unset flags are as published."""

import dataclasses
import typing

import pytest

from dn_jax.config import datasets, protocol
from dn_jax.config.nested import identity
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
  for whose in set(typing.get_args(ProtocolName)) - {"rdnet"}:
    with_mixup = {"mixup": 0.2} if whose == "mixup" else {}
    expected = dataclasses.replace(imagenet, **with_mixup)
    assert protocol.of(whose, "folder") == protocol.of(whose, "imagenet2012") == expected
    asked = RunConfig(DataConfig("folder", tmp_path), ModelConfig(depth=10), protocol=whose)
    said = f"protocol: densenet's for ImageNet{', with mixup' if with_mixup else ''}"
    assert protocol.of_streamed(resolve(asked)) == f"{said} ({whose} has none of its own for folder)"
  asked = RunConfig(DataConfig("folder", tmp_path), ModelConfig(depth=10), protocol="rdnet")
  said = "protocol: rdnet's for ImageNet (rdnet has none of its own for folder)"
  assert protocol.of_streamed(resolve(asked)) == said
  asked = dataclasses.replace(asked, data=DataConfig("imagenet2012"))
  assert protocol.of_streamed(resolve(asked)) == "protocol: rdnet's for ImageNet"
  assert protocol.of_streamed(resolve(RunConfig())) is None


def test_every_protocol_speaks_of_every_data_set_of_the_catalog():
  pairs = {(whose, data) for whose in typing.get_args(ProtocolName) for data in (*datasets.CATALOG, protocol.STREAMED)}
  assert set(protocol.PROTOCOLS) == pairs


def test_a_data_set_of_the_catalog_that_a_protocol_does_not_speak_of_is_refused(monkeypatch):
  for whose in ("densenet", "wide"):
    monkeypatch.delitem(protocol.PROTOCOLS, (whose, "cifar10"))
  words = "there is none for cifar10; one of caffe, resnet, stochastic-depth, preactivation, rdnet, mixup"
  with pytest.raises(ConfigurationError, match=f"^--protocol densenet: {words}$"):
    resolve(RunConfig())


# train_configs/rdnet.yaml of naver-ai/rdnet.
RDNET = {"mixup": 0.8, "cutmix": 1.0, "erasing": 0.25, "rand_augment": 9.0, "rand_augment_deviation": 0.5}


@pytest.mark.parametrize(
  ("data", "epochs", "batch_size", "warmup", "held_out"),
  [
    ("imagenet2012", 300, 512, 20, (0, "last")),
    ("cifar10", 300, 512, 20, (0, "last")),
    ("cifar100", 300, 512, 20, (0, "last")),
    ("svhn_cropped", 40, 512, 3, (6000, "best")),
    ("digits", 40, 64, 3, (0, "last")),
  ],
)
def test_rdnets_recipe_is_its_authors_on_all_data(data, epochs, batch_size, warmup, held_out):
  config = resolve(RunConfig(DataConfig(data, augment=True), ModelConfig(depth=10), protocol="rdnet"))
  found = config.optimizer
  assert (config.epochs, config.batch_size, config.data.validation, config.report) == (epochs, batch_size, *held_out)
  assert (found.name, found.learning_rate, found.momentum, found.beta2) == ("adamw", 1e-3, 0.9, 0.999)
  assert (found.weight_decay, found.decay, found.nesterov, found.label_smoothing) == (0.05, "kernels", False, 0.1)
  assert (found.schedule, found.final_rate, found.warmup_epochs, found.warmup_rate) == ("cosine", 1e-6, warmup, 1e-4)
  without = {"rand_augment": None, "rand_augment_deviation": None} if data == "digits" else {}
  assert (RDNET | without).items() <= dataclasses.asdict(protocol.of("rdnet", data)).items()
  streamed = data == "imagenet2012"
  said = (config.data.interpolation, config.data.resize)
  assert said == (("bicubic", 248) if streamed else (None, None))
  assert protocol.source("rdnet", data).startswith(
    "published for ImageNet" if streamed else f"none is published for {data}"
  )


@pytest.mark.parametrize(("size", "resize"), [(224, 248), (384, 426), (288, 320)])
def test_rdnets_test_crop_is_nine_tenths_as_timm_rounds_it(size, resize):
  asked = RunConfig(DataConfig("imagenet2012", size=size), ModelConfig(name="densenet-121"), protocol="rdnet")
  assert resolve(asked).data.resize == resize
  assert (
    resolve(dataclasses.replace(asked, data=DataConfig("imagenet2012", size=size, resize=size))).data.resize == size
  )


# Its authors' train.py; decay, epochs and drops are its defaults.
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_mixup_is_trained_as_published(data):
  config = resolve(RunConfig(DataConfig(data, augment=True), ModelConfig(name="densenet-bc-190-40"), protocol="mixup"))
  sgd = config.optimizer
  assert (config.epochs, config.batch_size, protocol.of("mixup", data).mixup) == (200, 128, 1.0)
  assert (sgd.name, sgd.learning_rate, sgd.momentum, sgd.nesterov, sgd.weight_decay) == (None, 0.1, 0.9, False, 1e-4)
  assert (sgd.schedule, sgd.drop_factor, optimizer.drop_epochs(sgd, config.epochs)) == ("steps", 0.1, [100, 150])
  assert (config.model.dropout, config.data.validation, config.report) == (0.0, 0, "last")


def test_a_warm_up_is_shortened_with_the_training_and_a_flags_zero_stays():
  asked = RunConfig(DataConfig("cifar10"), protocol="rdnet")
  found = {n: resolve(dataclasses.replace(asked, epochs=n)).optimizer.warmup_epochs for n in (1, 30, 300, 600)}
  assert found == pytest.approx({1: 1 / 15, 30: 2.0, 300: 20.0, 600: 20.0})
  none = OptimizerConfig(warmup_epochs=0.0, label_smoothing=0.0, final_rate=0.0, decay="all")
  config = resolve(dataclasses.replace(asked, optimizer=none))
  found = config.optimizer
  assert (found.warmup_epochs, found.label_smoothing, found.final_rate, found.decay) == (0, 0, 0, "all")
  assert found.warmup_rate is None  # There is no warm-up that it could begin.
  assert resolve(config) == config


def test_what_belongs_to_another_optimizer_or_schedule_is_not_filled_in():
  asked = OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=0.01)
  found = resolve(RunConfig(optimizer=asked)).optimizer
  assert (found.nesterov, found.beta2, found.momentum, found.decay) == (False, 0.999, 0.9, None)
  asked = OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=1e-4, schedule="steps")
  found = resolve(RunConfig(optimizer=asked, protocol="rdnet")).optimizer
  assert (found.name, found.beta2, found.nesterov, found.final_rate) == ("sgd", None, False, None)


@pytest.mark.parametrize(
  ("whose", "asked", "line"),
  [
    ("densenet", {"name": "adamw"}, "--optimizer.name adamw: the rate and the decay of protocol densenet are for sgd"),
    ("rdnet", {"name": "sgd", "learning_rate": 0.1}, "--optimizer.name sgd: the rate and the decay of protocol rdnet"),
    ("rdnet", {"nesterov": True}, "--optimizer.nesterov True: is a form of SGD's momentum; AdamW has none$"),
    ("densenet", {"beta2": 0.99}, "--optimizer.beta2 0.99: is AdamW's; for --optimizer.name adamw$"),
    ("densenet", {"final_rate": 0.1}, "--optimizer.final-rate 0.1: is for --optimizer.schedule cosine$"),
    ("densenet", {"warmup_rate": 0.1}, r"--optimizer.warmup-rate 0.1: is for --optimizer.warmup-epochs above 0$"),
    ("rdnet", {"final_rate": 0.1}, r"--optimizer.final-rate 0.1: at most --optimizer.learning-rate, 0\.001$"),
    ("rdnet", {"learning_rate": 5e-5}, "--optimizer.warmup-rate 0.0001: at most --optimizer.learning-rate, 5e-05$"),
    ("rdnet", {"beta2": 1.0}, "--optimizer.beta2 1.0: at least 0, below 1$"),
  ],
)
def test_flags_that_would_be_ignored_or_are_of_another_optimizer_are_refused(whose, asked, line):
  with pytest.raises(ConfigurationError, match=f"^{line}"):
    resolve(RunConfig(optimizer=OptimizerConfig(**asked), protocol=whose))


def test_values_that_mean_none_are_none_so_that_a_run_stays_the_same_run():
  plain = resolve(RunConfig())
  said = OptimizerConfig(name="sgd", decay="all", warmup_epochs=0.0, label_smoothing=0.0)
  assert resolve(RunConfig(optimizer=said)) == plain
  assert identity(resolve(RunConfig(optimizer=said))) == identity(plain)
  streamed = RunConfig(DataConfig("imagenet2012"), ModelConfig(name="densenet-121"))
  bilinear = dataclasses.replace(streamed, data=DataConfig("imagenet2012", interpolation="bilinear"))
  assert resolve(bilinear) == resolve(streamed)
  # Under RDNet's recipe these say something.
  found = resolve(dataclasses.replace(bilinear, protocol="rdnet"))
  assert found.data.interpolation == "bilinear"
  assert resolve(found) == found


def test_records_and_keys_of_runs_without_the_new_flags_name_none_of_them():
  new = {"optimizer.name", "optimizer.beta2", "optimizer.decay", "optimizer.final-rate", "optimizer.warmup-rate"}
  for data in ("cifar10", "imagenet2012"):
    for whose in set(typing.get_args(ProtocolName)) - {"rdnet"}:
      config = resolve(RunConfig(DataConfig(data), ModelConfig(name="densenet-121"), protocol=whose))
      found = identity(config)
      assert not found.keys() & {*new, "data.interpolation"}
      assert (found["optimizer.warmup-epochs"], found["optimizer.label-smoothing"]) == (0.0, 0.0)
  found = identity(resolve(RunConfig(DataConfig("imagenet2012"), ModelConfig(name="densenet-121"), protocol="rdnet")))
  assert found.keys() >= {*new, "data.interpolation"}


@pytest.mark.parametrize("data", ["cifar10", "digits"])
def test_a_filter_is_for_images_that_are_read_one_by_one(data):
  with pytest.raises(
    ConfigurationError, match=r"^--data\.interpolation bicubic: .* for images that are read one by one$"
  ):
    resolve(RunConfig(DataConfig(data, interpolation="bicubic")))
