"""Folders of runs that nobody trained, written by the project's own functions."""

import dataclasses
import pathlib
import runpy
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dn_jax.config import datasets, zoo
from dn_jax.config.network import policy_of
from dn_jax.config.resolve import resolve, slug
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.runs import collection
from dn_jax.runs.records import Data, EpochRecord, Summary, best_record, claim, create, write_records, write_summary


def run(
  folder: pathlib.Path,
  config: RunConfig,
  error: float | None = None,
  images: tuple[int, int] | None = None,
  **summary: object,
) -> pathlib.Path:
  """Writes one run into a folder of runs, finished where `error` (percent) is given; returns its own folder.

  `images` are for training, those held out included, and for testing; unless given the published ones.
  """
  config = resolve(config)
  own = folder / f"{slug(config)}_{collection.key(config)}"
  claim(own, dataclasses.replace(config, out=own))
  if error is None:
    return own
  info = datasets.info_of(config.data)
  train, test = images or (sum(info.published) or 1297, info.published_test or 500)
  held_out = config.data.validation or 0
  pictures = {"train": train - held_out, **({"valid": held_out} if held_out else {}), "test": test}
  create(own, dataclasses.replace(config, out=own), Data(pictures, "00", split_rule=2))
  records = records_of(config, error / 100)
  write_records(own, records)
  reported = best_record(records) if config.report == "best" else records[-1]
  whole = {
    "test_error_percent": 100 * reported.test_error,
    "test_top5_error_percent": 1.0,
    "reported": config.report,
    "reported_epoch": reported.epoch,
    "valid_error_percent": None,
    "parameters": 1000 * (config.model.depth or 121) * (config.model.growth_rate or 16),
    "flops": 10**6 * (config.model.depth or 121),
    "epochs": config.epochs,
    "seconds": 100.0,
    "evaluation_seconds": 10.0,
    "images_per_second": 500.0,
    "network": config.model.name or "",
    "data": config.data.name,
    "seed": config.seed,
    "remat": policy_of(config.model),
    "devices": "1 x cpu",
    "python": "3.12",
    "versions": {"jax": "0.0"},
    "commit": "0" * 40,
  }
  write_summary(own, Summary(**(whole | summary)))
  return own


def records_of(config: RunConfig, error: float) -> list[EpochRecord]:
  """Errors that fall with noise from 0.9 to the given one, a drop at half of the epochs."""
  rng, records = np.random.default_rng(config.seed), []
  for n in range(1, config.epochs + 1):
    left = 1 - n / config.epochs
    late = n > config.epochs / 2
    test = min(0.99, error + (0.9 - error) * left ** (6 if late else 3) * (1 + 0.1 * rng.standard_normal() * left))
    train = max(0.0, test - 0.03)
    valid = test + 0.002 if config.data.validation else None
    records.append(
      EpochRecord(n, 10 * n, 0.01 if late else 0.1, 3 * train + 0.01, train, valid, valid, 3 * test, test, 1, 1, 500)
    )
  return records


def grid(folder: pathlib.Path, depths, growth_rates, seeds, epochs: int = 30, **model: object) -> pathlib.Path:
  """Depth by growth rate by seed, on digits, all finished."""
  rng = np.random.default_rng(0)
  for depth in depths:
    for growth_rate in growth_rates:
      for seed in range(seeds):
        config = RunConfig(
          DataConfig("digits"), ModelConfig(depth=depth, growth_rate=growth_rate, **model), seed=seed, epochs=epochs
        )
        run(folder, config, 400 / depth / growth_rate**0.5 + rng.uniform(0, 0.3))
  return folder


# Fixtures: a module of tests takes one by naming it, `small_table = untrained.small_table`.


@pytest.fixture(scope="session")
def one_cell(tmp_path_factory):
  return grid(tmp_path_factory.mktemp("one"), [10], [4], 1)


@pytest.fixture(scope="session")
def small_table(tmp_path_factory):
  return grid(tmp_path_factory.mktemp("nine"), [10, 16, 22], [4, 8, 12], 2)


@pytest.fixture(scope="session")
def whole_table(tmp_path_factory):
  """Every published cell, each a tenth of a percent above the published error."""
  folder = tmp_path_factory.mktemp("whole")
  data = {"c10": "cifar10", "c100": "cifar100", "svhn": "svhn_cropped"}
  for name, entry in zoo.NETWORKS.items():
    if not entry.imagenet and "1202" not in name:
      for column, error in entry.errors.items():
        config = RunConfig(DataConfig(data[column.rstrip("+")], augment="+" in column), ModelConfig(name=name))
        size = int(1e6 * (entry.parameters or 1))
        run(folder, config, error + 0.1, parameters=size, flops=300 * size)
  return folder


def script(name: str, *words: object) -> None:
  """Runs a script of experiments/ in this process, as a person's command line would.

  Raises:
    SystemExit: as the script ends, where it does so by itself.
  """
  path = pathlib.Path(__file__).parent.parent / "experiments" / f"{name}.py"
  with mock.patch.object(sys, "argv", [str(path), *map(str, words)]):
    runpy.run_path(str(path), run_name="__main__")


def refused(capsys: Any, name: str, *words: object) -> str:
  """The one line with which a script refuses a command line, after checking its exit code."""
  with pytest.raises(SystemExit) as end:
    script(name, *words)
  assert end.value.code == 2
  lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("skipped: ")]
  assert len(lines) == 1, lines
  return lines[0]
