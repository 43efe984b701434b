"""Downloads a data set, so that training reads it without TensorFlow.

  python experiments/prepare.py --data.name cifar10 --data.dir ~/data

The only command here that downloads anything. CIFAR-10, CIFAR-100 and SVHN come as their makers' archives, whose MD5
sums are checked; a download that was cut off goes on. TFDS prepares every other data set, as array_record, with the
extra `prepare` (tensorflow-cpu).
"""

import contextlib
import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Iterator
from typing import Annotated

from dn_jax.commands import command_line
from dn_jax.config.datasets import CATALOG, root
from dn_jax.config.schema import Unset
from dn_jax.data import makers
from dn_jax.errors import ConfigurationError, UserError, near
from dn_jax.system import folders


@dataclasses.dataclass(frozen=True)
class What:
  name: str
  """Prepare cifar10, cifar100, svhn_cropped, or another data set of TFDS."""
  dir: Annotated[pathlib.Path | None, Unset("TFDS's own, ~/tensorflow_datasets")] = None
  """Put it into this folder."""


def prepare(data: What) -> None:
  """Downloads and prepares a data set."""
  if data.name == "digits":
    raise ConfigurationError("data.name", data.name, "ships with scikit-learn; nothing to prepare")
  if data.name.endswith("+"):
    fits = f"has the images of {data.name[:-1]}; prepare that, and train with --data.augment"
    raise ConfigurationError("data.name", data.name, fits)
  files = makers.downloads(data.name)
  if data.dir is not None and folders.is_bucket(bucket := folders.of("data.dir", data.dir)):
    what = " ".join(f"DIR/{file}" for file in files) or f"-r DIR/{data.name}"
    fits = f"is prepared in a folder of this machine; then: gcloud storage cp {what} {bucket}"
    raise ConfigurationError("data.dir", bucket, fits)
  try:
    (_download if files else _by_tfds)(data)
  except OSError as error:
    raise ConfigurationError("data.dir", root(data.dir), f"cannot be written ({error.strerror or error})") from None


def _download(data: What) -> None:
  """Downloads those of the makers' files that are not there yet."""
  from dn_jax.data import archives, download

  place = root(data.dir)
  if archives.prepared_by_tfds(data.name, place):
    print(f"prepared: {place / data.name}")
    return
  for address, file in zip(makers.ADDRESSES[data.name], makers.downloads(data.name), strict=True):
    path = place / file
    if not path.exists():
      with _bar(file) as progress:
        download.download(address, path, makers.MD5[file], progress)
    elif archives.md5(path) != makers.MD5[file]:
      fits = f"has another MD5 sum than its maker's, {makers.MD5[file]}; move it away to download it"
      raise ConfigurationError("data.dir", path, fits)
    print(f"prepared: {path}")


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
  """Shows how much of a download is there."""
  from rich import progress

  columns = (
    progress.TextColumn("{task.description}"),
    progress.BarColumn(),
    progress.DownloadColumn(),
    progress.TransferSpeedColumn(),
    progress.TimeRemainingColumn(),
  )
  with progress.Progress(*columns) as bars:
    bar = bars.add_task(what, total=None)
    yield lambda there, total: bars.update(bar, completed=there, total=total)


def _by_tfds(data: What) -> None:
  if not importlib.util.find_spec("tensorflow"):
    raise UserError("preparing a data set needs TensorFlow: pip install -e '.[prepare]'")
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(data.name, data_dir=data.dir, file_format="array_record")
  except Exception:  # No such name, or a builder that needs more than is installed.
    raise ConfigurationError(
      "data.name", data.name, f"TFDS has none of that name; {near(data.name, CATALOG)}"
    ) from None
  try:
    builder.download_and_prepare()
  except Exception as error:  # No network, no space, no right to write: each library has its own kinds.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(f"{data.name} could not be prepared in {builder.data_dir}: {lines[0]}") from None
  print(f"prepared: {builder.data_path}")


main = command_line.program(prepare, __doc__)
