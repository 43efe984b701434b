"""Convolutions, written the way the back ends run them fast; the same function everywhere."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Pixels whose gathered neighbours (nine times the output channels) stay in a processor's cache, and the most
# pieces that a batch is cut into (each is compiled for itself).
_PIECE = 16384
_MOST_PIECES = 8


def convolve(
  inputs: jax.Array,
  kernel: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **rest: Any,
) -> jax.Array:
  """`jax.lax.conv_general_dilated` with 1x1 convolutions as matrix products; for `flax.linen.Conv`.

  The weight gradient of a 1x1 `conv_general_dilated` runs about ten times slower on the CPU back end than
  the same product over flattened pixels; on TPU and GPU both compile to the same thing.

  Args:
    inputs: [batch, height, width, in_channels].
    kernel: [kernel_height, kernel_width, in_channels, out_channels].
    window_strides: two numbers.
    padding: as `jax.lax.conv_general_dilated` takes it; a 1x1 convolution is never padded.
    **rest: passed on.

  Returns:
    [batch, height, width, out_channels].
  """
  if kernel.shape[:2] == (1, 1):
    inputs = inputs[:, :: window_strides[0], :: window_strides[1]]
    flat = jnp.dot(inputs.reshape(-1, inputs.shape[-1]), kernel[0, 0], precision=rest.get("precision"))
    return flat.reshape(*inputs.shape[:-1], kernel.shape[-1])
  return jax.lax.conv_general_dilated(inputs, kernel, window_strides, padding, **rest)


def convolve_with_own_gradient(
  inputs: jax.Array,
  kernel: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **rest: Any,
) -> jax.Array:
  """`convolve`, but a 3x3 convolution of stride 1 is differentiated on the CPU back end by two matrix products.

  There both operands of JAX's own weight gradient are transposed first, which takes longer than the rest. On TPU
  and GPU the gradients are JAX's own. A hand-written gradient has no forward mode (`jax.jvp`).
  """
  if kernel.shape[:2] == (3, 3) and tuple(window_strides) == (1, 1) and padding == "SAME":
    return _convolve_3x3(inputs, kernel, rest.get("precision"))
  return convolve(inputs, kernel, window_strides, padding, **rest)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_3x3(inputs: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
  return _plain_3x3(inputs, kernel, precision)


def _plain_3x3(inputs: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
  return jax.lax.conv_general_dilated(
    inputs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
  )


def _forward_3x3(inputs: jax.Array, kernel: jax.Array, precision: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _convolve_3x3(inputs, kernel, precision), (inputs, kernel)


def _backward_3x3(
  precision: Any, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return jax.lax.platform_dependent(
    *residuals,
    gradient,
    cpu=functools.partial(_gradients_by_products, precision=precision),
    default=functools.partial(_gradients_by_convolutions, precision=precision),
  )


_convolve_3x3.defvjp(_forward_3x3, _backward_3x3)


def _gradients_by_convolutions(
  inputs: jax.Array, kernel: jax.Array, gradient: jax.Array, precision: Any
) -> tuple[jax.Array, jax.Array]:
  _, pull_back = jax.vjp(functools.partial(_plain_3x3, precision=precision), inputs, kernel)
  return pull_back(gradient)


def _gradients_by_products(
  inputs: jax.Array, kernel: jax.Array, gradient: jax.Array, precision: Any
) -> tuple[jax.Array, jax.Array]:
  """Gradients of inputs and kernel from the nine shifts of the output's gradient, gathered once.

  A dense layer's 3x3 convolution has only k outputs, so its gathered gradient (9k columns) is small; one product
  with the kernel is the inputs' gradient, one with the inputs the kernel's.
  """
  batch, height, width, channels = inputs.shape
  outputs = gradient.shape[-1]
  product = functools.partial(
    jax.lax.dot_general, precision=precision, preferred_element_type=jnp.promote_types(inputs.dtype, jnp.float32)
  )
  by_shift = kernel.transpose(0, 1, 3, 2).reshape(9 * outputs, channels)
  # What makes the gradient would otherwise be computed again in each of nine shifts.
  gradient = jax.lax.optimization_barrier(gradient)
  pictures = max(1, _PIECE // (height * width), -(-batch // _MOST_PIECES))
  of_inputs, of_kernel = [], 0
  for first in range(0, batch, pictures):
    piece = slice(first, first + pictures)
    padded = jnp.pad(gradient[piece], ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, 2 - row :, 2 - column :][:, :height, :width] for row in range(3) for column in range(3)]
    gathered = jnp.concatenate(shifts, axis=-1).reshape(-1, 9 * outputs)
    flat = inputs[piece].reshape(-1, channels)
    of_inputs.append(product(gathered, by_shift, (((1,), (0,)), ((), ()))).reshape(inputs[piece].shape))
    of_kernel += product(flat, gathered, (((0,), (0,)), ((), ())))
  of_kernel = of_kernel.reshape(channels, 3, 3, outputs).transpose(1, 2, 0, 3)
  return jnp.concatenate(of_inputs).astype(inputs.dtype), of_kernel.astype(kernel.dtype)
