"""Mean absolute weights between layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dn_jax.models.densenet import DenseNet
from dn_jax.models.reuse import mean_absolute_weights

# Of source s to target t in block b; of either sign.
STRENGTH = lambda block, source, target: 100 * block + 10 * source + target


def hand_made(network, shapes):
  """Parameters whose weights from source s to target t of block b are STRENGTH(b, s, t), half of them negative."""
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes["params"])
  entering = network.initial_channels
  for b, layers in enumerate(network.blocks, start=1):
    widths = [entering, *[network.growth_rate] * layers]
    for target in range(1, layers + 2):
      if target <= layers:
        kernel = params[f"block{b}"][f"layer{target}"]["conv1"]["kernel"]
      elif b < len(network.blocks):
        kernel = params[f"transition{b}"]["conv"]["kernel"]
      else:
        kernel = params["classifier"]["kernel"]
      first = 0
      for source in range(target):
        part = kernel[..., first : first + widths[source], :]
        # Channels of a source differ; their mean is its strength.
        ramp = 2 * np.arange(1, widths[source] + 1) / (widths[source] + 1)
        part[...] = STRENGTH(b, source, target) * ramp[:, None]
        part[..., ::2] *= -1
        first += widths[source]
      assert first == kernel.shape[-2]
    entering = int(network.compression * sum(widths))
  return params


@pytest.mark.parametrize("bottleneck_width", [0, 4])
def test_the_map_has_each_sources_weights_at_its_place(bottleneck_width):
  network = DenseNet((2, 3), 4, 10, 6, bottleneck_width=bottleneck_width, compression=0.5)
  shapes = jax.eval_shape(lambda key: network.init(key, jnp.zeros((1, 8, 8, 3)), False), jax.random.key(0))
  blocks = mean_absolute_weights(network, hand_made(network, shapes))
  for b, (weights, layers) in enumerate(zip(blocks, network.blocks, strict=True), start=1):
    expected = [
      [STRENGTH(b, source, target) if source < target else np.nan for target in range(1, layers + 2)]
      for source in range(layers + 1)
    ]
    np.testing.assert_allclose(weights, expected)
