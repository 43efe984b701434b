"""A run's configuration filled in, from the named network and the published protocol, checked, and named."""

import dataclasses
import math
import pathlib

from dn_jax.config import datasets, protocol, weights_file
from dn_jax.config.network import check_images, complete_model, name_of
from dn_jax.config.schema import RunConfig
from dn_jax.errors import ConfigurationError, near
from dn_jax.system import folders


def resolve(config: RunConfig) -> RunConfig:
  """Fills in everything left open, from the named network and the published protocol, and checks it.

  Three fields stay open, since only the devices know them: the remat policy, steps per dispatch, number of devices.

  Raises:
    ConfigurationError: a flag's value does not fit.
  """
  info = datasets.info_of(config.data)
  asked = weights_file.model_of(config)
  model = complete_model(asked)
  whose = config.protocol or protocol.protocol_name(asked.name, model)
  config = dataclasses.replace(config, model=model, protocol=whose)
  if info.streamed:
    data = dataclasses.replace(config.data, size=info.image_shape[0], resize=info.resize)
    config = dataclasses.replace(config, data=data)
  config = protocol.fill_in(config)
  _check(config, info)
  return dataclasses.replace(config, out=folders.of("out", config.out or pathlib.Path("runs") / slug(config)))


def data_name(config: RunConfig) -> str:
  """A run's data set, with the paper's "+" where it is augmented."""
  return config.data.name + ("+" if config.data.augment else "")


def slug(config: RunConfig) -> str:
  """A short name for a resolved run: data set, network, seed."""
  return f"{data_name(config)}_{name_of(config.model)}_seed{config.seed}"


def _check(config: RunConfig, info: datasets.DatasetInfo) -> None:
  at_least = [
    ("epochs", config.epochs, 1),
    ("batch-size", config.batch_size, 1),
    ("seed", config.seed, 0),
    ("data.validation", config.data.validation, 0),
    ("data.size", config.data.size, 1),
    ("data.resize", config.data.resize, config.data.size or 1),
    ("data.workers", config.data.workers, 0),
    ("checkpoint.every-epochs", config.checkpoint.every_epochs, 1),
    ("checkpoint.every-steps", config.checkpoint.every_steps, 1),
    ("checkpoint.keep", config.checkpoint.keep, 2),
    ("optimizer.rate-batch", config.optimizer.rate_batch, 1),
    ("seeds-per-device", config.seeds_per_device, 1),
    ("statistics-groups", config.statistics_groups, 1),
    ("accumulation", config.accumulation, 1),
    ("devices", config.devices, 1),
    ("distributed.timeout", config.distributed.timeout, 1),
    ("distributed.heartbeat", config.distributed.heartbeat, 1),
    ("steps-per-dispatch", config.steps_per_dispatch, 1),
    ("evaluation-batch-size", config.evaluation_batch_size, 1),
  ]
  for flag, value, least in at_least:
    if value is not None and value < least:
      why = " (the newest may be cut short while it is written)" if flag == "checkpoint.keep" else ""
      raise ConfigurationError(flag, value, f"must be at least {least}{why}")
  if config.shard_state and config.parallel == "pmap":
    raise ConfigurationError("parallel", "pmap", "every device holds the whole state under it; --shard-state needs jit")
  sgd = config.optimizer
  for flag, value, fits, words in (
    ("seed", config.seed, config.seed < 2**32, "must be below 2**32"),
    ("optimizer.learning-rate", sgd.learning_rate, 0 < sgd.learning_rate < math.inf, "must be above 0"),
    ("optimizer.momentum", sgd.momentum, 0 <= sgd.momentum < 1, "at least 0, below 1"),
    ("optimizer.weight-decay", sgd.weight_decay, 0 <= sgd.weight_decay < math.inf, "must be at least 0"),
    (
      "optimizer.drops",
      sgd.drops,
      all(0 < share <= 1 for share in sgd.drops),
      "shares of the epochs, above 0, at most 1",
    ),
    (
      "optimizer.warmup-epochs",
      sgd.warmup_epochs,
      0 <= sgd.warmup_epochs <= config.epochs,
      "at least 0, within the run",
    ),
    ("optimizer.label-smoothing", sgd.label_smoothing, 0 <= sgd.label_smoothing < 1, "at least 0, below 1"),
    ("optimizer.average", sgd.average, 0 <= sgd.average < 1, "at least 0, below 1"),
    ("optimizer.classifier-rate", sgd.classifier_rate, 0 < sgd.classifier_rate < math.inf, "must be above 0"),
    ("optimizer.warmup-steps", sgd.warmup_steps, sgd.warmup_steps >= 0, "must be at least 0"),
    ("optimizer.drop-factor", sgd.drop_factor, 0 < sgd.drop_factor <= 1, "above 0, at most 1"),
    (
      "checkpoint.every-minutes",
      config.checkpoint.every_minutes,
      config.checkpoint.every_minutes is None or config.checkpoint.every_minutes > 0,
      "must be above 0",
    ),
    ("data.bad-share", config.data.bad_share, 0 <= config.data.bad_share < 1, "at least 0, below 1"),
    (
      "data.normalise",
      config.data.normalise,
      not info.streamed or config.data.normalise == "channel",
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
      config.report != "best" or config.data.validation > 0,
      "needs held-out pictures; give --data.validation",
    ),
  ):
    if not fits:
      raise ConfigurationError(flag, value, words)
  _check_start(config)
  check_images(config.model, min(info.image_shape[:2]), config.batch_size, config.statistics_groups)


def _check_start(config: RunConfig) -> None:
  """Refuses flags of what a run starts from that do not go together."""
  model = config.model
  if config.weights is None and config.reset_classifier:
    raise ConfigurationError("reset-classifier", True, "every classifier is fresh; for --weights FILE")
  if config.weights is not None and model.family != "densenet":
    raise ConfigurationError("weights", config.weights, f"are read of a DenseNet alone, not of {model.family}")
  if config.freeze and model.family != "densenet":
    raise ConfigurationError("freeze", " ".join(config.freeze), "is for a DenseNet's parts")
  if not config.freeze:
    return
  blocks = range(1, len(model.blocks) + 1)
  parts = ["stem", *(f"block{b}" for b in blocks), *(f"transition{b}" for b in blocks[:-1]), "last", "classifier"]
  layers = [f"block{b}/layer{n}" for b in blocks for n in range(1, model.blocks[b - 1] + 1)]
  for name in config.freeze:
    if name not in parts and name not in layers:
      raise ConfigurationError("freeze", name, near(name, layers if "/" in name else parts))
  if set(config.freeze) >= set(parts):
    raise ConfigurationError("freeze", " ".join(config.freeze), "nothing is left to train")
