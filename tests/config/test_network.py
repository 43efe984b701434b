"""The table of families: everything that the program knows of a network before it is built."""

import dataclasses
import typing

import pytest

from dn_jax.config import network, zoo
from dn_jax.config.families import FAMILIES
from dn_jax.config.nested import flag_types
from dn_jax.config.network import complete_model, kind_of, name_of, policy_of
from dn_jax.config.schema import ModelConfig, RematPolicy, RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.models.build import BUILDERS, build

# The smallest network of each family.
SMALLEST = {"densenet": 7, "rdnet": None, "resnet": 8, "preactivation": 11, "wide": 10}


def test_a_family_is_an_entry_a_builder_and_a_flag_and_no_more():
  (family,) = [hint for hint in typing.get_args(flag_types(RunConfig)["model.family"]) if hint is not type(None)]
  assert set(typing.get_args(family)) == set(FAMILIES) == set(BUILDERS) == set(SMALLEST)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_open_remat_policy_is_the_familys_default_where_it_is_built(family):
  expected = "layer_by_layer" if family in ("densenet", "rdnet") else "dense_layer"
  bottleneck = False if family == "densenet" else None
  model = complete_model(ModelConfig(family=family, depth=SMALLEST[family], bottleneck=bottleneck))
  assert model.remat is None
  assert build(model, 10).remat == expected


def test_every_policy_is_some_familys():
  assert {policy for family in FAMILIES.values() for policy in family.remat} == set(typing.get_args(RematPolicy))
  assert all(family.default_remat in family.remat for family in FAMILIES.values())


# The zoo's names and titles were typed from the papers' tables.
@pytest.mark.parametrize("name", ["densenet-40-12", "densenet-bc-100-12", "preactivation-164", "wide-28-10"])
def test_a_network_without_a_name_is_called_as_the_zoo_calls_it(name):
  entry, complete = zoo.NETWORKS[name], complete_model(ModelConfig(name=name))
  bare = dataclasses.replace(complete, name=None)
  assert name_of(bare) == name_of(complete) == name
  if "densenet" in name:
    assert f"{kind_of(bare)} ({network.size_of(bare)})" == entry.title


def test_what_a_family_has_one_value_of_is_filled_in_and_another_refused():
  wide = complete_model(ModelConfig(family="wide", depth=10, survival=1.0))
  assert (wide.widen_factor, wide.survival, wide.shortcut, wide.growth_rate) == (1, 1.0, None, None)
  for family, flags, message in (
    ("resnet", {"widen_factor": 2}, "--model.widen-factor 2: is for --model.family wide"),
    ("wide", {"shortcut": "average"}, "--model.shortcut average: is for --model.family resnet"),
    ("preactivation", {"shortcut": "average"}, "--model.shortcut average: is for --model.family resnet"),
    ("densenet", {"widen_factor": 2}, "--model.widen-factor 2: does not apply to a densenet network"),
    ("wide", {"blocks": (1,)}, r"--model.blocks \(1,\): does not apply to a wide network"),
    ("preactivation", {"dropout": 0.1}, "--model.dropout 0.1: a preactivation network has no dropout"),
    ("wide", {"remat": "block"}, "--model.remat block: is for DenseNet; a wide network takes none or dense_layer"),
  ):
    with pytest.raises(ConfigurationError, match=message):
      complete_model(ModelConfig(family=family, depth=SMALLEST[family], **flags))


def test_every_network_may_have_stochastic_depth_and_a_densenets_records_without_stay_as_they_were():
  for family, depth, name in (
    ("densenet", 40, "densenet-bc-40-12-stochastic-depth"),
    ("preactivation", 20, "preactivation-20-stochastic-depth"),
    ("wide", 10, "wide-10-1-stochastic-depth"),
  ):
    model = complete_model(ModelConfig(family=family, depth=depth, survival=0.5))
    assert (name_of(model), build(model, 10).survival) == (name, 0.5)
    without = complete_model(ModelConfig(family=family, depth=depth, survival=1.0))
    assert without == complete_model(ModelConfig(family=family, depth=depth))
    assert without.survival == (None if family == "densenet" else 1.0)
    assert build(without, 10).survival == 1.0


def test_an_rdnets_blocks_rates_and_halvings_fit_together():
  model = complete_model(ModelConfig(family="rdnet", growth_rates=(16, 8, 8), downsample=(2, 1)))
  assert (model.blocks, model.downsample, model.patch_size, model.epsilon) == ((3, 3, 3), (1, 2), 4, 1e-6)
  assert complete_model(ModelConfig(family="rdnet")).downsample == (1, 2, 6)
  assert name_of(model) == "rdnet-16-8-8-patch-4"
  assert name_of(dataclasses.replace(model, blocks=(1, 2, 3))) == "rdnet-16-8-8-layers-1-2-3-patch-4"
  for flags, message in (
    ({"depth": 40}, "--model.depth 40: an RDNet has none; give --model.growth-rates, --model.blocks"),
    ({"growth_rate": 12}, "--model.growth-rate 12: does not apply to a rdnet network"),
    ({"blocks": (3, 3)}, "--model.blocks 3 3: one number for each of the 3 growth rates"),
    ({"downsample": (3,)}, "--model.downsample 3: numbers of blocks that a transition follows, 1 to 2, each once"),
    ({"downsample": (1, 1)}, "--model.downsample 1 1: numbers of blocks"),
    ({"compression": 0.05}, "--model.compression 0.05: leaves a transition without channels; take a larger one"),
    ({"remat": "bottleneck"}, "--model.remat bottleneck: is for DenseNet; a rdnet network takes none or dense_layer"),
    ({"dropout": 0.1}, "--model.dropout 0.1: a rdnet network has no dropout"),
    ({"initial_channels": 9_999, "growth_rates": (4_999,) * 3, "blocks": (40,) * 3}, "parameters; no machine holds"),
  ):
    with pytest.raises(ConfigurationError, match=message):
      complete_model(ModelConfig(family="rdnet", **{"growth_rates": (16, 8, 8), **flags}))


def test_a_stem_for_imagenet_is_known():
  for name, expected in (("rdnet-tiny", True), ("rdnet-cifar", False), ("densenet-121", True), ("wide-16-8", False)):
    assert network.is_for_imagenet(complete_model(ModelConfig(name=name))) is expected


def test_stochastic_depth_brings_its_own_start_and_shortcut():
  for survival, expected in ((0.5, ("fan_in", "average")), (1.0, ("fan_out", "subsample"))):
    model = complete_model(ModelConfig(family="resnet", depth=8, survival=survival))
    assert (model.convolution_init, model.shortcut) == expected


def test_a_policy_that_is_asked_for_is_taken():
  assert policy_of(complete_model(ModelConfig(remat="block"))) == "block"
