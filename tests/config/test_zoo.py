"""Names, and the way from a configuration to a network."""

import pytest

from dn_jax.config import zoo
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError
from dn_jax.models import build, summary

# Exact counts, 1000 classes for ImageNet and 10 otherwise: of PyTorch's networks and of the authors' code. Plain
# DenseNet has 16 channels in its stem, which alone gives the paper's 1.0M, 7.0M and 27.2M.
EXACT = {
  # Of timm's class with the same arguments.
  "rdnet-cifar": 1_152_074,
  "densenet-bc-100-12": 769_162,
  "densenet-bc-190-40": 25_624_430,
  "densenet-bc-250-24": 15_324_406,
  "densenet-121": 7_978_856,
  "densenet-169": 14_149_480,
  "densenet-201": 20_013_928,
  "densenet-161": 28_681_000,
  "densenet-264-cosine": 33_337_704,
  "densenet-264": 33_337_704,
  "densenet-232-48": 55_570_984,
  "densenet-264-48-cosine": 72_686_632,
  "resnet-110": 1_727_962,
  "resnet-110-constant-depth": 1_727_962,
  "resnet-110-stochastic-depth": 1_727_962,
  "resnet-1202-stochastic-depth": 19_421_274,
  "preactivation-164": 1_703_258,
  "preactivation-1001": 10_327_706,
  "wide-16-8": 10_961_370,
  "wide-28-10": 36_479_194,
}


# Others have hundreds of layers, which take seconds to trace, and of the same kinds.
SHALLOW = (
  *("densenet-40-12", "densenet-bc-100-12", "densenet-caffe-40-12", "wide-densenet-bc-40-36", "densenet-121"),
  *("resnet-110", "preactivation-164", "wide-16-8"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=[] if name in SHALLOW else [pytest.mark.thorough]) for name in zoo.NETWORKS]
)
def test_counted_parameters_agree_with_the_published_ones(name):
  entry = zoo.NETWORKS[name]
  # The policy adds no parameters and doubles the time to trace a thousand layers.
  network = build.build(complete_model(ModelConfig(name=name, remat="none")), 1000 if entry.imagenet else 10)
  rows = summary.layers(network, (224, 224, 3) if entry.imagenet else (32, 32, 3))
  count = sum(row.parameters for row in rows)
  assert (count, sum(row.flops for row in rows)) == entry.counted
  assert count == EXACT.get(name, count)
  if name == "preactivation-1001":  # Published without the norms' scales and biases.
    count -= sum(row.parameters for row in rows if row.kind == "BatchNorm")
  if name == "rdnet-cifar":
    return  # Nobody has published it.
  if name == "resnet-1202-stochastic-depth":
    return  # The table prints 10.2M, which is not this network's.
  if name == "densenet-caffe-40-12":
    assert count == 1_019_722  # As DenseNet (L=40, k=12), whose 1.0M the paper prints.
  else:
    assert count / 1e6 == pytest.approx(entry.parameters, abs=0.051)


def by_hand(config, imagenet):
  """Parameters of a DenseNet by the paper's formulas: kernels, and two for each channel that a norm reads."""
  k, channels, classes = config.growth_rate, config.initial_channels, 1000 if imagenet else 10
  count = 7 * 7 * 3 * channels + 2 * channels if imagenet else 3 * 3 * 3 * channels
  for n, layers in enumerate(config.blocks, start=1):
    for _ in range(layers):
      width = config.bottleneck_width * k
      count += 2 * channels + (channels * width + 2 * width + 9 * width * k if width else 9 * channels * k)
      channels += k
    count += 2 * channels
    if n < len(config.blocks):
      kept = int(config.compression * channels)
      count, channels = count + channels * kept, kept
  return count + channels * classes + classes


@pytest.mark.parametrize("name", [name for name in zoo.NETWORKS if "densenet" in name])
def test_parameters_counted_by_hand_agree_with_the_published_ones(name):
  entry, config = zoo.NETWORKS[name], complete_model(ModelConfig(name=name))
  count = by_hand(config, entry.imagenet)
  assert count == entry.counted.parameters == EXACT.get(name, count)
  if name != "densenet-caffe-40-12":
    assert count / 1e6 == pytest.approx(entry.parameters, abs=0.051)


def test_published_errors_are_those_of_the_papers_table(request):
  # Table 2 of the CVPR 2017 paper, typed from the paper: C10, C10+, C100, C100+, SVHN.
  table = {
    "densenet-40-12": (7.00, 5.24, 27.55, 24.42, 1.79),
    "densenet-100-12": (5.77, 4.10, 23.79, 20.20, 1.67),
    "densenet-100-24": (5.83, 3.74, 23.42, 19.25, 1.59),
    "densenet-bc-100-12": (5.92, 4.51, 24.15, 22.27, 1.76),
    "densenet-bc-250-24": (5.19, 3.62, 19.64, 17.60, 1.74),
  }
  for name, errors in table.items():
    assert tuple(zoo.NETWORKS[name].errors[column] for column in zoo.COLUMNS) == errors


def test_an_unknown_name_gets_near_ones():
  with pytest.raises(ConfigurationError, match=r"--model\.name densnet-121: did you mean densenet-121"):
    complete_model(ModelConfig(name="densnet-121"))


def test_flags_change_parts_of_a_named_network():
  config = complete_model(ModelConfig(name="densenet-bc-100-12", depth=40, growth_rate=36))
  assert config.blocks == (6, 6, 6)
  assert config.initial_channels == 72
  plain = complete_model(ModelConfig(name="densenet-bc-100-12", bottleneck=False))
  assert (plain.compression, plain.bottleneck_width, plain.blocks) == (1.0, 0, (32, 32, 32))


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_completing_twice_changes_nothing(name):
  once = complete_model(ModelConfig(name=name))
  assert once.name == name
  assert complete_model(once) == once


def test_a_changed_network_loses_its_published_name():
  for changes in ({"depth": 40}, {"growth_rate": 24}, {"compression": 1.0}, {"convolution_init": "fan_in"}):
    assert complete_model(ModelConfig(name="densenet-bc-100-12", **changes)).name is None
  for changes in ({"depth": 100}, {"dropout": 0.2}, {"dtype": "bfloat16"}, {"remat": "none"}):
    assert complete_model(ModelConfig(name="densenet-bc-100-12", **changes)).name == "densenet-bc-100-12"


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (ModelConfig(depth=41), "--model.depth 41: .* the nearest are 40 and 46"),
    (ModelConfig(depth=-5), "--model.depth -5: must be at least 1"),
    (ModelConfig(growth_rate=0), "--model.growth-rate 0: must be at least 1"),
    (ModelConfig(blocks=(2, 0)), "--model.blocks"),
    (ModelConfig(depth=40, blocks=(2, 2)), "--model.depth or --model.blocks, not both"),
    (ModelConfig(compression=0.0), "--model.compression 0.0: above 0, at most 1"),
    (ModelConfig(compression=0.001), "leaves a transition without channels"),
    (ModelConfig(dropout=1.0), "--model.dropout 1.0: at least 0, below 1"),
    (ModelConfig(bottleneck=False, remat="bottleneck"), "--model.remat bottleneck: this network has no bottleneck"),
    (ModelConfig(bottleneck=False, bottleneck_width=4), "--model.bottleneck-width 4"),
    (ModelConfig(epsilon=0.0), "--model.epsilon 0.0"),
    (ModelConfig(name="resnet-110", growth_rate=12), "--model.growth-rate 12: does not apply to a resnet network"),
    (ModelConfig(name="resnet-110", depth=111), "--model.depth 111: .* the nearest are 110 and 116"),
    (ModelConfig(survival=0.0), "--model.survival 0.0: above 0, at most 1"),
    (
      ModelConfig(name="preactivation-164", depth=20, shortcut="average"),
      "--model.shortcut average: is for --model.family resnet",
    ),
    (ModelConfig(name="resnet-110", remat="block"), "--model.remat block: is for DenseNet"),
    (ModelConfig(family="wide"), "--model.family wide: needs a depth"),
  ],
)
def test_what_no_network_can_have_is_refused_by_flag(config, message):
  with pytest.raises(ConfigurationError, match=message):
    complete_model(config)
