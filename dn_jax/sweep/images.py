"""How many images a run has: as they are counted, or as they were published where none are there yet."""

import dataclasses
import functools
from typing import NamedTuple

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog
from dn_jax.data.tfds import NotPreparedError


class Images(NamedTuple):
  """Of a run.

  info:    of its data set, opened
  train:   images that it trains on
  valid:   held out of the training set
  test:    for testing
  lacking: why these are the published numbers; empty if they were counted
  """

  info: datasets.DatasetInfo
  train: int
  valid: int
  test: int
  lacking: str = ""


@functools.cache
def count(data: DataConfig, rule: int, published: bool = False) -> Images:
  """Counts a run's images; none is read.

  Args:
    data: of a resolved run.
    rule: by which it splits them, see `dn_jax.data.splits`.
    published: whether the published numbers stand in for a data set that is not there.

  Raises:
    ConfigurationError: as `dn_jax.data.catalog.count`.
  """
  try:
    return Images(catalog.known(data, rule), *catalog.count(data, rule))
  except NotPreparedError as error:
    info = datasets.info_of(data)
    if not (published and info.published):
      raise
    held_out = data.validation or 0
    info = dataclasses.replace(info, num_classes=info.num_classes or datasets.IMAGENET_CLASSES)
    return Images(info, sum(info.published) - held_out, held_out, info.published_test, str(error))
