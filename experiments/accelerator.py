"""What a TPU or a GPU makes of this project, in fifteen minutes.

  python experiments/accelerator.py --data cifar10.npz
  python experiments/accelerator.py --data cifar10.npz --minutes 60 \\
    --out runs/v5e

One device is measured, in bfloat16, without a profiler, one program at a time
and each in a process of its own:

1. versions and device;
2. a training step of DenseNet-BC (L=100, k=12), batch 64: ours under `none`,
   plain Flax, PyTorch (channels-last, compiled);
3. a training on CIFAR-10 with the paper's augmentation, for half of the
   minutes. The published schedule is shortened to the epochs that fit, with its
   drops at 50 % and 75 %. Without --data it is left out;
4. while time remains: the other remat policies; batches of 128 and 512; whether
   a second compilation gives the same bits; PyTorch plain; the peers at the
   other batches.

A part that would not fit in the minutes is left out, and one that fails is
noted in a line. OUT has accelerator.json, written anew whenever a part begins
or ends, accelerator.md, its table, and logs/. A stop at any moment loses no
more than the part that it cut.

It needs Python 3.12, jax (0.11 or newer), flax, optax, chex and numpy, and
nothing else of what the package needs. PyTorch may have a Python of its own.
The npz has uint8 images [n, 32, 32, 3] and whole numbers 0 to 9 [n]:
train_images, train_labels, test_images, test_labels. Where the package is
installed, this makes it of a prepared data set (dir: a pathlib.Path, or None
for TFDS's own folder):

  python -c "import numpy, pathlib; \\
    from dn_jax.config.schema import DataConfig; \\
    from dn_jax.data import catalog; \\
    data = catalog.load(DataConfig('cifar10', dir=None)); \\
    numpy.savez('cifar10.npz', \\
      train_images=data.train.images, train_labels=data.train.labels, \\
      test_images=data.test.images, test_labels=data.test.labels)"
"""

import argparse
import math
import pathlib
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
import typing
import zipfile
from typing import Any, NoReturn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from measuring.parts import Budget, Flags, Parts, measure, say
from measuring.record import NAME, Record

from dn_jax.config.densenet import RematPolicy, blocks_of_depth
from dn_jax.errors import ConfigurationError, UserError, near

POLICIES = typing.get_args(RematPolicy)
KEYS = ("train_images", "train_labels", "test_images", "test_labels")


class _Parser(argparse.ArgumentParser):
  """Says a mistake in one line."""

  def error(self, message: str) -> NoReturn:
    raise UserError(message.replace("argument --", "--", 1))


def flags_of(words: list[str]) -> Flags:
  """Reads and checks the flags, writing nothing.

  Raises:
    UserError: a flag that does not fit.
  """
  parser = _Parser("accelerator.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  sizes = "Take so many images per step; the first is trained with. (default: 64 128 512)"
  policies = f"Measure these remat policies; the first is trained with. (default: {' '.join(POLICIES)})"
  parser.add_argument("--minutes", default="15", help="End after so many minutes at the latest. (default: 15)")
  parser.add_argument(
    "--data", type=pathlib.Path, help="Train on this npz file of CIFAR-10, see above. (unset: no training)"
  )
  parser.add_argument(
    "--out", type=pathlib.Path, help="Write what is measured into this folder. (default: runs/accelerator-TIME)"
  )
  parser.add_argument("--depth", default="100", help="Set L, the number of layers. (default: 100)")
  parser.add_argument(
    "--growth-rate", default="12", help="Set k, the number of channels that each layer adds. (default: 12)"
  )
  parser.add_argument("--batch-sizes", nargs="+", default=["64", "128", "512"], help=sizes)
  parser.add_argument("--policies", nargs="+", default=list(POLICIES), help=policies)
  parser.add_argument("--epochs", default="300", help="Train for so many epochs at most. (default: 300, as published)")
  parser.add_argument(
    "--torch-python", default=sys.executable, help="Start PyTorch by this Python. (default: this one)"
  )
  found, strange = parser.parse_known_args(words)
  if strange:
    raise UserError(f"{' '.join(strange)}: there is no such flag; --help lists them")
  for policy in found.policies:
    if policy not in POLICIES:
      raise ConfigurationError("policies", policy, near(policy, POLICIES))
  flags = Flags(
    minutes=_minutes(found.minutes),
    data=found.data and found.data.absolute(),
    out=(found.out or pathlib.Path("runs") / time.strftime(f"{NAME}-%Y%m%d-%H%M%S")).absolute(),
    depth=_whole("depth", found.depth),
    growth_rate=_whole("growth-rate", found.growth_rate),
    batch_sizes=_different("batch-sizes", [_whole("batch-sizes", each) for each in found.batch_sizes]),
    policies=_different("policies", found.policies),
    epochs=_whole("epochs", found.epochs),
    torch_python=found.torch_python,
  )
  try:
    blocks_of_depth(flags.depth, bottleneck=True)
  except ValueError as error:
    raise ConfigurationError("depth", flags.depth, str(error)) from None
  if shutil.which(flags.torch_python) is None:
    raise ConfigurationError("torch-python", flags.torch_python, "there is no such program")
  if flags.data:
    check_data(flags.data, flags.batch_sizes[0])
  return flags


def _minutes(text: str) -> float:
  try:
    minutes = float(text)
  except ValueError:
    minutes = math.nan
  if not 0 < minutes < math.inf:
    raise ConfigurationError("minutes", text, "must be a number above 0")
  return minutes


def _whole(flag: str, text: str) -> int:
  if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
    raise ConfigurationError(flag, text, "must be a whole number, at least 1")
  return int(text)


def _different(flag: str, values: list[Any]) -> tuple[Any, ...]:
  if len(set(values)) < len(values):
    raise ConfigurationError(flag, " ".join(map(str, values)), "each once")
  return tuple(values)


def check_data(path: pathlib.Path, batch_size: int) -> None:
  """Refuses a file without CIFAR-10's arrays.

  Raises:
    ConfigurationError: says what is missing or does not fit.
  """
  import numpy as np  # After the flags, which are answered at once.

  try:
    with np.load(path, allow_pickle=False) as file:
      data = {key: file[key] for key in KEYS if key in file.files}
  except FileNotFoundError:
    raise ConfigurationError("data", path, "there is no such file") from None
  except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
    raise ConfigurationError("data", path, "is no npz file, or a damaged one") from None
  if lacks := [key for key in KEYS if key not in data]:
    raise ConfigurationError("data", path, f"lacks {', '.join(lacks)}")
  for split in ("train", "test"):
    images, labels = data[f"{split}_images"], data[f"{split}_labels"]
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or not len(images):
      fits = f"{split}_images is {images.dtype} {list(images.shape)}; it should be uint8 [n, 32, 32, 3]"
      raise ConfigurationError("data", path, fits)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
      fits = f"{split}_labels is {labels.dtype} {list(labels.shape)}; it should be whole numbers [{len(images)}]"
      raise ConfigurationError("data", path, fits)
    if labels.min() < 0 or labels.max() > 9:
      raise ConfigurationError("data", path, f"{split}_labels run from {labels.min()} to {labels.max()}, not 0 to 9")
  if len(data["train_labels"]) < batch_size:
    raise ConfigurationError("batch-sizes", batch_size, f"there are {len(data['train_labels'])} training images")


def prepare_out(out: pathlib.Path) -> None:
  """Makes the folder.

  Raises:
    ConfigurationError: it cannot be written, or has a record already.
  """
  if (out / f"{NAME}.json").exists():
    raise ConfigurationError("out", out, f"has an {NAME}.json already; take another folder")
  try:
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
      pass
  except OSError as error:
    raise ConfigurationError("out", out, f"cannot be written ({error.strerror})") from None


def main(words: list[str]) -> None:
  """Measures, and prints the table, whatever ends it but a kill.

  Raises:
    UserError: a flag that does not fit; nothing is written.
  """
  if sys.version_info < (3, 12):  # noqa: UP036 - a bare machine has the Python that it has.
    raise UserError(f"this is Python {platform.python_version()}; 3.12 or newer is needed")
  flags = flags_of(words)
  prepare_out(flags.out)
  record = Record(
    flags.out,
    command=words,
    began=time.strftime("%Y-%m-%d %H:%M:%S %z"),
    minutes=flags.minutes,
    network={"depth": flags.depth, "growth_rate": flags.growth_rate, "dtype": "bfloat16"},
  )
  record.write()
  say(f"at most {flags.minutes:g} minutes; written to {flags.out}")
  before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  try:
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-", ignore_cleanup_errors=True) as caches:
      measure(Parts(flags, record, pathlib.Path(caches)), record, Budget(60 * flags.minutes))
  finally:
    signal.signal(signal.SIGTERM, before)
    say(f"\n{(flags.out / f'{NAME}.md').read_text()}")


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    sys.exit(130)
