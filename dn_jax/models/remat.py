"""Remat policies: what the forward pass keeps for the backward pass, which recomputes the rest.

| policy           | kept                                                                                      |
|------------------|-------------------------------------------------------------------------------------------|
| `none`           | everything, concatenations and normalised copies included: O(L^2) memory                  |
| `dense_layer`    | the k channels that each dense layer adds, and their statistics: O(L) memory              |
| `block`          | each block's input; the block's maps are recomputed before its gradients                  |
| `bottleneck`     | as `dense_layer`, and each layer's 4k bottleneck channels; so in PyTorch's implementation |
| `layer_by_layer` | as `dense_layer`                                                                          |

Every policy is the same function. Under the last two the gradients are written by hand (`dn_jax.models.block_gradient`)
and have no forward mode (`jax.jvp`, `jax.jacfwd`); under the others JAX differentiates by itself.
"""

import typing

import flax.linen as nn
import jax

from dn_jax.config.densenet import RematPolicy
from dn_jax.models.batch_stats import STATISTICS

POLICIES = typing.get_args(RematPolicy)
# Those whose dense blocks have a backward pass of their own.
BY_HAND = ("bottleneck", "layer_by_layer")

# The name of a dense layer's 3x3 output. It is kept in any case, as the layer's output; without a name, the gradient
# of its statistics would recompute the convolution.
OUTPUT = "output"

_KEPT_IN_A_LAYER = {
  "dense_layer": (STATISTICS, OUTPUT),
  "block": (STATISTICS, OUTPUT),
}


def remat_layer(layer: type[nn.Module], policy: str) -> type[nn.Module]:
  """A dense layer, a transition or the last norm, recomputed in the backward pass as the policy says.

  `BY_HAND` leave it as it is: a dense block sees to its own layers, and recomputing the others saves nothing.

  Args:
    layer: a module with the call (features, train).
    policy: one of `POLICIES`.

  Raises:
    ValueError: an unknown policy.
  """
  if policy not in POLICIES:
    raise ValueError(f"remat policy {policy!r}: one of {', '.join(POLICIES)}")
  if policy in ("none", *BY_HAND):
    return layer
  kept = jax.checkpoint_policies.save_only_these_names(*_KEPT_IN_A_LAYER[policy])
  return nn.remat(layer, policy=kept, static_argnums=(2,))


def remat_block(block: type[nn.Module], policy: str) -> type[nn.Module]:
  """A dense block; under the policy `block` all of it is recomputed, and then each of its layers."""
  if policy != "block":
    return block
  kept = jax.checkpoint_policies.save_only_these_names(STATISTICS)
  return nn.remat(block, policy=kept, static_argnums=(2,))
