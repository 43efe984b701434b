"""What is known of a data set before it is read."""

import importlib
import pathlib

import pytest

from dn_jax.config import datasets
from dn_jax.config.nested import difference, identity
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.report import protocol_words, published_table


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
  # A run's record is read without its images.
  assert datasets.recorded(data).streamed
  (tmp_path / "cifar11").mkdir()
  assert datasets.info_of(data).streamed


@pytest.mark.parametrize(("name", "own"), [("cifar10", 3), ("digits", 1), ("folder", 3)])
def test_channels_that_images_have_anyway_make_no_other_run(name, own):
  of = lambda channels: resolve(RunConfig(DataConfig(name, channels=channels), ModelConfig(depth=10, growth_rate=4)))
  assert identity(of(own)) == identity(of(None))
  assert "data.channels" not in identity(of(own))


def test_a_grey_run_is_another_one_and_none_of_the_papers():
  colours, grey = (
    resolve(RunConfig(DataConfig("cifar10", channels=channels), ModelConfig(depth=10, growth_rate=4)))
    for channels in (None, 1)
  )
  assert difference(identity(colours), identity(grey)) == ["--data.channels: (absent) -> 1"]
  assert [published_table.column_of(run) for run in (colours, grey)] == ["c10", None]
  assert "images turned to grey" in protocol_words.text(grey)
  assert "grey" not in protocol_words.text(colours)
  # SVHN's are published as pixels / 255, which its grey ones are too.
  info = datasets.info_of(DataConfig("svhn_cropped", channels=1))
  assert (info.image_shape, info.mean, info.std) == ((32, 32, 1), (0.0,), (255.0,))
