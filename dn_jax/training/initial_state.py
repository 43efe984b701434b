"""A run's initial parameters: drawn, or from a file of weights, perhaps with a fresh classifier."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dn_jax.config.schema import RunConfig
from dn_jax.config.weights_file import WeightsError
from dn_jax.errors import ConfigurationError
from dn_jax.models import initial, weights
from dn_jax.models.densenet import DenseNet


def variables(
  config: RunConfig,
  network: nn.Module,
  key: jax.Array,
  image_shape: tuple[int, int, int],
  say: Callable[[str], None],
) -> dict[str, Any]:
  """The variables that a run starts with.

  Args:
    config: resolved.
    network: of the run.
    key: for drawing them.
    image_shape: (height, width, channels).
    say: receives a line where a file's running averages disagree.

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
  stems = [value.shape for name, value in state.items() if name.removeprefix("module.") == "features.conv0.weight"]
  if stems and len(stems[0]) == 4 and stems[0][1] != image_shape[2]:
    needs = "--data.channels 1" if stems[0][1] == 1 else "a run without --data.channels"
    fits = f"take images of {stems[0][1]} channels, and this run's have {image_shape[2]}; for {needs}"
    raise ConfigurationError("weights", path, fits)
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
  except WeightsError as error:
    raise error.of_file(path) from None
