"""Completes, checks and names a run's configuration."""

import dataclasses
import pathlib
import re

from dn_jax.config import check, datasets, protocol, weights_file, zoo
from dn_jax.config.families import FAMILIES
from dn_jax.config.network import check_images, complete_model, name_of, protocol_of, with_weights
from dn_jax.config.schema import DistributedConfig, OptimizerConfig, RunConfig
from dn_jax.errors import ConfigurationError, near
from dn_jax.system import folders, hub


def resolve(config: RunConfig) -> RunConfig:
  """Fills in unset fields from the named network and the published protocol, and checks all.

  Three fields that depend on the devices stay unset: the remat policy, steps per dispatch, number of devices.

  Raises:
    UserError: a flag's value does not fit, or the file of weights cannot be read.
  """
  datasets.info_of(config.data)  # Offers near names.
  return completed(dataclasses.replace(config, model=weights_file.model_of(config.weights, config.model)))


def completed(config: RunConfig) -> RunConfig:
  """`resolve` without a look at data or into the file of weights, as of a record, which has what that said.

  Raises:
    ConfigurationError: a flag's value does not fit.
  """
  info = datasets.recorded(config.data)
  model = complete_model(config.model)
  # A named network keeps its protocol where parts of it were changed.
  name = config.model.name
  whose = config.protocol or (zoo.published(name).protocol if name else protocol_of(model))
  config = dataclasses.replace(config, model=model, protocol=whose)
  if info == datasets.recorded(dataclasses.replace(config.data, channels=None)):  # As without the flag.
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, channels=None))
  if info.streamed:
    size = info.image_shape[0]
    published = protocol.resize_of(whose, config.data.name, size) if config.data.resize is None else None
    data = dataclasses.replace(config.data, size=size, resize=info.resize if published is None else published)
    config = dataclasses.replace(config, data=data)
  config = protocol.fill_in(config)
  _check(config, info)
  out = folders.of("out", config.out or pathlib.Path("runs") / slug(config))
  try:
    str(folders.absolute(out)).encode()
  except UnicodeEncodeError:  # Orbax takes paths as text.
    raise ConfigurationError("out", out, "has bytes that are not UTF-8, which checkpoints need; another name") from None
  return dataclasses.replace(config, out=out)


def data_name(config: RunConfig) -> str:
  """The name of a run's data set, with the paper's "+" where it is augmented."""
  return config.data.name + ("+" if config.data.augment else "")


def slug(config: RunConfig) -> str:
  """A short name for a resolved run: data set, network, seed."""
  return f"{data_name(config)}_{name_of(config.model)}_seed{config.seed}"


def _check(config: RunConfig, info: datasets.DatasetInfo) -> None:
  """Refuses values of another type or beyond a bound, and values that do not go together."""
  check.check(config)
  data = config.data
  if data.size and data.resize and data.resize < data.size:
    raise ConfigurationError("data.resize", data.resize, f"must be at least {data.size}")
  if config.shard_state and config.parallel == "pmap":
    fits = "every device holds the whole state under it; --shard-state needs jit"
    raise ConfigurationError("parallel", config.parallel, fits)
  if config.optimizer.warmup_epochs > config.epochs:
    raise ConfigurationError("optimizer.warmup-epochs", config.optimizer.warmup_epochs, "at least 0, within the run")
  _check_optimizer(config.optimizer)
  if info.streamed and data.normalise != "channel":
    fits = "images that are read one by one have no mean image; take channel"
    raise ConfigurationError("data.normalise", data.normalise, fits)
  if info.streamed and config.last_batch != "drop":
    fits = "batches that are read image by image have one size; take drop"
    raise ConfigurationError("last-batch", config.last_batch, fits)
  if config.report == "best" and not data.validation and not info.streamed:  # A folder may have a part for it.
    raise ConfigurationError("report", config.report, "needs held-out images; give --data.validation")
  if not FAMILIES[config.model.family].batch_norm:
    for flag, value, given in (
      ("statistics-groups", config.statistics_groups, config.statistics_groups > 1),
      ("freeze-statistics", config.freeze_statistics, config.freeze_statistics),
    ):
      if given:
        raise ConfigurationError(flag, value, f"is of batch norm, and a network of {config.model.family} has none")
  _check_augmentation(config, info)
  _check_start(config)
  _check_processes(config.distributed)
  check_images(config.model, min(info.image_shape[:2]), config.batch_size, config.statistics_groups)


def _check_augmentation(config: RunConfig, info: datasets.DatasetInfo) -> None:
  """Refuses augmentation that the images, or the batch, cannot have."""
  data = config.data
  for name, alpha in (("mixup", data.mixup), ("cutmix", data.cutmix)):
    if alpha and alpha < 0.001:
      raise ConfigurationError(f"data.{name}", alpha, "at least 0.001; or 0, for none")
    if alpha and config.batch_size == 1:
      raise ConfigurationError(f"data.{name}", alpha, "mixes images of one batch; needs --batch-size 2 or more")
  height, width, _ = info.image_shape
  if data.cutout and data.cutout > min(height, width):
    fits = f"the images have {height}x{width} pixels; at most {min(height, width)}"
    raise ConfigurationError("data.cutout", data.cutout, fits)
  if data.rand_augment and info.highest != 255:
    fits = f"changes pixels of 0 to 255, and those of {data.name} are 0 to {info.highest}; leave this flag out"
    raise ConfigurationError("data.rand-augment", data.rand_augment, fits)
  if data.rand_augment_deviation is not None and data.rand_augment is None:
    fits = "is of the magnitudes of --data.rand-augment; give that too"
    raise ConfigurationError("data.rand-augment-deviation", data.rand_augment_deviation, fits)


def _check_optimizer(config: OptimizerConfig) -> None:
  """Refuses flags of another optimizer or schedule, which would be ignored."""
  if config.name == "adamw" and config.nesterov:
    raise ConfigurationError("optimizer.nesterov", True, "is a form of SGD's momentum; AdamW has none")
  if config.name != "adamw" and config.beta2 is not None:
    raise ConfigurationError("optimizer.beta2", config.beta2, "is AdamW's; for --optimizer.name adamw")
  if config.final_rate is not None and config.schedule != "cosine":
    raise ConfigurationError("optimizer.final-rate", config.final_rate, "is for --optimizer.schedule cosine")
  if config.warmup_rate is not None and not config.warmup_epochs:
    raise ConfigurationError("optimizer.warmup-rate", config.warmup_rate, "is for --optimizer.warmup-epochs above 0")
  for flag, rate in (("final-rate", config.final_rate), ("warmup-rate", config.warmup_rate)):
    if rate is not None and rate > config.learning_rate:
      fits = f"at most --optimizer.learning-rate, {config.learning_rate:g}"
      raise ConfigurationError(f"optimizer.{flag}", rate, fits)


def _check_processes(config: DistributedConfig) -> None:
  """Flags of a run that finds its processes by them."""
  flags = {
    "distributed.coordinator": config.coordinator,
    "distributed.num-processes": config.num_processes,
    "distributed.process-id": config.process_id,
  }
  there = {flag: value for flag, value in flags.items() if value is not None}
  if not there:
    return
  if lacking := [f"--{flag}" for flag in flags if flag not in there]:
    raise ConfigurationError(*next(iter(there.items())), f"goes together with {' and '.join(lacking)}")
  if not 0 <= config.process_id < config.num_processes:
    fits = f"from 0 to {config.num_processes - 1}, each once"
    raise ConfigurationError("distributed.process-id", config.process_id, fits)
  host, _, port = config.coordinator.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise ConfigurationError("distributed.coordinator", config.coordinator, "HOST:PORT of the first process")


def _check_start(config: RunConfig) -> None:
  """Refuses flags of initial weights and frozen parts that do not go together."""
  model = config.model
  if config.weights is None and config.reset_classifier:
    raise ConfigurationError("reset-classifier", True, "every classifier is fresh; for --weights FILE")
  if config.weights is None and config.weights_digest is not None:
    raise ConfigurationError("weights-digest", config.weights_digest, "is of a file; for --weights FILE")
  if config.weights_digest is not None and not re.fullmatch("[0-9a-f]{64}", config.weights_digest):
    raise ConfigurationError("weights-digest", config.weights_digest, "64 digits, 0-9 and a-f: a file's SHA-256")
  if config.weights_revision is not None and not hub.is_address(config.weights):
    fits = "is of the hub's files; for --weights hf://OWNER/NAME"
    raise ConfigurationError("weights-revision", config.weights_revision, fits)
  if config.weights is not None and not FAMILIES[model.family].weights:
    raise ConfigurationError("weights", config.weights, f"are read of {with_weights()} alone, not of {model.family}")
  if config.freeze and model.blocks is None:
    raise ConfigurationError("freeze", " ".join(config.freeze), "is for the parts of a network with dense blocks")
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
