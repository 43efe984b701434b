"""Initial weights, drawn by few compiled programs.

One program that draws all kernels of a deep network takes longer to compile than the training step, since it has a
generator for each kernel. A program per kernel would be one per shape. Here a kernel is the beginning of a draw whose
length is a power of two, so that all kernels share a dozen programs.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core.scope import LazyRng

Distribution = Literal["normal", "uniform"]
_DRAWS: dict[str, Callable[..., jax.Array]] = {
  "normal": jax.random.normal,
  "uniform": functools.partial(jax.random.uniform, minval=-1),
}
# The variance of a draw of each kind; it is divided out.
_VARIANCES = {"normal": 1, "uniform": 1 / 3}


def variance_scaling(
  scale: float, mode: Literal["fan_in", "fan_out"], distribution: Distribution
) -> Callable[..., Any]:
  """The same numbers as `jax.nn.initializers.variance_scaling`.

  Args:
    scale: the variance is `scale` / fan.
    mode: `fan_in`: fan is kernel height * width * inputs; `fan_out`: * outputs.
    distribution: of mean 0.

  Returns:
    (key, shape [..., inputs, outputs], dtype) -> an array; numpy's, unless the key is a tracer.
  """

  def variance(shape: tuple[int, ...]) -> float:
    return scale / (math.prod(shape[:-2]) * shape[-2 if mode == "fan_in" else -1])

  return _drawn(distribution, variance)


def bias(fan_in: int) -> Callable[..., Any]:
  """Torch's default for a convolution's bias: uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)); as `variance_scaling`."""
  return _drawn("uniform", lambda shape: 1 / (3 * fan_in))


def _drawn(distribution: Distribution, variance_of: Callable[[tuple[int, ...]], float]) -> Callable[..., Any]:
  """An initialiser, given the variance for a shape."""

  def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Any:
    count = math.prod(shape)
    drawn = _draw(distribution, key, 1 << (count - 1).bit_length(), jnp.dtype(dtype))
    here = jnp if isinstance(drawn, jax.core.Tracer) else np
    variance = np.asarray(variance_of(shape), dtype)
    return here.asarray(drawn)[:count].reshape(shape) * np.sqrt(variance / np.asarray(_VARIANCES[distribution], dtype))

  return init


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _draw(distribution: Distribution, key: jax.Array, count: int, dtype: jnp.dtype) -> jax.Array:
  return _DRAWS[distribution](key, (count,), dtype)


# Convolutions: N(0, 2 / (kh * kw * out_channels)) (He et al. 2015, in the authors' Torch code), or with in_channels
# ("msra" in the Caffe code).
CONVOLUTION = {mode: variance_scaling(2.0, mode, "normal") for mode in ("fan_out", "fan_in")}
# The classifier's weight: uniform(-1/sqrt(in), 1/sqrt(in)), Torch's default for a linear layer, or
# uniform(-sqrt(3/in), sqrt(3/in)) ("xavier" in the Caffe code).
CLASSIFIER = {
  "torch": variance_scaling(1 / 3, "fan_in", "uniform"),
  "xavier": variance_scaling(1.0, "fan_in", "uniform"),
}
# By the name of a variable.
CONSTANTS = {"scale": 1, "bias": 0, "mean": 0, "var": 1, "layer_scale": 1e-6}


def variables(network: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]) -> dict[str, Any]:
  """The variables of `network.init`, as numpy arrays; for a deep network in seconds, where `init` compiles for minutes.

  Args:
    network: a DenseNet, a ResNet, an RDNet, or another module with `convolution_init` and `classifier_init`.
    key: as `network.init` takes it.
    image_shape: (height, width, channels).
  """
  shapes = jax.eval_shape(lambda key: network.init(key, jnp.zeros((1, *image_shape)), False), key)

  def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    collection, *modules, name = (entry.key for entry in path)
    kernel = functools.reduce(operator.getitem, modules, shapes[collection]).get("kernel")
    # Flax folds a module's path and the number of its draws into the key.
    key_of = lambda number: LazyRng.create(key, *modules, number).as_jax_rng()
    if name == "kernel":
      init = CLASSIFIER[network.classifier_init] if modules == ["classifier"] else CONVOLUTION[network.convolution_init]
      return init(key_of(1), leaf.shape, leaf.dtype)
    if name == "bias" and kernel is not None and modules != ["classifier"]:
      return bias(math.prod(kernel.shape[:-1]))(key_of(2), leaf.shape, leaf.dtype)
    return np.full(leaf.shape, CONSTANTS[name], leaf.dtype)

  return jax.tree.map_with_path(drawn, shapes)
