"""Evaluates a DenseNet with its norms as affine maps, folded into the convolutions where that is exact.

A norm folds into the convolution before it if nothing else reads that convolution's output: a layer's second norm into
its 1x1 convolution, the ImageNet stem's norm into the 7x7 one. A layer's first norm shares its input with other layers
and remains a slope and an offset.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dn_jax.models.densenet import DenseNet

Folded = dict[str, Any]


def fold(network: DenseNet, variables: Mapping[str, Any]) -> Folded:
  """Folds a DenseNet's variables (`params` and `batch_stats`) for `feature_maps` and `logits`.

  Returns:
    Arrays by part: `stem`, `block1` (a list, layer by layer), `transition1`, ..., `last`, `classifier`. A convolution
    is a `kernel` [height, width, in, out], with a `bias` [out] where a norm is folded into it; any other norm is
    `slope` and `offset`, [channels] each.
  """
  params, stats = variables["params"], variables["batch_stats"]

  def affine(norm: Mapping[str, jax.Array], maps: list[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    mean, variance = (jnp.concatenate([of_map[name] for of_map in maps]) for name in ("mean", "var"))
    slope = norm["scale"] * jax.lax.rsqrt(variance + network.epsilon)
    return {"slope": slope, "offset": norm["bias"] - mean * slope}

  def folded(conv: Mapping[str, jax.Array], norm: Mapping[str, jax.Array], of_map: Any) -> dict[str, jax.Array]:
    after = affine(norm, [of_map])
    return {"kernel": conv["kernel"] * after["slope"], "bias": after["offset"]}

  stem = params["stem"]
  result: Folded = {
    "stem": folded(stem["conv"], stem["norm"], stats["stem"]["conv_output"])
    if network.stem == "imagenet"
    else {"kernel": stem["conv"]["kernel"]}
  }
  maps = [stats["stem"]["output"]]
  for number, layers in enumerate(network.blocks, start=1):
    block = []
    for index in range(1, layers + 1):
      layer, of_layer = (tree[f"block{number}"][f"layer{index}"] for tree in (params, stats))
      part = {"norm": affine(layer["norm1"], maps)}
      if network.bottleneck_width:
        part["bottleneck"] = folded(layer["conv1"], layer["norm2"], of_layer["bottleneck"])
      part["kernel"] = layer["conv2" if network.bottleneck_width else "conv1"]["kernel"]
      block.append(part)
      maps.append(of_layer["output"])
    result[f"block{number}"] = block
    if number < len(network.blocks):
      transition = params[f"transition{number}"]
      result[f"transition{number}"] = {"norm": affine(transition["norm"], maps), "kernel": transition["conv"]["kernel"]}
      maps = [stats[f"transition{number}"]["output"]]
  return result | {"last": affine(params["last"]["norm"], maps), "classifier": dict(params["classifier"])}


def feature_maps(network: DenseNet, folded: Folded, images: jax.Array) -> jax.Array:
  """The input of the network's global pooling: [batch, height', width', channels], after the last norm and ReLU.

  Args:
    network: the DenseNet that was folded.
    folded: from `fold`.
    images: [batch, height, width, channels], normalised, of any size; the batch may be symbolic (`jax.export`).
  """

  def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    size = kernel.shape[0]
    if size == 1:
      return jnp.matmul(x, kernel[0, 0].astype(x.dtype), precision=network.precision)
    pad = (size // 2, size // 2)
    return jax.lax.conv_general_dilated(
      x,
      kernel.astype(x.dtype),
      (stride, stride),
      (pad, pad),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=network.precision,
    )

  def normed(x: jax.Array, norm: Mapping[str, jax.Array]) -> jax.Array:
    return jax.nn.relu(x * norm["slope"].astype(x.dtype) + norm["offset"].astype(x.dtype))

  def with_bias(x: jax.Array, part: Mapping[str, jax.Array]) -> jax.Array:
    return jax.nn.relu(x + part["bias"].astype(x.dtype))

  x, stem = images.astype(network.dtype), folded["stem"]
  if network.stem == "imagenet":
    x = with_bias(conv(x, stem["kernel"], stride=2), stem)
    x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
  else:
    x = conv(x, stem["kernel"])
  for number in range(1, len(network.blocks) + 1):
    for layer in folded[f"block{number}"]:
      y = normed(x, layer["norm"])
      if "bottleneck" in layer:
        y = with_bias(conv(y, layer["bottleneck"]["kernel"]), layer["bottleneck"])
      x = jnp.concatenate([x, conv(y, layer["kernel"])], axis=-1)
    if number < len(network.blocks):
      transition = folded[f"transition{number}"]
      x = conv(nn.avg_pool(normed(x, transition["norm"]), (2, 2), strides=(2, 2)), transition["kernel"])
  return normed(x, folded["last"])


def logits(folded: Folded, maps: jax.Array) -> jax.Array:
  """[batch, classes] from `feature_maps`: global pooling and the classifier."""
  classifier = folded["classifier"]
  pooled = jnp.mean(maps, axis=(1, 2)).astype(classifier["kernel"].dtype)
  return pooled @ classifier["kernel"] + classifier["bias"]


def class_activation(folded: Folded, maps: jax.Array, classes: jax.Array) -> jax.Array:
  """Class activation maps (Zhou et al. 2016): each place's contribution to a class's logit.

  Exact, since global pooling is a mean: the mean of an image's map is the logit.

  Args:
    folded: from `fold`.
    maps: [batch, height', width', channels], from `feature_maps`.
    classes: int [batch], one for each image.

  Returns:
    [batch, height', width'].
  """
  kernel, bias = (jnp.asarray(folded["classifier"][name]) for name in ("kernel", "bias"))
  return jnp.einsum("bhwc,cb->bhw", maps.astype(kernel.dtype), kernel[:, classes]) + bias[classes][:, None, None]
