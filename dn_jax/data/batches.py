"""Reads one file of CIFAR-10, CIFAR-100 or SVHN, in each of the forms that its makers give it."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from dn_jax.data.makers import Form
from dn_jax.data.unpickle import unpickle

# Of every image.
SIDE, CHANNELS = 32, 3
_IMAGE_BYTES = CHANNELS * SIDE**2
# Deflate makes nothing smaller than a 1032nd.
_DEFLATED = 1032
# MATLAB's classes of numbers.
_NUMBERS = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


class MisfitError(Exception):
  """Says how a file is of another structure."""


class Batch(NamedTuple):
  """The images of one file.

  planes: uint8 [n, channels, height, width]
  labels: [n], as in the data set of TFDS
  """

  planes: np.ndarray
  labels: np.ndarray


def of_pickle(content: bytes, form: Form) -> Batch:
  """A pickled batch of CIFAR: a dictionary with `data`, uint8 [n, 3072], and labels under `form.labels`.

  Raises:
    MisfitError: it is of another structure.
    BadPickleError: it is damaged, or holds other objects.
  """
  entries = unpickle(content)
  planes, labels = (entry_of(entries, key) for key in ("data", form.labels))
  if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape[1:] != (_IMAGE_BYTES,):
    raise MisfitError(f"its data are {_described(planes)}; they should be uint8 [n, {_IMAGE_BYTES}]")
  numbers = isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.ndim == 1
  if not numbers and not (isinstance(labels, list) and all(type(label) is int for label in labels)):
    raise MisfitError(f"its {form.labels} are {_described(labels)}; they should be a list of whole numbers")
  if len(labels) != len(planes):
    raise MisfitError(f"has {len(planes)} images and {len(labels)} {form.labels}")
  return Batch(planes.reshape(-1, CHANNELS, SIDE, SIDE), np.asarray(labels, np.int64))


def of_records(content: bytes, form: Form) -> Batch:
  """A binary batch of CIFAR: of each image its labels, a byte each, and its planes.

  Raises:
    MisfitError: it is of another length.
  """
  width = form.label_bytes + _IMAGE_BYTES
  if len(content) % width:
    raise MisfitError(f"has {len(content)} bytes, which are no whole number of records of {width}; it may be cut short")
  records = np.frombuffer(content, np.uint8).reshape(-1, width)
  return Batch(records[:, form.label_bytes :].reshape(-1, CHANNELS, SIDE, SIDE), records[:, form.label_bytes - 1])


def matlab_count(path: pathlib.Path) -> int:
  """Number of images of a MATLAB 5 file of SVHN, from the heads of its variables.

  Raises:
    MisfitError: they are others, or of another shape or type. What SciPy raises for a damaged file comes through.
  """
  import scipy.io  # Takes a moment, and CIFAR needs none of it.

  heads = scipy.io.whosmat(path)
  found = {name: (shape, kind) for name, shape, kind in heads if name in ("X", "y")}
  if len(found) != 2 or sum(name in found for name, *_ in heads) != 2:
    there = ", ".join(name for name, *_ in heads[:9]) or "none"
    raise MisfitError(f"has the variables {there}; X and y are needed, once each; it may be cut short")
  (shape, kind), (label_shape, label_kind) = found["X"], found["y"]
  if shape[:-1] != (SIDE, SIDE, CHANNELS) or kind != "uint8":
    raise MisfitError(f"its X is {kind} {list(shape)}; it should be uint8 [{SIDE}, {SIDE}, {CHANNELS}, n]")
  if sorted(label_shape) != [1, shape[-1]] or label_kind not in _NUMBERS:
    raise MisfitError(f"its y is {label_kind} {list(label_shape)}; it should be [{shape[-1]}, 1], whole numbers")
  if shape[-1] * _IMAGE_BYTES > _DEFLATED * path.stat().st_size:
    raise MisfitError(f"says that it has {shape[-1]} images, and is too small for them")
  return shape[-1]


def of_matlab(path: pathlib.Path) -> Batch:
  """A MATLAB 5 file of SVHN: `X`, uint8 [height, width, channels, n], and `y`, [n, 1], where 10 is the digit 0.

  Raises:
    MisfitError: as `matlab_count`, or a label is none of 1 to 10.
  """
  count = matlab_count(path)
  import scipy.io

  content = scipy.io.loadmat(path, variable_names=("X", "y"))
  digits = content["y"].ravel().astype(np.int64)
  if content["X"].dtype != np.uint8 or content["X"].shape[-1] != count or (digits != content["y"].ravel()).any():
    raise MisfitError("its X is not uint8, or its y no whole numbers")
  strange = (digits < 1) | (digits > 10)
  if strange.any():
    values = ", ".join(map(str, np.unique(digits[strange])[:3]))
    raise MisfitError(f"{strange.sum()} labels are others than 1 to 10 ({values}); 10 is the digit 0")
  return Batch(content["X"].transpose(3, 2, 0, 1), digits % 10)


def entry_of(entries: dict[Any, Any], key: str) -> Any:
  """An entry of a pickled dictionary, whose keys are bytes if Python 2 wrote it.

  Raises:
    MisfitError: it is not there.
  """
  for each in (key, key.encode()):
    if each in entries:
      return entries[each]
  raise MisfitError(f"lacks {key!r}; it has {', '.join(map(repr, list(entries)[:9]))}")


def _described(value: Any) -> str:
  return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
