"""How strongly each layer of a dense block reads each earlier one (the paper's figure 5)."""

from typing import Any

import numpy as np

from dn_jax.models.densenet import DenseNet


def mean_absolute_weights(network: DenseNet, params: Any) -> list[np.ndarray]:
  """Mean absolute weight from every source to every target of each dense block.

  Args:
    network: a DenseNet.
    params: its parameters.

  Returns:
    For each block of n layers an array [n + 1, n + 1]: row s is a source (0: the maps that enter the block, s: layer
    s), column l - 1 is target layer l's first convolution, and the last column the transition's convolution, or the
    classifier. NaN where a layer does not read (s >= l). Section 5 of the paper, with a mean where it takes a sum over
    a filter's weights and divides by the source's channels: columns of the same kind differ by a constant.
  """
  result, entering = [], network.initial_channels
  for number, layers in enumerate(network.blocks, start=1):
    widths = [entering] + [network.growth_rate] * layers
    bounds = np.cumsum([0, *widths])
    weights = np.full((layers + 1, layers + 1), np.nan)
    last = number == len(network.blocks)
    end = params["classifier"]["kernel"] if last else params[f"transition{number}"]["conv"]["kernel"]
    kernels = [params[f"block{number}"][f"layer{layer}"]["conv1"]["kernel"] for layer in range(1, layers + 1)]
    for target, kernel in enumerate([*kernels, end]):
      inputs = np.abs(np.asarray(kernel, np.float64)).reshape(-1, kernel.shape[-2], kernel.shape[-1]).mean(axis=(0, 2))
      for source in range(target + 1):
        weights[source, target] = inputs[bounds[source] : bounds[source + 1]].mean()
    result.append(weights)
    entering = int(network.compression * bounds[-1])
  return result
