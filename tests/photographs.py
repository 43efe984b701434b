"""Folders of small JPEG pictures, drawn."""

import io
import pathlib

import numpy as np
from PIL import Image


def photograph(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
  """uint8 [height, width, 3]: smooth, and of a colour of its own."""
  rng = np.random.RandomState(seed)
  small = Image.fromarray(rng.randint(0, 256, (5, 7, 3), np.uint8))
  return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def jpeg(picture: np.ndarray, **options: object) -> bytes:
  content = io.BytesIO()
  Image.fromarray(picture).save(content, "jpeg", quality=95, **options)
  return content.getvalue()


def class_folders(folder: pathlib.Path, classes=("cat", "dog", "owl"), each: int = 4, first: int = 0) -> pathlib.Path:
  """FOLDER/CLASS/n.jpg; the pictures of a class are of about one brightness."""
  for label, name in enumerate(classes):
    (folder / name).mkdir(parents=True)
    for n in range(each):
      picture = photograph(first + 1000 * label + n) // 4 + 60 * label
      (folder / name / f"{n}.jpg").write_bytes(jpeg(picture.astype(np.uint8)))
  return folder


def halves(folder: pathlib.Path, each: int = 8) -> pathlib.Path:
  """FOLDER/train and FOLDER/val."""
  class_folders(folder / "train", each=each)
  class_folders(folder / "val", each=3, first=500)
  return folder
