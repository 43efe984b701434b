"""Configurations as records: written, read back, compared."""

import json
import math
import pathlib

import pytest
from conftest import run

from dn_jax.config.about import About
from dn_jax.config.check import Misfit, check, from_json, in_words, to_dict
from dn_jax.config.nested import difference, flag_types, identity
from dn_jax.config.resolve import resolve, slug
from dn_jax.config.schema import (
  DataConfig,
  ModelConfig,
  OptimizerConfig,
  RunConfig,
)
from dn_jax.errors import ConfigurationError, near


def test_a_configuration_survives_json():
  config = resolve(
    RunConfig(
      DataConfig("cifar10", pathlib.Path("/data"), True, validation=500),
      ModelConfig(blocks=(3, 4, 5)),
      OptimizerConfig(drops=(0.3, 0.6)),
      out=pathlib.Path("runs/x"),
    )
  )
  assert from_json(RunConfig, json.dumps(to_dict(config))) == config
  assert to_dict(config)["data"]["dir"] == "/data"
  assert to_dict(config)["model"]["blocks"] == [3, 4, 5]


@pytest.mark.parametrize(
  ("record", "line"),
  [
    ({"colour": "red"}, '"colour": there is no such field'),
    ({"model": {"depht": 40}}, '"model.depht": there is no such field; did you mean depth or dropout?'),
    ({"seed": 1.0}, "seed 1.0: a whole number"),
    ({"seed": None}, "seed null: a whole number"),
    ({"epochs": True}, "epochs true: a whole number"),
    ({"epochs": 0}, "epochs 0: must be at least 1"),
    ({"epochs": 2**31}, "epochs 2147483648: must be below 2**31"),
    ({"model": 5}, "model 5: a record"),
    ({"model": {"dtype": "float8"}}, 'model.dtype "float8": float32 or bfloat16'),
    ({"model": {"blocks": [6, "6"]}}, 'model.blocks "6": one or more whole numbers'),
    ({"model": {"bottleneck": "False"}}, 'model.bottleneck "False": True or False'),
    ({"optimizer": {"momentum": math.nan}}, "optimizer.momentum NaN: at least 0, below 1"),
    ({"optimizer": {"warmup_epochs": math.inf}}, "optimizer.warmup_epochs Infinity: at least 0, within the run"),
    ({"data": {"dir": ["/x"]}}, 'data.dir ["/x"]: a path'),
    ([], "it is no record"),
  ],
)
def test_a_record_that_does_not_fit_is_told_the_field_the_value_and_what_would_fit(record, line):
  with pytest.raises(Misfit) as refused:
    from_json(RunConfig, json.dumps(record))
  assert str(refused.value) == line


def test_a_line_stays_short_whatever_the_value_is():
  for value in ("x" * 10**5, [[1] * 1000] * 100, {"a\n" * 1000: 1}, 10**400, "a\nb\x85c\u2028"):
    for record in ({"seed": value}, {"a\nb" * 1000: value}):
      with pytest.raises(Misfit) as refused:
        from_json(RunConfig, json.dumps(record))
      assert len(str(refused.value)) < 200
      assert len(str(refused.value).splitlines()) == 1


def test_a_value_of_another_type_than_its_field_is_refused_wherever_it_comes_from():
  for flag, config in (
    ("seed", RunConfig(seed="1")),
    ("seed", RunConfig(seed=True)),
    ("model.depth", RunConfig(model=ModelConfig(depth=40.0))),
    ("data.name", RunConfig(DataConfig(None))),
  ):
    with pytest.raises(ConfigurationError, match=rf"^--{flag} ") as refused:
      check(config)
    assert refused.value.fits in ("a whole number", "a text")
  check(RunConfig(optimizer=OptimizerConfig(momentum=0)))


@pytest.mark.parametrize(
  ("said", "line"),
  [
    ({"model": {"depth": 0}}, "model.depth 0: must be at least 1"),
    ({"input": {"size": "32"}}, 'input.size "32": a whole number'),
    (
      {"input": {"std": ["x"]}},
      'input.std "x": a number of at least 1e-6 for each channel, or for each pixel and channel',
    ),
    ({"classes": "cat"}, 'classes "cat": one or more texts'),
  ],
)
def test_what_a_file_of_weights_says_wrongly_of_itself_is_named(said, line):
  with pytest.raises(Misfit) as refused:
    from_json(About, json.dumps(said))
  assert str(refused.value) == line
  assert from_json(About, json.dumps({"input": {"mean": [1, 2.5], "std": [[[1.0]]]}})).input.std == (((1.0,),),)


def test_every_flags_type_can_be_said_in_words():
  for hint in flag_types(RunConfig).values():
    assert "<" not in in_words(hint)
    assert "None" not in in_words(hint)


def test_neither_jax_nor_pydantic_is_needed_to_know_the_flags():
  code = "import sys, dn_jax.config.schema, dn_jax.commands.flags; print({'jax', 'pydantic'} & set(sys.modules))"
  assert run("-c", code).stdout == "set()\n"


def test_how_a_run_is_carried_out_is_no_part_of_what_it_is():
  plain = resolve(RunConfig(DataConfig("digits")))
  other = resolve(
    RunConfig(
      DataConfig("digits", dir=pathlib.Path("/elsewhere")),
      ModelConfig(remat="none"),
      out=pathlib.Path("x"),
      steps_per_dispatch=7,
      tensorboard=True,
      wandb="nets",
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
  assert near("xyz", ["cifar10", "digits"], "dn-jax zoo lists them") == "dn-jax zoo lists them"
  # A slip's own name alone, where others are merely like it.
  assert near("model.dept", ["model.depth", "model.dtype", "model.dropout"]) == "did you mean model.depth?"


@pytest.mark.parametrize("out", ["gs://bucket", "s3://bucket/runs"])
def test_what_is_no_folder_is_refused_before_anything_is_written_there(out):
  with pytest.raises(ConfigurationError, match=rf"--out {out}: "):
    resolve(RunConfig(DataConfig("digits"), out=pathlib.Path(out)))
