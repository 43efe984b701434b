"""What a training step takes, known before it runs: the compiler is asked."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.configuration import OptimizerConfig
from dn_jax.training import optimizer, step

_SGD = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 1.0)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the compiler says of a training step on this machine; bytes, and FLOPs as it counts them.

  temporaries: what the step needs besides its arguments: activations kept for the backward pass, mostly
  arguments:   parameters, statistics, momentum and the batch
  flops:       forward and backward pass, recomputation included
  """

  temporaries: int
  arguments: int
  flops: float


def plan(network: nn.Module, image_shape: tuple[int, int, int], batch_size: int) -> Plan:
  """Compiles the training step for this machine, runs nothing, and reads off what it takes.

  Args:
    network: with its remat policy.
    image_shape: (height, width, channels).
    batch_size: pictures a step.
  """
  sgd = optimizer.sgd(_SGD, optimizer.learning_rate(_SGD, 1, 1))
  state = jax.eval_shape(lambda key: step.create_state(network, sgd, key, image_shape), jax.random.key(0))
  batch = step.Batch(
    jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32),
    jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    jax.ShapeDtypeStruct((batch_size,), jnp.float32),
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  compiled = jax.jit(step.make_train_step(network, sgd), donate_argnums=0).lower(state, batch, key).compile()
  memory = compiled.memory_analysis()
  return Plan(memory.temp_size_in_bytes, memory.argument_size_in_bytes, compiled.cost_analysis()["flops"])
