"""A run's initial parameters: drawn, or from a file of weights, perhaps with a fresh classifier."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dn_jax import weights
from dn_jax.config import weights_file
from dn_jax.config.schema import RunConfig
from dn_jax.config.weights_file import WeightsError
from dn_jax.errors import ConfigurationError
from dn_jax.models import initial
from dn_jax.weights import formats, shapes


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
    say: receives a line about what a file is taken for, and where its running averages disagree.

  Raises:
    UserError: the file cannot be read or does not fit the network, or has another number of classes.
  """
  # Before the rest is drawn, which takes longer.
  loaded = _loaded(config, network, image_shape, say) if config.weights else None
  if loaded and not config.reset_classifier:
    return loaded
  fresh = initial.variables(network, key, image_shape)
  if loaded is None:
    return fresh
  loaded["params"]["classifier"] = fresh["params"]["classifier"]
  return loaded


def _loaded(
  config: RunConfig, network: nn.Module, image_shape: tuple[int, int, int], say: Callable[[str], None]
) -> dict[str, Any]:
  path = config.weights
  state = weights.read(weights_file.place(path), say)
  channels = shapes.channels_of(state)
  if channels not in (None, image_shape[2]):
    needs = "--data.channels 1" if channels == 1 else "a run without --data.channels"
    fits = f"take images of {channels} channels, and this run's have {image_shape[2]}; for {needs}"
    raise ConfigurationError("weights", path, fits)
  classes = shapes.classes_of(state)
  if classes is None and shapes.model_of(state) and not config.reset_classifier:
    raise ConfigurationError("weights", path, "have no classifier; give --reset-classifier")
  if classes not in (None, network.num_classes) and not config.reset_classifier:
    fits = f"are of {classes} classes, and the images of {network.num_classes}; give --reset-classifier"
    raise ConfigurationError("weights", path, fits)
  # Before it is built, of as many layers as a file may describe.
  shapes.check(path, state, config.model)
  source = network.clone(num_classes=classes or network.num_classes)
  template = jax.eval_shape(lambda key: source.init(key, jnp.zeros((1, *image_shape)), False), jax.random.key(0))
  if config.reset_classifier and classes is None:  # A file of all but the classifier.
    kernel, name = template["params"]["classifier"]["kernel"].shape, formats.of(network).classifier
    state |= {f"{name}.weight": np.zeros(kernel[::-1], np.float32), f"{name}.bias": np.zeros(kernel[1:], np.float32)}
  disagreement: weights.Disagreement = "inference" if config.freeze_statistics else "train"
  try:
    return weights.from_pytorch(source, state, template, disagreement, say)
  except WeightsError as error:
    raise shapes.refusal(path, error, state, config.model) from None
