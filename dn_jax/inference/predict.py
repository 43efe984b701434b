"""A network's predictions, and its inference as a program that runs without this package."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dn_jax.data import image_files
from dn_jax.data.augment import normalise
from dn_jax.errors import UserError
from dn_jax.inference import folding
from dn_jax.inference.load import Classifier, Input
from dn_jax.models.densenet import DenseNet


class Predicted(NamedTuple):
  """A network's predictions for n images.

  probabilities: float [n, classes]
  activations:   float [n, height, width], each place's share in the likeliest class's logit; None unless asked for
  """

  probabilities: np.ndarray
  activations: np.ndarray | None


class Predictor:
  """Classifies batches of images, compiled once.

  Args:
    classifier: the network.
    batch_size: images at a time; smaller batches are padded.
    activations: whether to compute class activation maps too, of a DenseNet.

  Raises:
    UserError: activations of another network.
  """

  def __init__(self, classifier: Classifier, batch_size: int, *, activations: bool = False):
    if activations and not isinstance(classifier.network, DenseNet):
      raise UserError(f"class activation maps are made of a DenseNet alone, not of {classifier.model.family}")
    self._batch_size, self._shape = batch_size, classifier.input.shape
    self._activations = activations
    self._run = jax.jit(_with_activations(classifier) if activations else logits_of(classifier))

  def __call__(self, images: np.ndarray) -> Predicted:
    """images: uint8 [n, size, size, channels], n at most the batch size."""
    count = len(images)
    filled = np.zeros((self._batch_size, *self._shape), np.uint8)
    filled[:count] = images
    result = self._run(filled)
    logits, activations = result if self._activations else (result, None)
    chances = np.asarray(jax.nn.softmax(logits, axis=-1))[:count]
    return Predicted(chances, None if activations is None else np.asarray(activations)[:count])


def logits_of(classifier: Classifier) -> Callable[[jax.Array], jax.Array]:
  """The function of uint8 images [n, size, size, channels] -> logits [n, classes], with the weights as constants.

  A DenseNet's norms are folded into its convolutions where that is exact.
  """
  network, variables = classifier.network, _variables(classifier)
  if isinstance(network, DenseNet):
    maps_of, folded = _maps_of(classifier)
    return lambda images: folding.logits(folded, maps_of(images))
  return lambda images: network.apply(variables, _normalised(classifier, images), False)


def _with_activations(classifier: Classifier) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
  maps_of, folded = _maps_of(classifier)

  def run(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps = maps_of(images)
    logits = folding.logits(folded, maps)
    return logits, folding.class_activation(folded, maps, jnp.argmax(logits, axis=1))

  return run


def _maps_of(classifier: Classifier) -> tuple[Callable[[jax.Array], jax.Array], folding.Folded]:
  network = classifier.network
  folded = jax.device_get(jax.jit(lambda variables: folding.fold(network, variables))(_variables(classifier)))
  return lambda images: folding.feature_maps(network, folded, _normalised(classifier, images)), folded


def _variables(classifier: Classifier) -> dict[str, object]:
  return {"params": classifier.params, "batch_stats": classifier.batch_stats}


def _normalised(classifier: Classifier, images: jax.Array) -> jax.Array:
  return normalise(images, classifier.input.mean, classifier.input.std)


def prepared(picture: np.ndarray, how: Input) -> np.ndarray:
  """Resizes and crops a picture to the network's image, uint8 [size, size, channels]."""
  return image_files.centre_crop(image_files.with_short_side(picture, how.resize, how.interpolation), how.size)


def exported(classifier: Classifier, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")) -> bytes:
  """`logits_of` by `jax.export`, for any number of images: `jax.export.deserialize(...).call(images)` runs it."""
  (count,) = jax.export.symbolic_shape("n")
  shape = jax.ShapeDtypeStruct((count, *classifier.input.shape), jnp.uint8)
  return jax.export.export(jax.jit(logits_of(classifier)), platforms=platforms)(shape).serialize()
