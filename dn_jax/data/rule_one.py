"""A folder as rule 1 lists and splits it (see `dn_jax.data.splits`), for runs that were begun under it.

A part that is called otherwise than below was not known, files of other formats were passed over, links to folders
were not followed, and copies within hidden folders were taken.
"""

import pathlib
from collections.abc import Sequence

from dn_jax.data.class_folders import ClassFolders, some
from dn_jax.errors import ConfigurationError

_TRAIN, _TEST = ("train", "training"), ("val", "valid", "validation", "test")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def halves(folder: pathlib.Path) -> tuple[ClassFolders, ClassFolders | None]:
  """A folder's training and test images; None where no part is for testing.

  Raises:
    ConfigurationError: it is not what a run could begin with.
  """
  train, test = (next((folder / name for name in names if (folder / name).is_dir()), None) for names in (_TRAIN, _TEST))
  if train and test:
    images = _listed(train)
    return images, _listed(test, images.classes)
  if train:
    raise ConfigurationError("data.dir", folder, f"has {train.name} and none of {', '.join(_TEST)} beside it")
  return _listed(folder), None


def _listed(folder: pathlib.Path, classes: Sequence[str] | None = None) -> ClassFolders:
  if not folder.is_dir():
    raise ConfigurationError("data.dir", folder, "is not a folder")
  found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
  classes = tuple(found if classes is None else classes)
  if set(classes) != set(found):
    raise ConfigurationError("data.dir", folder, f"has other classes ({some(found)}) than were trained on")
  files: list[str] = []
  labels: list[int] = []
  for label, name in enumerate(classes):
    here = sorted(
      path.relative_to(folder).as_posix()
      for path in (folder / name).rglob("*")
      if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    )
    files += here
    labels += [label] * len(here)
  return ClassFolders(folder, classes, tuple(files), tuple(labels))
