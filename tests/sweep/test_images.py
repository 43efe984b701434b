"""Images of a plan: counted where they are, published where they are not."""

import dataclasses

import numpy as np
import pytest
from makers_files import write

from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.data import splits
from dn_jax.data.tfds import NotPreparedError
from dn_jax.errors import ConfigurationError
from dn_jax.sweep import images


# Of the papers that published the data sets.
@pytest.mark.parametrize(
  ("data", "network", "numbers", "classes"),
  [
    ("cifar10", "densenet-40-12", (50_000, 0, 10_000), 10),
    ("cifar100", "resnet-110-stochastic-depth", (45_000, 5_000, 10_000), 100),
    ("svhn_cropped", "densenet-40-12", (73_257 + 531_131 - 6_000, 6_000, 26_032), 10),
    ("imagenet2012", "densenet-121", (1_281_167, 0, 50_000), 1000),
  ],
)
def test_published_numbers_stand_in_for_what_is_not_there(data, network, numbers, classes, tmp_path):
  config = resolve(RunConfig(DataConfig(data, dir=tmp_path), ModelConfig(name=network))).data
  found = images.count(config, splits.RULE, published=True)
  assert (found.train, found.valid, found.test) == numbers
  assert found.info.num_classes == classes
  assert f"--data.name {data}: is not prepared in {tmp_path}" in found.lacking
  with pytest.raises(NotPreparedError):
    images.count(config, splits.RULE)


def test_what_is_there_is_counted(tmp_path):
  of = lambda count: (np.zeros((count, 32, 32, 3), np.uint8), [n % 10 for n in range(count)])
  write(tmp_path, "cifar10 pickled", {"train": of(200), "test": of(100)}, packed=False)
  config = resolve(RunConfig(DataConfig("cifar10", dir=tmp_path, validation=20))).data
  found = images.count(config, splits.RULE, published=True)
  assert (found.train, found.valid, found.test, found.lacking) == (180, 20, 100, "")


def test_nothing_stands_in_for_what_nobody_published(tmp_path):
  data = dataclasses.replace(resolve(RunConfig(DataConfig("folder", dir=tmp_path / "photos", size=32))).data)
  with pytest.raises(ConfigurationError, match="photos"):
    images.count(data, splits.RULE, published=True)
