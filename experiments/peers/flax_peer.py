"""DenseNet-BC written plainly in Flax from the paper: concatenate, batch norm, convolve, nothing more."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax_device import batch, device, device_peak, temporaries, versions

__all__ = ["OrdinaryDenseNet", "device", "device_peak", "start", "versions"]

versions = functools.partial(versions, "flax", "optax")


class OrdinaryDenseNet(nn.Module):
  """blocks: layers of each dense block; dtype: of activations, by default the images'; the rest as in the paper."""

  blocks: tuple[int, ...]
  growth_rate: int
  initial_channels: int
  num_classes: int
  bottleneck: bool = True
  compression: float = 0.5
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    param_dtype = x.dtype
    dtype = self.dtype or x.dtype
    norm = functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      use_fast_variance=x.dtype != jnp.float64,
      dtype=dtype,
      param_dtype=param_dtype,
    )
    conv = functools.partial(nn.Conv, use_bias=False, dtype=dtype, param_dtype=param_dtype)
    x = conv(self.initial_channels, (3, 3), name="stem")(x)
    for b, layers in enumerate(self.blocks, 1):
      for n in range(1, layers + 1):
        y = nn.relu(norm(name=f"b{b}l{n}norm1")(x))
        if self.bottleneck:
          y = conv(4 * self.growth_rate, (1, 1), name=f"b{b}l{n}conv1")(y)
          y = nn.relu(norm(name=f"b{b}l{n}norm2")(y))
        y = conv(self.growth_rate, (3, 3), name=f"b{b}l{n}conv{2 if self.bottleneck else 1}")(y)
        x = jnp.concatenate([x, y], axis=-1)
      if b < len(self.blocks):
        y = nn.relu(norm(name=f"t{b}norm")(x))
        x = nn.avg_pool(conv(int(self.compression * x.shape[-1]), (1, 1), name=f"t{b}conv")(y), (2, 2), (2, 2))
    x = jnp.mean(nn.relu(norm(name="lastnorm")(x)), axis=(1, 2))
    return nn.Dense(self.num_classes, dtype=param_dtype, param_dtype=param_dtype, name="classifier")(x)


def start(depth, growth_rate, batch_size, *options):
  """Returns a training step, which returns its loss; the number of trainable parameters; and what tells of the rest.

  options: `bfloat16` activations.
  """
  dtype = jnp.bfloat16 if "bfloat16" in options else None
  network = OrdinaryDenseNet(((depth - 4) // 6,) * 3, growth_rate, 2 * growth_rate, 10, dtype=dtype)
  sgd = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, 0.9, nesterov=True))
  images, labels = map(jnp.asarray, batch(batch_size))

  @jax.jit
  def fresh(key):
    variables = network.init(key, images[:1], False)
    return variables["params"], variables["batch_stats"], sgd.init(variables["params"])

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state, images, labels):
    params, batch_stats, momentum = state

    def loss(params):
      logits, updated = network.apply(
        {"params": params, "batch_stats": batch_stats}, images, True, mutable=["batch_stats"]
      )
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated["batch_stats"]

    (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, momentum = sgd.update(gradients, momentum, params)
    return (optax.apply_updates(params, updates), batch_stats, momentum), value

  state = fresh(jax.random.key(0))
  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state[0]))
  compiled = train_step.lower(state, images, labels).compile()

  def take():
    nonlocal state
    state, value = compiled(state, images, labels)
    return value

  return take, parameters, lambda: {"temporaries": temporaries(compiled)}
