"""A run's configuration filled in, from the named network and the published protocol, checked, and named."""

import dataclasses
import pathlib

from dn_jax.config import check, protocol
from dn_jax.config.schema import RunConfig
from dn_jax.data import catalog
from dn_jax.errors import ConfigurationError
from dn_jax.models import build
from dn_jax.system import folders
from dn_jax.training import initial_state


def resolve(config: RunConfig) -> RunConfig:
  """Fills in everything left open, from the named network and the published protocol, and checks it.

  Raises:
    ConfigurationError: a flag's value does not fit.
  """
  info = catalog.info_of(config.data)
  asked = initial_state.model_of(config)
  model = build.complete(asked)
  whose = config.protocol or protocol.protocol_name(asked.name, model)
  config = dataclasses.replace(config, model=model, protocol=whose)
  if info.streamed:
    data = dataclasses.replace(config.data, size=info.image_shape[0], resize=info.resize)
    config = dataclasses.replace(config, data=data)
  config = protocol.fill_in(config)
  _check(config, info)
  return dataclasses.replace(config, out=folders.of("out", config.out or pathlib.Path("runs") / slug(config)))


def network_name(config: RunConfig) -> str:
  """A resolved run's network: its name in the zoo, or kind, layers and growth rate."""
  model = config.model
  if model.name:
    return model.name
  if model.family != "densenet":
    stochastic = "-stochastic-depth" if model.survival < 1 else ""
    return f"{model.family}-{model.depth}{f'-{model.widen_factor}' if model.family == 'wide' else ''}{stochastic}"
  kind = ("b" if model.bottleneck else "") + ("c" if model.compression < 1 else "")
  layers = model.depth or "-".join(map(str, model.blocks))
  return "-".join(["densenet", *([kind] if kind else []), f"{layers}", f"{model.growth_rate}"])


def data_name(config: RunConfig) -> str:
  """A run's data set, with the paper's "+" where it is augmented."""
  return config.data.name + ("+" if config.data.augment else "")


def slug(config: RunConfig) -> str:
  """A short name for a resolved run: data set, network, seed."""
  return f"{data_name(config)}_{network_name(config)}_seed{config.seed}"


def _check(config: RunConfig, info: catalog.DatasetInfo) -> None:
  """Refuses what fields' own types and bounds refuse, and values that do not go together."""
  check.check(config)
  data, sgd = config.data, config.optimizer
  for flag, value, fits, words in (
    (
      "data.resize",
      data.resize,
      not (data.size and data.resize and data.resize < data.size),
      f"must be at least {data.size}",
    ),
    (
      "parallel",
      config.parallel,
      not (config.shard_state and config.parallel == "pmap"),
      "every device holds the whole state under it; --shard-state needs jit",
    ),
    (
      "optimizer.warmup-epochs",
      sgd.warmup_epochs,
      sgd.warmup_epochs <= config.epochs,
      "at least 0, within the run",
    ),
    (
      "data.normalise",
      data.normalise,
      not info.streamed or data.normalise == "channel",
      "pictures that are read one by one have no mean picture; take channel",
    ),
    (
      "last-batch",
      config.last_batch,
      not info.streamed or config.last_batch == "drop",
      "batches that are read picture by picture have one size; take drop",
    ),
    (
      "report",
      config.report,
      config.report != "best" or data.validation > 0,
      "needs held-out pictures; give --data.validation",
    ),
  ):
    if not fits:
      raise ConfigurationError(flag, value, words)
  initial_state.check(config)
  build.check_pictures(config.model, min(info.image_shape[:2]), config.batch_size, config.statistics_groups)
