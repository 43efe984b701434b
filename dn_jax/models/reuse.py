"""How strongly each layer of a dense block reads each earlier one (the paper's figure 5)."""

from typing import Any

import numpy as np

from dn_jax.models.densenet import DenseNet
from dn_jax.models.rdnet import RDNet

# What reads the concatenation, channel by channel: a dense layer's first convolution, an RDNet's first 1x1 one.
_READERS = {DenseNet: "conv1", RDNet: "expand"}


def mean_absolute_weights(network: DenseNet | RDNet, params: Any) -> list[np.ndarray]:
  """The mean absolute weight from every source to every target of each dense block.

  Section 5 of the paper sums a filter's absolute weights and divides by the source's channels, where this takes the
  mean; the two differ by a constant among columns of the same kind.

  Returns:
    For each block of n layers an array [n + 1, n + 1], NaN where a target does not read a source.
    Row s: the source, x_0 or layer s. Column l - 1: the first convolution of layer l (of an RDNet the first that mixes
    channels). Last column: the convolution of the transition, or the classifier.
  """
  result, reader = [], _READERS[type(network)]
  for number, layers in enumerate(network.blocks, start=1):
    weights = np.full((layers + 1, layers + 1), np.nan)
    last = number == len(network.blocks)
    end = params["classifier"]["kernel"] if last else params[f"transition{number}"]["conv"]["kernel"]
    kernels = [params[f"block{number}"][f"layer{layer}"][reader]["kernel"] for layer in range(1, layers + 1)]
    bounds = [0, *(kernel.shape[-2] for kernel in (*kernels, end))]  # Each layer's channels follow those it reads.
    for target, kernel in enumerate([*kernels, end]):
      inputs = np.abs(np.asarray(kernel, np.float64)).reshape(-1, kernel.shape[-2], kernel.shape[-1]).mean(axis=(0, 2))
      for source in range(target + 1):
        weights[source, target] = inputs[bounds[source] : bounds[source + 1]].mean()
    result.append(weights)
  return result
