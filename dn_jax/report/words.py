"""Flags and their values as text."""

from typing import Any

from dn_jax.config import zoo
from dn_jax.config.network import kind_of, name_of, size_of
from dn_jax.config.resolve import data_name
from dn_jax.config.schema import ModelConfig, RunConfig


def in_words(value: Any) -> str:
  """A configuration's value as text."""
  if isinstance(value, list):
    return "-".join(map(str, value))
  return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def network(model: ModelConfig) -> str:
  """A completed network's name as the paper says it, such as `DenseNet-BC (L=100, k=12)`."""
  if model.name:
    return zoo.NETWORKS[model.name].title
  return f"{kind_of(model)} ({size_of(model)})" if model.family == "densenet" else name_of(model)


def run(config: RunConfig) -> str:
  """A resolved run as a title: network, data set and seed."""
  return f"{network(config.model)} on {data_name(config)}, seed {config.seed}"


def short_flag(flag: str) -> str:
  """A flag as a label: `model.depth` -> `depth`, `data.augment` stays."""
  return flag.removeprefix("model.").removeprefix("optimizer.")
