"""Writes CIFAR-10, CIFAR-100 and SVHN as their makers do, of any images.

The forms are those of https://www.cs.toronto.edu/~kriz/cifar.html and http://ufldl.stanford.edu/housenumbers/.
"""

import io
import pathlib
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.io

# By split, images uint8 [n, 32, 32, 3] and labels.
Splits = Mapping[str, tuple[np.ndarray, Sequence[int]]]
# By form: its archive, its folder, the files of each split.
FORMS = {
  "cifar10 pickled": ("cifar-10-python.tar.gz", "cifar-10-batches-py", [f"data_batch_{n + 1}" for n in range(5)]),
  "cifar10 binary": ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", [f"data_batch_{n + 1}.bin" for n in range(5)]),
  "cifar100 pickled": ("cifar-100-python.tar.gz", "cifar-100-python", ["train"]),
  "cifar100 binary": ("cifar-100-binary.tar.gz", "cifar-100-binary", ["train.bin"]),
}
TEST = {"cifar10 pickled": "test_batch", "cifar10 binary": "test_batch.bin", "cifar100 pickled": "test"}
TEST["cifar100 binary"] = "test.bin"


def planes(images: np.ndarray) -> np.ndarray:
  """uint8 [n, 3072]: "the first 1024 entries contain the red channel values, ..., in row-major order"."""
  return np.stack([np.concatenate([image[:, :, channel].ravel() for channel in range(3)]) for image in images])


class Python2Pickler(pickle._Pickler):
  """Writes bytes as Python 2 wrote its strings, and so a pickle like the makers' own (protocol 2)."""

  def save_string(self, value: bytes) -> None:
    small = len(value) < 256
    head = (
      pickle.SHORT_BINSTRING + bytes([len(value)]) if small else pickle.BINSTRING + len(value).to_bytes(4, "little")
    )
    self.write(head + value)
    self.memoize(value)

  dispatch = pickle._Pickler.dispatch | {bytes: save_string, str: lambda self, value: self.save_string(value.encode())}


def python2(value: Any) -> bytes:
  """A pickle as Python 2 and a numpy of its time wrote it."""
  file = io.BytesIO()
  Python2Pickler(file, 2).dump(value)
  return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def python3(protocol: int) -> Callable[[Any], bytes]:
  return lambda value: pickle.dumps(value, protocol)


def batch(form: str, images: np.ndarray, labels: Sequence[int], dumps: Callable[[Any], bytes] = python2) -> bytes:
  """The content of one file; the coarse labels of CIFAR-100 are the fine ones backwards."""
  fine, coarse = [int(label) for label in labels], [19 - int(label) % 20 for label in labels]
  if form == "cifar10 pickled":
    names = [f"image_{n}.png" for n in range(len(labels))]
    return dumps({"data": planes(images), "labels": fine, "batch_label": "a batch", "filenames": names})
  if form == "cifar100 pickled":
    return dumps({"data": planes(images), "fine_labels": fine, "coarse_labels": coarse})
  columns = [fine] if form == "cifar10 binary" else [coarse, fine]
  return np.concatenate([np.array(columns, np.uint8).T, planes(images)], axis=1).tobytes()


def contents(form: str, splits: Splits, dumps: Callable[[Any], bytes] = python2) -> dict[str, bytes]:
  """The files of a data set by their name, FOLDER/FILE."""
  _, folder, train = FORMS[form]
  images, labels = splits["train"]
  parts = zip(train, np.array_split(images, len(train)), np.array_split(labels, len(train)), strict=True)
  files = {name: batch(form, *part, dumps) for name, *part in parts}
  files[TEST[form]] = batch(form, *splits["test"], dumps)
  return {f"{folder}/{name}": content for name, content in files.items()}


def pack(archive: pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes a .tar.gz."""
  with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))


def write(folder: pathlib.Path, form: str, splits: Splits, packed: bool = True) -> pathlib.Path:
  """Writes a data set into a folder, as an archive or unpacked; returns the folder."""
  files = contents(form, splits)
  folder.mkdir(parents=True, exist_ok=True)
  if packed:
    pack(folder / FORMS[form][0], files)
  for name, content in () if packed else files.items():
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
  return folder


def write_svhn(folder: pathlib.Path, splits: Splits, compressed: bool = True) -> pathlib.Path:
  """Writes SVHN: X is [32, 32, 3, n], the label of the digit 0 is 10; returns the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  for split, (images, labels) in splits.items():
    digits = np.array([label or 10 for label in labels], np.uint8)[:, None]
    content = {"X": np.stack(list(images), axis=-1), "y": digits}
    scipy.io.savemat(folder / f"{split}_32x32.mat", content, do_compression=compressed)
  return folder
