"""What the backward pass keeps, by policy name; every policy computes the same function.

| policy           | kept for the backward pass                                                         |
|------------------|------------------------------------------------------------------------------------|
| `none`           | everything: concatenations and normalised copies too, O(L^2) memory                 |
| `dense_layer`    | what each dense layer adds (k channels) and its statistics, O(L) memory             |
| `bottleneck`     | also each layer's 1x1 output (4k channels), as the PyTorch implementation does      |
| `block`          | each block's input only; a block's maps are made again before its gradients         |
| `layer_by_layer` | what each dense layer adds; gradients by hand (`dn_jax.models.block_gradient`)       |

The last has no forward mode (`jax.jvp`, `jax.jacfwd`); with the others differentiation is JAX's own.
"""

import typing

import flax.linen as nn
import jax

from dn_jax.config.schema import RematPolicy
from dn_jax.models.batch_stats import STATISTICS

POLICIES = typing.get_args(RematPolicy)

# The name that a dense layer gives the output of its 1x1 convolution.
BOTTLENECK = "bottleneck"

# The name that a dense layer gives what it adds. It is kept in any case, as the layer's output; unnamed, the
# gradient of its statistics would have its convolution run again.
OUTPUT = "output"

_KEPT_IN_A_LAYER = {
  "dense_layer": (STATISTICS, OUTPUT),
  "bottleneck": (STATISTICS, OUTPUT, BOTTLENECK),
  "block": (STATISTICS, OUTPUT),
}


def remat_layer(layer: type[nn.Module], policy: str) -> type[nn.Module]:
  """A dense layer, transition or last norm, rematerialised as the policy says.

  Under `layer_by_layer` nothing is: a dense block sees to its layers itself, and to rematerialise the rest saves
  nothing more.

  The module's call must be `(features, train)`.

  Raises:
    ValueError: the policy has no such name.
  """
  if policy not in POLICIES:
    raise ValueError(f"remat policy {policy!r}: one of {', '.join(POLICIES)}")
  if policy in ("none", "layer_by_layer"):
    return layer
  kept = jax.checkpoint_policies.save_only_these_names(*_KEPT_IN_A_LAYER[policy])
  return nn.remat(layer, policy=kept, static_argnums=(2,))


def remat_block(block: type[nn.Module], policy: str) -> type[nn.Module]:
  """A whole dense block, rematerialised under the policy `block` alone (its layers are, besides)."""
  if policy != "block":
    return block
  kept = jax.checkpoint_policies.save_only_these_names(STATISTICS)
  return nn.remat(block, policy=kept, static_argnums=(2,))
