"""Programs written out for the CPU back end; the compilers of TPUs and GPUs need none of them.

| here                 | the same function as              | why, on a CPU                                         |
|----------------------|-----------------------------------|-------------------------------------------------------|
| `convolve_3x3`       | `jax.lax.conv_general_dilated`    | gradients are two matrix products, without transposes |
| `convolve_depthwise` | the same, of single channels      | XLA's own takes ten to fifty times as long            |
| `Prefix`             | a slice of the first channels     | the slice is not copied and kept through a layer      |
| `threefry_2x32`      | `jax.extend.random.threefry_2x32` | one fused loop, where XLA's takes twenty passes       |
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Pixels per piece of a batch, such that their gathered neighbours (nine times the output channels) stay in a
# processor's cache; and the most pieces, since each is compiled separately.
_PIECE = 16384
_MOST_PIECES = 8


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_3x3(inputs: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
  """A 3x3 convolution of stride 1, padded to its size, whose gradients are matrix products on the CPU.

  JAX's own weight gradient first transposes both operands, which takes longer there than the rest. On TPU and GPU
  the gradients are JAX's own. A gradient written by hand has no forward mode (`jax.jvp`).

  Args:
    inputs: [batch, height, width, in_channels].
    kernel: [3, 3, in_channels, out_channels].
    precision: as `jax.lax.Precision` names it.
  """
  return _plain_3x3(inputs, kernel, precision)


def _plain_3x3(inputs: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
  return jax.lax.conv_general_dilated(
    inputs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
  )


def _forward_3x3(inputs: jax.Array, kernel: jax.Array, precision: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return convolve_3x3(inputs, kernel, precision), (inputs, kernel)


def _backward_3x3(
  precision: Any, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return jax.lax.platform_dependent(
    *residuals,
    gradient,
    cpu=functools.partial(_gradients_by_products, precision=precision),
    default=functools.partial(_gradients_by_convolutions, precision=precision),
  )


convolve_3x3.defvjp(_forward_3x3, _backward_3x3)


def _gradients_by_convolutions(
  inputs: jax.Array, kernel: jax.Array, gradient: jax.Array, precision: Any
) -> tuple[jax.Array, jax.Array]:
  _, pull_back = jax.vjp(functools.partial(_plain_3x3, precision=precision), inputs, kernel)
  return pull_back(gradient)


def _gradients_by_products(
  inputs: jax.Array, kernel: jax.Array, gradient: jax.Array, precision: Any
) -> tuple[jax.Array, jax.Array]:
  """Gradients of inputs and kernel from the nine shifts of the output's gradient, gathered once.

  A dense layer's 3x3 convolution has only k outputs, so the gathered gradient is small (9k columns). Its product
  with the kernel is the inputs' gradient; its product with the inputs is the kernel's.
  """
  batch, height, width, channels = inputs.shape
  outputs = gradient.shape[-1]
  product = functools.partial(
    jax.lax.dot_general, precision=precision, preferred_element_type=jnp.promote_types(inputs.dtype, jnp.float32)
  )
  by_shift = kernel.transpose(0, 1, 3, 2).reshape(9 * outputs, channels)
  # Without the barrier, each of the nine shifts would recompute the gradient.
  gradient = jax.lax.optimization_barrier(gradient)
  images = max(1, _PIECE // (height * width), -(-batch // _MOST_PIECES))
  of_inputs, of_kernel = [], 0
  for first in range(0, batch, images):
    piece = slice(first, first + images)
    padded = jnp.pad(gradient[piece], ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, 2 - row :, 2 - column :][:, :height, :width] for row in range(3) for column in range(3)]
    gathered = jnp.concatenate(shifts, axis=-1).reshape(-1, 9 * outputs)  # [images * height * width, 9k]
    flat = inputs[piece].reshape(-1, channels)  # [images * height * width, channels]
    of_inputs.append(product(gathered, by_shift, (((1,), (0,)), ((), ()))).reshape(inputs[piece].shape))
    of_kernel += product(flat, gathered, (((0,), (0,)), ((), ())))
  of_kernel = of_kernel.reshape(channels, 3, 3, outputs).transpose(1, 2, 0, 3)
  return jnp.concatenate(of_inputs).astype(inputs.dtype), of_kernel.astype(kernel.dtype)


def convolve_depthwise(inputs: jax.Array, kernel: jax.Array, precision: Any = None) -> jax.Array:
  """A convolution of each channel by a kernel of its own, of stride 1, padded with zeros to its size.

  On a CPU it is a sum of shifted maps with gradients of the same kind; elsewhere it is the compiler's convolution.

  Args:
    inputs: [batch, height, width, channels].
    kernel: [side, side, 1, channels], of an odd side.
    precision: as `jax.lax.Precision` names it; for the compiler's convolution.
  """
  plain = functools.partial(_plain_depthwise, precision=precision)
  return jax.lax.platform_dependent(inputs, kernel, cpu=_shifted, default=plain)


def _plain_depthwise(inputs: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
  return jax.lax.conv_general_dilated(
    inputs,
    kernel,
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=inputs.shape[-1],
    precision=precision,
  )


@jax.custom_vjp
def _shifted(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  return _sum_of_shifts(inputs, kernel)


def _padded(inputs: jax.Array, side: int) -> jax.Array:
  return jnp.pad(inputs, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)))


def _sum_of_shifts(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  height, width = inputs.shape[1:3]
  wide = jnp.promote_types(inputs.dtype, jnp.float32)
  padded = _padded(inputs, len(kernel))

  def add(total: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    number, weights = row
    lines = jax.lax.dynamic_slice_in_dim(padded, number, height, axis=1)
    shifts = (lines[:, :, column : column + width] * weight for column, weight in enumerate(weights[:, 0]))
    return sum(shifts, total), None

  # A row of the kernel at a time: all in one loop over the maps take seven times as long, and longer to compile.
  total, _ = jax.lax.scan(add, jnp.zeros(inputs.shape, wide), (jnp.arange(len(kernel)), kernel.astype(wide)))
  return total.astype(inputs.dtype)


def _forward_shifted(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _sum_of_shifts(inputs, kernel), (inputs, kernel)


def _backward_shifted(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  inputs, kernel = residuals
  side, (_, height, width, channels) = len(kernel), inputs.shape
  wide = jnp.promote_types(inputs.dtype, jnp.float32)
  padded = _padded(inputs, side)

  def of_row(_: None, row: jax.Array) -> tuple[None, jax.Array]:
    def add(totals: tuple[jax.Array, ...], image: tuple[jax.Array, jax.Array]) -> Any:
      lines = jax.lax.dynamic_slice_in_dim(image[0], row, height, axis=0).astype(wide)
      of_output = image[1].astype(wide)
      return tuple(total + lines[:, c : c + width] * of_output for c, total in enumerate(totals)), None

    # Pixel by pixel over the images, which vectorises; a sum over pixels takes five times as long.
    nothing = (jnp.zeros((height, width, channels), wide),) * side
    totals, _ = jax.lax.scan(add, nothing, (padded, gradient))
    return None, jnp.stack([jnp.sum(total, axis=(0, 1)) for total in totals])

  _, of_kernel = jax.lax.scan(of_row, None, jnp.arange(side))
  of_kernel = of_kernel.reshape(kernel.shape).astype(kernel.dtype)
  return _sum_of_shifts(gradient, kernel[::-1, ::-1]), of_kernel


_shifted.defvjp(_forward_shifted, _backward_shifted)


class Prefix(NamedTuple):
  """The first maps of a concatenation, for a reader that is differentiated by itself.

  A sum over pixels makes XLA's CPU compiler copy the slice that it reads, and keep the copy from the layer's first
  operation to its last. So the backward pass slices anew, once the gradient is there. Elsewhere the maps are
  concatenated anew, which the compilers fuse with what reads them.

  port:  [batch, height, width, first channels], in the type of a slope; only its shape counts, and it receives the
         gradient. Were that rounded to bfloat16 before it is added up, a TPU's compiler would not put all that is done
         with it behind the product that makes it.
  whole: [batch, height, width, channels]; receives no gradient
  parts: the first maps, [batch, height, width, :] each; receive no gradient
  """

  port: jax.Array
  whole: jax.Array
  parts: tuple[jax.Array, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    return self.port.shape

  def normalised(self, slope: jax.Array, offset: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """ReLU of the first maps times `slope` plus `offset`, [first channels] each."""
    return _normalised(dtype, self, slope, offset)

  def read(self) -> jax.Array:
    """The first maps, [batch, height, width, first channels]."""
    return jax.lax.platform_dependent(
      self.whole,
      self.parts,
      cpu=lambda whole, parts: whole[..., : self.port.shape[-1]],
      default=lambda whole, parts: jnp.concatenate(parts, axis=-1),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalised(dtype: jnp.dtype, prefix: Prefix, slope: jax.Array, offset: jax.Array) -> jax.Array:
  return jax.nn.relu((prefix.read() * slope + offset).astype(dtype))


def _forward_prefix(dtype: jnp.dtype, prefix: Prefix, slope: jax.Array, offset: jax.Array) -> Any:
  return _normalised(dtype, prefix, slope, offset), (prefix, slope, offset)


def _backward_prefix(dtype: jnp.dtype, residuals: Any, gradient: jax.Array) -> Any:
  prefix, slope, offset = residuals
  barrier = functools.partial(jax.lax.platform_dependent, cpu=_after_one_another, default=lambda *arrays: arrays)
  gradient = jnp.where(prefix.read() * slope + offset > 0, gradient.astype(slope.dtype), 0)
  whole, gradient = barrier(prefix.whole, gradient)
  of_slope = jnp.sum(gradient * prefix._replace(whole=whole).read(), axis=(0, 1, 2))
  of_slope, gradient = barrier(of_slope, gradient)
  return Prefix(gradient * slope, None, None), of_slope, jnp.sum(gradient, axis=(0, 1, 2))


def _after_one_another(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  return jax.lax.optimization_barrier(arrays)


_normalised.defvjp(_forward_prefix, _backward_prefix)


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry_2x32(
  key: tuple[jax.Array, jax.Array], counter: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

  `jax.random` draws by a loop over whole arrays on the CPU: the bits pass through memory twenty times, and each draw
  takes a third of a second to compile. Written out, the generator fuses with the multiplication that uses it.

  Args:
    key: two uint32 scalars.
    counter: two uint32 arrays of one shape.

  Returns:
    Two uint32 arrays of that shape: the words that `jax.extend.random.threefry_2x32` gives.
  """
  keys = (*key, key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
  first, second = counter[0] + keys[0], counter[1] + keys[1]
  for round_ in range(5):
    for rotation in _ROTATIONS[round_ % 2]:
      first = first + second
      second = first ^ ((second << jnp.uint32(rotation)) | (second >> jnp.uint32(32 - rotation)))
    first = first + keys[(round_ + 1) % 3]
    second = second + keys[(round_ + 2) % 3] + jnp.uint32(round_ + 1)
  return first, second
