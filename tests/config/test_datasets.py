"""What is known of a data set before it is read."""

import importlib
import pathlib

import pytest

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig
from dn_jax.errors import ConfigurationError


def test_without_a_folder_it_is_looked_for_where_tfds_puts_it(tmp_path, monkeypatch):
  from tensorflow_datasets.core import constants

  with monkeypatch.context() as patch:
    patch.delenv("TFDS_DATA_DIR", raising=False)
    for variable, expected in (("HOME", tmp_path / "tensorflow_datasets"), ("TFDS_DATA_DIR", tmp_path)):
      patch.setenv(variable, str(tmp_path))
      importlib.reload(constants)  # It asks the environment when it is imported.
      assert datasets.root(None) == pathlib.Path(constants.DATA_DIR) == expected
  importlib.reload(constants)


def test_a_name_like_one_of_the_catalogs_is_a_mistake_unless_there_is_such_a_folder(tmp_path):
  data = DataConfig("cifar11", tmp_path)
  with pytest.raises(ConfigurationError, match=r"^--data\.name cifar11: did you mean cifar1"):
    datasets.info_of(data)
  (tmp_path / "cifar11").mkdir()
  assert datasets.info_of(data).streamed
