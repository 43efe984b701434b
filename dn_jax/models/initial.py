"""Initial weights, drawn by few programs.

A compiled program that draws every kernel of a deep network takes longer to compile than its training step, since a
generator is written out for each; one at a time, each shape has a program of its own. Here a kernel is the beginning
of a draw of some power of two, so that all kernels share a dozen programs.
"""

import functools
import math
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
# The variance of a draw of each kind, which is divided out.
_VARIANCES = {"normal": 1, "uniform": 1 / 3}


def variance_scaling(
  scale: float, mode: Literal["fan_in", "fan_out"], distribution: Distribution
) -> Callable[..., Any]:
  """The same numbers as `jax.nn.initializers.variance_scaling`.

  Args:
    scale: the variance is this through the number of inputs or outputs.
    mode: of which.
    distribution: see `Distribution`.

  Returns:
    (key, shape [..., inputs, outputs], dtype) -> an array, of numpy where the key is no tracer.
  """

  def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Any:
    count = math.prod(shape)
    fan = math.prod(shape[:-2]) * shape[-2 if mode == "fan_in" else -1]
    drawn = _draw(distribution, key, 1 << (count - 1).bit_length(), jnp.dtype(dtype))
    here = jnp if isinstance(drawn, jax.core.Tracer) else np
    variance = np.asarray(scale / fan, dtype)
    return here.asarray(drawn)[:count].reshape(shape) * np.sqrt(variance / np.asarray(_VARIANCES[distribution], dtype))

  return init


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _draw(distribution: Distribution, key: jax.Array, count: int, dtype: jnp.dtype) -> jax.Array:
  return _DRAWS[distribution](key, (count,), dtype)


# Convolutions ~ N(0, 2 / (kh * kw * out_channels)) (He et al. 2015, in the authors' Torch code), or with the
# inputs counted instead ("msra" in the Caffe code).
CONVOLUTION = {mode: variance_scaling(2.0, mode, "normal") for mode in ("fan_out", "fan_in")}
# The classifier's weight: uniform(-1/sqrt(in), 1/sqrt(in)), which is Torch's own default for a linear layer,
# or uniform(-sqrt(3/in), sqrt(3/in)) ("xavier" in the Caffe code).
CLASSIFIER = {
  "torch": variance_scaling(1 / 3, "fan_in", "uniform"),
  "xavier": variance_scaling(1.0, "fan_in", "uniform"),
}
_CONSTANTS = {"scale": 1, "bias": 0, "mean": 0, "var": 1}


def variables(network: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]) -> dict[str, Any]:
  """What `network.init` gives, as numpy arrays, in seconds where compiling that for a deep network takes minutes.

  Args:
    network: with `convolution_init` and `classifier_init`: a DenseNet or a ResNet.
    key: as `network.init` takes it.
    image_shape: (height, width, channels).
  """
  shapes = jax.eval_shape(lambda key: network.init(key, jnp.zeros((1, *image_shape)), False), key)

  def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    _, *modules, name = (entry.key for entry in path)
    if name in _CONSTANTS:
      return np.full(leaf.shape, _CONSTANTS[name], leaf.dtype)
    init = CLASSIFIER[network.classifier_init] if modules == ["classifier"] else CONVOLUTION[network.convolution_init]
    # Flax folds a module's path, and how many draws it has made, into the key.
    return init(LazyRng.create(key, *modules, 1).as_jax_rng(), leaf.shape, leaf.dtype)

  return jax.tree.map_with_path(drawn, shapes)
