"""The paper's data sets as their makers hand them out: names of files, addresses, MD5 sums.

Sums of the CIFAR archives are those of https://www.cs.toronto.edu/~kriz/cifar.html; of the pickled batches and of SVHN,
torchvision's (torchvision/datasets/cifar.py, svhn.py). For the binary batches out of their archive there are none.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
  """One of the forms in which a data set is handed out.

  kind:        how its files are written
  splits:      the files of each split, in the makers' order
  folder:      of the files, also within the archive; empty where they lie side by side in the data folder
  archive:     that holds the folder; empty where there is none
  labels:      of a pickled batch, the key of its labels
  label_bytes: of a binary record, bytes before its pixels; the label is the last of them
  names:       the file with the names of the classes, and of a pickled one its key
  """

  kind: Literal["pickled", "binary", "matlab"]
  splits: Mapping[str, tuple[str, ...]]
  folder: str = ""
  archive: str = ""
  labels: str = ""
  label_bytes: int = 1
  names: tuple[str, str] = ("", "")

  @property
  def files(self) -> tuple[str, ...]:
    """The files of all splits."""
    return tuple(file for files in self.splits.values() for file in files)


# Where two forms are there, the first of them is read.
FORMS: Mapping[str, tuple[Form, ...]] = {
  "cifar10": (
    Form(
      "pickled",
      {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
      folder="cifar-10-batches-py",
      archive="cifar-10-python.tar.gz",
      labels="labels",
      names=("batches.meta", "label_names"),
    ),
    Form(
      "binary",
      {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)},
      folder="cifar-10-batches-bin",
      archive="cifar-10-binary.tar.gz",
      names=("batches.meta.txt", ""),
    ),
  ),
  "cifar100": (
    Form(
      "pickled",
      {"train": ("train",), "test": ("test",)},
      folder="cifar-100-python",
      archive="cifar-100-python.tar.gz",
      labels="fine_labels",
      names=("meta", "fine_label_names"),
    ),
    Form(
      "binary",
      {"train": ("train.bin",), "test": ("test.bin",)},
      folder="cifar-100-binary",
      archive="cifar-100-binary.tar.gz",
      label_bytes=2,
      names=("fine_label_names.txt", ""),
    ),
  ),
  "svhn_cropped": (Form("matlab", {split: (f"{split}_32x32.mat",) for split in ("train", "test", "extra")}),),
}

# What `prepare` downloads: of each data set the first form.
ADDRESSES: Mapping[str, tuple[str, ...]] = {
  "cifar10": ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
  "cifar100": ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
  "svhn_cropped": tuple(
    f"http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat" for split in ("train", "test", "extra")
  ),
}

MD5: Mapping[str, str] = {
  "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
  "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
  "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
  "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
  "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
  "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
  "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
  "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
  "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
  "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
  "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
  "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
  "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
  "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
  "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}


def downloads(name: str) -> tuple[str, ...]:
  """The names of the files that `prepare` downloads for a data set; none for those that TFDS prepares."""
  return tuple(address.rpartition("/")[2] for address in ADDRESSES.get(name, ()))
