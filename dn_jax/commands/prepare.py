"""Downloads a data set and prepares it as array_record, which training reads without TensorFlow.

  python experiments/prepare.py --data.name cifar10 --data.dir ~/data

The only command here that downloads anything. Needs the extra `prepare` (tensorflow-cpu).
"""

import dataclasses
import importlib.util
import pathlib

from dn_jax.commands import command_line
from dn_jax.config.datasets import CATALOG
from dn_jax.errors import ConfigurationError, UserError, near
from dn_jax.system import folders


@dataclasses.dataclass(frozen=True)
class What:
  name: str
  """cifar10, cifar100, svhn_cropped, or another data set of TFDS."""
  dir: pathlib.Path | None = None
  """Folder for it; by default TFDS's own (~/tensorflow_datasets)."""


def prepare(data: What) -> None:
  """Downloads and prepares a data set."""
  if data.name == "digits":
    raise ConfigurationError("data.name", data.name, "ships with scikit-learn; nothing to prepare")
  if data.dir is not None and folders.is_bucket(bucket := folders.of("data.dir", data.dir)):
    raise ConfigurationError(
      "data.dir",
      bucket,
      f"is prepared in a folder of this machine; then: gcloud storage cp -r DIR/{data.name} {bucket}",
    )
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
