"""Configurations as records: written, read back, compared."""

import json
import pathlib

import pytest

from dn_jax.config.resolve import resolve, slug
from dn_jax.config.schema import (
  DataConfig,
  ModelConfig,
  OptimizerConfig,
  RunConfig,
  difference,
  from_dict,
  identity,
  to_dict,
)
from dn_jax.errors import ConfigurationError, near


def test_a_configuration_survives_json():
  config = resolve(
    RunConfig(
      DataConfig("cifar10", pathlib.Path("/data"), True, 500),
      ModelConfig(blocks=(3, 4, 5)),
      OptimizerConfig(drops=(0.3, 0.6)),
      out=pathlib.Path("runs/x"),
    )
  )
  assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_a_record_of_a_later_version_is_refused():
  with pytest.raises(KeyError, match="colour"):
    from_dict(RunConfig, {"colour": "red"})


def test_how_a_run_is_carried_out_is_no_part_of_what_it_is():
  plain = resolve(RunConfig(DataConfig("digits")))
  other = resolve(
    RunConfig(
      DataConfig("digits", dir=pathlib.Path("/elsewhere")),
      ModelConfig(remat="none"),
      out=pathlib.Path("x"),
      steps_per_dispatch=7,
      tensorboard=True,
    )
  )
  assert identity(plain) == identity(other)


def test_two_ways_to_ask_for_the_same_run_are_the_same_run():
  named = resolve(RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="densenet-bc-100-12")))
  spelled = resolve(
    RunConfig(
      DataConfig("cifar10", augment=True, validation=0), ModelConfig(blocks=(16, 16, 16), growth_rate=12), epochs=300
    )
  )
  assert identity(named) == identity(spelled)


def test_a_difference_names_flags_and_values():
  old, new = (identity(resolve(RunConfig(DataConfig("digits"), ModelConfig(growth_rate=k), seed=k))) for k in (4, 8))
  assert difference(old, new) == ["--model.growth-rate: 4 -> 8", "--model.initial-channels: 8 -> 16", "--seed: 4 -> 8"]
  assert difference(old, old) == []
  # Of records of other versions a flag may be absent.
  assert difference({"a": None, "b": 1}, {"b": 1, "c": None}) == ["--a: None -> (absent)", "--c: (absent) -> None"]


@pytest.mark.parametrize(
  ("config", "expected"),
  [
    (RunConfig(DataConfig("digits")), "digits_densenet-bc-100-12_seed0"),
    (
      RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="wide-densenet-bc-40-36"), seed=3),
      "cifar10+_wide-densenet-bc-40-36_seed3",
    ),
    (RunConfig(DataConfig("cifar100"), ModelConfig(depth=40, bottleneck=False)), "cifar100_densenet-40-12_seed0"),
    (
      RunConfig(DataConfig("cifar100"), ModelConfig(blocks=(1, 2), compression=1.0)),
      "cifar100_densenet-b-1-2-12_seed0",
    ),
  ],
)
def test_a_runs_name_says_data_network_and_seed(config, expected):
  assert slug(resolve(config)) == expected


def test_near_names_are_offered_or_all():
  assert near("cifar", ["cifar10", "digits"]) == "did you mean cifar10?"
  assert near("xyz", ["cifar10", "digits"]) == "one of cifar10, digits"


@pytest.mark.parametrize("out", ["gs://bucket", "s3://bucket/runs"])
def test_what_is_no_folder_is_refused_before_anything_is_written_there(out):
  with pytest.raises(ConfigurationError, match=rf"--out {out}: "):
    resolve(RunConfig(DataConfig("digits"), out=pathlib.Path(out)))
