"""Keras's files as a PyTorch state dict, read without Keras (see `dn_jax.config.keras_file`).

Keras 3 numbers a model's layers by their class, in the model's order: `layers/conv2d`, `layers/conv2d_1`, ... Keras 2
has the layers' names in order. Neither says what a layer is for: its place in a DenseNet follows from the order of the
convolutions and that of the batch norms, and from their shapes.
"""

import math
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from dn_jax.config import keras_file
from dn_jax.config.keras_file import KerasFileError
from dn_jax.errors import first_line, shown
from dn_jax.weights.table import PARTS, State

if TYPE_CHECKING:
  import h5py

Layer = tuple[str, Sequence[np.ndarray]]
# Layers without weights that a DenseNet has, or that do nothing in evaluation; others are named.
_PASSIVE = re.compile(
  r"(input_layer|zero_padding2d|activation|re_?lu|(max|average)_pooling2d|global_average_pooling2d|concatenate|softmax"
  r"|flatten|(spatial_)?dropout(2d)?|random_\w+|functional|sequential|conv2d|batch_normalization|dense)(_\d+)?"
)


def read(path: pathlib.Path, say: Callable[[str], None]) -> State:
  """Arrays by PyTorch's names.

  Args:
    path: a `.keras`, `.weights.h5` or `.h5` file of a DenseNet.
    say: receives a line about what is taken for granted.

  Raises:
    KerasFileError: h5py is not installed, the file is damaged or links elsewhere, or its layers are not a DenseNet's.
  """
  listed = keras_file.layers(path)
  with keras_file.opened(path) as file:
    try:
      walk = _Layers(path, file, [own.get("name") for _, own in listed])
      layers = list(walk.all())
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
      raise KerasFileError(f"{path}: cannot be read ({first_line(error)})") from None
  state = _named(path, layers)
  kinds = [_kind_of(name) for name, _ in listed] or walk.kinds
  _check_pools(path, state, kinds)
  _check_activations(path, listed, say)
  if unknown := dict.fromkeys(kind for kind in (*kinds, *walk.kinds) if _PASSIVE.fullmatch(kind) is None):
    say(f"what these layers do is left out: {', '.join(map(shown, unknown))}")
  epsilon, is_said = keras_file.epsilon_of(path)
  if not is_said:
    what = "its activations, nor what its batch norms add to variances"
    say(f"does not say {what}; ReLU, and {epsilon} as in Keras's DenseNets, unless told")
  return state


def _kind_of(name: str) -> str:
  """Keras's name of a class's layers: global_max_pooling2d of GlobalMaxPooling2D."""
  name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
  return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _check_pools(path: pathlib.Path, state: State, kinds: Sequence[str]) -> None:
  """Refuses a maximum where a DenseNet takes an average."""
  for kind, most in (("global_max_pooling2d", 0), ("max_pooling2d", int("features.norm0.weight" in state))):
    if (count := kinds.count(kind)) > most:
      raise KerasFileError(f"{path}: has {count} {kind}, and a DenseNet of its shapes {most}")


def _check_activations(
  path: pathlib.Path, listed: Sequence[tuple[str, dict[str, Any]]], say: Callable[[str], None]
) -> None:
  """Refuses a model whose configuration has not one ReLU for each batch norm, or other activations before its end."""
  relus = norms = 0
  for name, own in listed:
    kind, function = _kind_of(name), own.get("activation")
    calls = max(1, len(own["calls"])) if isinstance(own["calls"], list) else 1
    is_relu = kind in ("re_lu", "relu") and not any(map(own.get, ("max_value", "negative_slope", "threshold")))
    if kind.endswith("batch_normalization"):
      norms += calls
    elif is_relu or (kind == "activation" and function == "relu"):
      relus += calls
    elif kind == "dense" and function not in (None, "linear", "softmax"):
      say(f"its classifier's {shown(str(function)[:60])} is left out, and softmax taken")
    elif function not in (None, "linear", "softmax"):
      label = shown(str(own.get("name"))[:60])
      raise KerasFileError(f"{path}: {label} has the activation {shown(str(function)[:60])}, and a DenseNet's is relu")
  if relus != norms:
    raise KerasFileError(f"{path}: has {relus} ReLUs and {norms} batch norms; in a DenseNet one follows each")


class _Layers:
  """Walks through an HDF5 file; follows no link out of it, and reads no more than the file can hold."""

  def __init__(self, path: pathlib.Path, file: "h5py.File", names: Sequence[Any]):
    """Args: names: of the model's layers in order, where its configuration lists them."""
    self.path, self.file, self.names = path, file, names
    self.size, self.kinds, self.seen = 0, list[str](), set[int]()

  def all(self) -> Iterator[Layer]:
    """Every layer with weights, those of a class in the model's order."""
    root = self.file
    if "model_weights" in root:  # Of a whole model of Keras 2.
      root = self._group(root, "model_weights")
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
      yield from self._of_keras_2(root)
      return
    name = next((each for each in ("layers", "_layer_checkpoint_dependencies") if each in root), None)
    if name is None:
      raise KerasFileError(f"{self.path}: cannot be read; it has no layers as Keras writes them")
    found = list(self._below(self._group(root, name), name))
    for kind in ("conv", "norm"):
      if len({_numbered(label)[0] for label, arrays in found if _kind(self.path, label, arrays) == kind}) > 1:
        raise KerasFileError(f"{self.path}: is of several models or kinds of layers, whose order it does not say")
    yield from found

  def _below(self, group: "h5py.Group", place: str) -> Iterator[Layer]:
    for name in sorted(group, key=_numbered):
      layer, label = self._group(group, name), f"{place}/{name}"
      self.kinds.append(re.sub(r"_\d+$", "", name))
      for inner in layer:
        if inner == "layers":
          yield from self._below(self._group(layer, inner), f"{label}/layers")
        elif inner == "vars":
          variables = self._group(layer, inner)
          if arrays := [self._array(variables, label, n) for n in sorted(variables, key=lambda n: (len(n), n))]:
            yield label, arrays
        elif inner != "seed_generator":  # A dropout's.
          raise KerasFileError(
            f"{self.path}: {shown(label)} has weights in {shown(inner)}, as no layer of a DenseNet has"
          )

  def _of_keras_2(self, root: "h5py.Group") -> Iterator[Layer]:
    for name in _texts(root, "layer_names"):
      layer, parts = self._group(root, name), dict[str, list[np.ndarray]]()
      for each in _texts(layer, "weight_names"):
        parts.setdefault(each.rpartition("/")[0], []).append(self._array(layer, name, each))
      # A model within the model has all its layers' weights, those that are trained first.
      if len(parts) > 1 and not set(parts) <= set(self.names):
        raise KerasFileError(f"{self.path}: {shown(name)} has several layers, whose order is not said")
      yield from sorted(parts.items(), key=lambda part: self.names.index(part[0]) if len(parts) > 1 else 0)

  def _group(self, parent: "h5py.Group", name: str) -> "h5py.Group":
    return self._linked(parent, name, "Group")

  def _array(self, parent: "h5py.Group", label: str, name: str) -> np.ndarray:
    dataset = self._linked(parent, name, "Dataset")
    what = f"{self.path}: {shown(label)}/{shown(name)}"
    if dataset.external or dataset.is_virtual:
      raise KerasFileError(f"{what} is kept in another file, which is not read")
    if dataset.dtype == np.dtype("V2"):  # HDF5 has no bfloat16; Keras notes it in an attribute.
      as_type = np.dtype(jnp.bfloat16)
    elif dataset.dtype.kind == "f" and dataset.dtype.itemsize <= 8:
      as_type = dataset.dtype.newbyteorder("=")
    else:
      raise KerasFileError(f"{what} holds {shown(dataset.dtype)}, no numbers with a fraction")
    self.size += math.prod(dataset.shape) * dataset.dtype.itemsize
    keras_file.check_size(self.path, self.size)
    value = np.asarray(dataset[()])
    return value.view(as_type) if value.dtype.kind == "V" else value.astype(as_type)

  def _linked(self, parent: "h5py.Group", name: str, kind: str) -> Any:
    """What stands at a path below a group, where it is of this file, and at no other path."""
    import h5py

    found = parent
    for each in name.split("/"):
      if not isinstance(found.get(each, getlink=True), h5py.HardLink):
        raise KerasFileError(f"{self.path}: {shown(name)} is a link, which is not followed")
      found = found[each]
    if not isinstance(found, getattr(h5py, kind)):
      raise KerasFileError(f"{self.path}: {shown(name)} is no HDF5 {kind.lower()}")
    if (place := h5py.h5o.get_info(found.id).addr) in self.seen:
      raise KerasFileError(f"{self.path}: {shown(name)} stands at two places")
    self.seen.add(place)
    return found


def _texts(group: "h5py.Group", name: str) -> list[str]:
  """An attribute that is a list of names; a long one is in pieces."""
  if name in group.attrs:
    pieces = [name]
  else:
    pieces = [each for n in range(len(group.attrs)) if (each := f"{name}{n}") in group.attrs]
  return [
    each.decode(errors="replace") if isinstance(each, bytes) else str(each)
    for piece in pieces
    for each in np.atleast_1d(group.attrs[piece]).tolist()
  ]


def _numbered(name: str) -> tuple[str, int]:
  """A key that puts conv2d_10 after conv2d_9, and conv2d before both."""
  name, number = re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", name, re.DOTALL).groups()
  return name, int(number or 0)


def _named(path: pathlib.Path, layers: Sequence[Layer]) -> State:
  """A state dict in PyTorch's names, by the places of the layers in a DenseNet."""
  convolutions, norms, linear = (
    [each for each in layers if _kind(path, *each) == kind] for kind in ("conv", "norm", "linear")
  )
  if len(linear) > 1:
    raise KerasFileError(f"{path}: has {len(linear)} dense layers, and a DenseNet has one")
  places = list(_places([value.shape for _, (value,) in convolutions], [len(values[0]) for _, values in norms]))
  if sum(kind == "conv" for kind, _ in places) != len(convolutions) or len(places) - len(convolutions) != len(norms):
    raise KerasFileError(
      f"{path}: has {len(convolutions)} convolutions and {len(norms)} batch norms, whose shapes are not a DenseNet's"
    )
  state: State = {}
  rest = {"conv": iter(convolutions), "norm": iter(norms), "linear": iter(linear)}
  for kind, name in [*places, *[("linear", "classifier")] * len(linear)]:
    _, (weight, *others) = next(rest[kind])
    if weight.ndim > 1:
      weight = np.transpose(weight, (3, 2, 0, 1)) if kind == "conv" else weight.T
    state |= {f"{name}.{part}": value for part, value in zip(PARTS[kind], (weight, *others), strict=True)}
  return state


def _kind(path: pathlib.Path, label: str, arrays: Sequence[np.ndarray]) -> str:
  shapes = [array.shape for array in arrays]
  match [len(shape) for shape in shapes]:
    case [4]:
      return "conv"
    case [1, 1, 1, 1] if len(set(shapes)) == 1:
      return "norm"
    case [2, 1]:
      return "linear"
  raise KerasFileError(f"{path}: {shown(label)} has weights of shapes {shapes}, as no layer of a DenseNet has")


def _places(convolutions: Sequence[tuple[int, ...]], norms: Sequence[int]) -> Iterator[tuple[str, str]]:
  """The kinds and PyTorch's names of a DenseNet's layers, one after another; ends early where the shapes are of none.

  Args:
    convolutions: shapes [height, width, in, out] of the kernels, in order.
    norms: channels, in order.
  """
  kernels, widths = list(convolutions), list(norms)
  if not kernels:
    return
  height, _, _, channels = kernels.pop(0)
  yield "conv", "features.conv0"
  if height == 7:  # The stem of ImageNet's networks has a norm.
    if widths[:1] != [channels]:
      return
    widths.pop(0)
    yield "norm", "features.norm0"
  # All layers have a bottleneck, or none has: then a 1x1 convolution is a transition's, whatever its shape.
  parts = 2 if kernels and kernels[0][0] == 1 else 1
  block = layer = 1
  while kernels and widths[:1] == [channels] and kernels[0][2] == channels:
    here, inner = f"features.denseblock{block}.denselayer{layer}", [kernel[0] for kernel in kernels[:parts]]
    if inner == [1, 3][-parts:]:
      if parts == 2 and (widths[1:2] != [kernels[0][3]] or kernels[1][2] != kernels[0][3]):
        return
      for part in range(1, parts + 1):
        yield from (("norm", f"{here}.norm{part}"), ("conv", f"{here}.conv{part}"))
      layer, channels = layer + 1, channels + kernels[parts - 1][3]
      del kernels[:parts], widths[:parts]
    elif kernels[0][0] == 1:
      yield from (("norm", f"features.transition{block}.norm"), ("conv", f"features.transition{block}.conv"))
      block, layer, channels = block + 1, 1, kernels[0][3]
      del kernels[0], widths[0]
    else:
      return
  if not kernels and widths == [channels]:
    yield "norm", "features.norm5"
