"""What a network says of pictures, and its inference as a function that runs without this package."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dn_jax.data import pictures
from dn_jax.data.augment import normalise
from dn_jax.errors import UserError
from dn_jax.inference import folding
from dn_jax.inference.load import Classifier, Input
from dn_jax.models.densenet import DenseNet


class Predicted(NamedTuple):
  """What a network says of pictures.

  probabilities: float [n, classes]
  activations:   float [n, height, width], what each place adds to the likeliest class's logit; None unless asked for
  """

  probabilities: np.ndarray
  activations: np.ndarray | None


class Predictor:
  """Classifies batches of pictures, compiled once.

  Args:
    classifier: the network.
    batch_size: pictures at a time; fewer are filled up.
    activations: whether class activations are made too; DenseNet's alone can be.

  Raises:
    UserError: activations of another network.
  """

  def __init__(self, classifier: Classifier, batch_size: int, *, activations: bool = False):
    if activations and not isinstance(classifier.network, DenseNet):
      raise UserError(f"class activation maps are made of a DenseNet alone, not of {classifier.model.family}")
    self._batch_size, self._size = batch_size, classifier.input.size
    self._activations = activations
    self._run = jax.jit(_with_activations(classifier) if activations else logits_of(classifier))

  def __call__(self, images: np.ndarray) -> Predicted:
    """images: uint8 [n, size, size, 3], n at most the batch size."""
    count = len(images)
    filled = np.zeros((self._batch_size, self._size, self._size, 3), np.uint8)
    filled[:count] = images
    result = self._run(filled)
    logits, activations = result if self._activations else (result, None)
    chances = np.asarray(jax.nn.softmax(logits, axis=-1))[:count]
    return Predicted(chances, None if activations is None else np.asarray(activations)[:count])


def logits_of(classifier: Classifier) -> Callable[[jax.Array], jax.Array]:
  """uint8 pictures [n, size, size, 3], any n -> logits [n, classes]; weights are constants in it.

  A DenseNet's norms are folded into its convolutions where that is exact.
  """
  network, variables = classifier.network, _variables(classifier)
  if isinstance(network, DenseNet):
    maps_of, folded = _maps_of(classifier)
    return lambda images: folding.logits(folded, maps_of(images))
  return lambda images: network.apply(variables, _normalised(classifier.input, images), False)


def _with_activations(classifier: Classifier) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
  maps_of, folded = _maps_of(classifier)

  def run(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps = maps_of(images)
    logits = folding.logits(folded, maps)
    return logits, folding.class_activation(folded, maps, jnp.argmax(logits, axis=1))

  return run


def _maps_of(classifier: Classifier) -> tuple[Callable[[jax.Array], jax.Array], folding.Folded]:
  folded = jax.jit(lambda variables: folding.fold(classifier.network, variables))(_variables(classifier))
  folded = jax.device_get(folded)
  return lambda images: folding.feature_maps(classifier.network, folded, _normalised(classifier.input, images)), folded


def _variables(classifier: Classifier) -> dict[str, object]:
  return {"params": classifier.params, "batch_stats": classifier.batch_stats}


def _normalised(how: Input, images: jax.Array) -> jax.Array:
  return normalise(images, how.mean, how.std)


def prepared(picture: np.ndarray, how: Input) -> np.ndarray:
  """A picture as the network sees it: uint8 [size, size, 3]."""
  return pictures.centre_crop(pictures.with_short_side(picture, how.resize), how.size)


def exported(classifier: Classifier, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")) -> bytes:
  """`logits_of` by `jax.export`, for any number of pictures: `jax.export.deserialize(...).call(pictures)` runs it.

  Args:
    classifier: the network.
    platforms: where it is to run, as `jax.export` names them.
  """
  (count,) = jax.export.symbolic_shape("n")
  size = classifier.input.size
  shape = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8)
  return jax.export.export(jax.jit(logits_of(classifier)), platforms=platforms)(shape).serialize()


def batches(count: int, batch_size: int) -> list[slice]:
  """The parts in which so many are gone through."""
  return [slice(n * batch_size, min(count, (n + 1) * batch_size)) for n in range(math.ceil(count / batch_size))]
