"""A trained network as a backbone, or with a new classifier."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dn_jax.models.densenet import DenseNet
from dn_jax.models.initial import CLASSIFIER


def block_features(network: DenseNet, variables: Mapping[str, Any], images: jax.Array) -> list[jax.Array]:
  """The feature maps at the end of each dense block, in evaluation.

  Args:
    network, variables: a DenseNet, its `params` and `batch_stats`.
    images: [batch, height, width, channels], normalised; any size.

  Returns:
    For each block the concatenation [x_0, ..., x_l] of its maps before the norm, [batch, height', width', channels'].
  """
  _, found = network.apply(variables, images, False, mutable=["intermediates"])
  return [found["intermediates"][f"block{index}_end"][0] for index in range(1, len(network.blocks) + 1)]


def reset_classifier(
  network: DenseNet, variables: Mapping[str, Any], num_classes: int, key: jax.Array
) -> tuple[DenseNet, dict[str, Any]]:
  """The same network with a new classifier, for other classes.

  Args:
    network, variables: a DenseNet, its `params` and `batch_stats`.
    num_classes: at least 1.
    key: for the new weight, which is initialised as published.

  Returns:
    The new network, and its variables; all but the classifier's are the old ones.

  Raises:
    ValueError: fewer than one class.
  """
  if num_classes < 1:
    raise ValueError(f"num_classes {num_classes}: must be at least 1")
  old = variables["params"]["classifier"]["kernel"]
  kernel = CLASSIFIER[network.classifier_init](key, (old.shape[0], num_classes), old.dtype)
  classifier = {"kernel": kernel, "bias": jnp.zeros((num_classes,), old.dtype)}
  return network.clone(num_classes=num_classes), {
    **variables,
    "params": {**variables["params"], "classifier": classifier},
  }
