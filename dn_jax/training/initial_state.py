"""Where a run's parameters start from: drawn, or a file of weights, perhaps under a fresh classifier."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dn_jax.config.schema import ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError, UserError, near
from dn_jax.models import initial, weights
from dn_jax.models.densenet import DenseNet


def model_of(config: RunConfig) -> ModelConfig:
  """The network that a person asks for: by flags, or where there are none, as a file of weights says of itself.

  Raises:
    WeightsError: what the file says cannot be read.
  """
  if config.weights is None or not _unset(config.model) or not config.weights.is_file():
    return config.model
  said = weights.about(config.weights).model or config.model
  # How it is computed, and what only training has, are the run's.
  own = {name: getattr(config.model, name) for name in ("remat", "dtype", "precision", "dropout")}
  return dataclasses.replace(said, **own)


def _unset(model: ModelConfig) -> bool:
  """Whether flags name no network."""
  plain = {name: getattr(ModelConfig(), name) for name in ("remat", "dtype", "precision", "dropout")}
  return dataclasses.replace(model, **plain) == ModelConfig()


def check(config: RunConfig) -> None:
  """Refuses flags that do not go together, of a configuration with its network.

  Raises:
    ConfigurationError: which.
  """
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


def variables(
  config: RunConfig,
  network: nn.Module,
  key: jax.Array,
  image_shape: tuple[int, int, int],
  say: Callable[[str], None],
) -> dict[str, Any]:
  """What a run starts with.

  Args:
    config: resolved.
    network: of the run.
    key: for what is drawn.
    image_shape: (height, width, channels).
    say: told where a file's running averages disagree.

  Raises:
    UserError: the file cannot be read or does not fit the network, or has another number of classes.
  """
  fresh = initial.variables(network, key, image_shape)
  if config.weights is None:
    return fresh
  loaded = _loaded(config, network, image_shape, say)
  if config.reset_classifier:
    loaded["params"]["classifier"] = fresh["params"]["classifier"]
  return loaded


def _loaded(
  config: RunConfig, network: DenseNet, image_shape: tuple[int, int, int], say: Callable[[str], None]
) -> dict[str, Any]:
  path = config.weights
  state = weights.read(path)
  heads = [name for name in state if name.removeprefix("module.") == "classifier.weight"]
  classes = state[heads[0]].shape[0] if heads and state[heads[0]].ndim == 2 else network.num_classes
  if classes != network.num_classes and not config.reset_classifier:
    raise ConfigurationError(
      "weights", path, f"are of {classes} classes, and the pictures of {network.num_classes}; give --reset-classifier"
    )
  source = network.clone(num_classes=classes)
  template = jax.eval_shape(lambda key: source.init(key, jnp.zeros((1, *image_shape)), False), jax.random.key(0))
  if config.reset_classifier and not heads:  # A file of all but the classifier.
    kernel = template["params"]["classifier"]["kernel"].shape
    state |= {
      "classifier.weight": np.zeros(kernel[::-1], np.float32),
      "classifier.bias": np.zeros(kernel[1:], np.float32),
    }
  disagreement: weights.Disagreement = "inference" if config.freeze_statistics else "train"
  try:
    return weights.from_pytorch(source, state, template, disagreement, say)
  except weights.WeightsError as error:
    lines = str(error).splitlines()
    more = f", and {len(lines) - 2} more" if len(lines) > 2 else ""
    raise UserError(f"{path}: {lines[0]} ({' '.join(lines[1:2]).strip()}{more}); give --model.name") from None
