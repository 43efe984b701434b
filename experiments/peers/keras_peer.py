"""DenseNet-BC from Keras's layers, on its JAX back end, trained by Keras's own compiled step."""

import functools
import math
import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
from jax_device import batch, device, device_peak, versions
from keras import layers

__all__ = ["densenet", "device", "device_peak", "start", "versions"]

versions = functools.partial(versions, "keras")


def densenet(depth: int, growth_rate: int, num_classes: int = 10) -> keras.Model:
  """The network, logits out."""

  def norm_relu_conv(x, channels, size):
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
    return layers.Conv2D(channels, size, padding="same", use_bias=False)(x)

  images = keras.Input((32, 32, 3))
  x = layers.Conv2D(2 * growth_rate, 3, padding="same", use_bias=False)(images)
  for block in range(3):
    for _ in range((depth - 4) // 6):
      y = norm_relu_conv(norm_relu_conv(x, 4 * growth_rate, 1), growth_rate, 3)
      x = layers.Concatenate()([x, y])
    if block < 2:
      x = layers.AveragePooling2D(2)(norm_relu_conv(x, x.shape[-1] // 2, 1))
  x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
  return keras.Model(images, layers.Dense(num_classes)(layers.GlobalAveragePooling2D()(x)))


def start(depth, growth_rate, batch_size):
  """Returns a training step, which returns its loss, and the number of trainable parameters."""
  network = densenet(depth, growth_rate)
  network.compile(
    keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
  )
  images, labels = batch(batch_size)
  parameters = sum(math.prod(weight.shape) for weight in network.trainable_weights)

  def take():
    # Keras returns the mean loss since the start, not this step's.
    return float(network.train_on_batch(images, labels))

  return take, parameters
