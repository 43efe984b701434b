"""Names, and the way from a configuration to a network."""

import pytest

from dn_jax.configuration import ConfigurationError, ModelConfig
from dn_jax.models import zoo
from dn_jax.models.summary import parameter_count


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_counted_parameters_agree_with_the_published_ones(name):
  entry = zoo.NETWORKS[name]
  imagenet = "imagenet" in entry.errors
  network = zoo.build(zoo.complete(ModelConfig(name=name)), 1000 if imagenet else 10)
  count = parameter_count(network, (224, 224, 3) if imagenet else (32, 32, 3))
  if entry.parameters:
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
    zoo.complete(ModelConfig(name="densnet-121"))


def test_flags_change_parts_of_a_named_network():
  config = zoo.complete(ModelConfig(name="densenet-bc-100-12", depth=40, growth_rate=36))
  assert config.blocks == (6, 6, 6)
  assert config.initial_channels == 72
  plain = zoo.complete(ModelConfig(name="densenet-bc-100-12", bottleneck=False))
  assert (plain.compression, plain.bottleneck_width, plain.blocks) == (1.0, 0, (32, 32, 32))


def test_a_completed_configuration_stays_as_it_is():
  for name in zoo.NETWORKS:
    config = zoo.complete(ModelConfig(name=name))
    if config.bottleneck and config.depth is None:
      assert zoo.build(zoo.complete(ModelConfig(name=name)), 10) == zoo.build(config, 10)


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
  ],
)
def test_what_no_network_can_have_is_refused_by_flag(config, message):
  with pytest.raises(ConfigurationError, match=message):
    zoo.complete(config)
