"""Runs in one process that train alike, and trace and compile once: nearly all of what a small run takes.

A module of tests takes the fixture by naming it, `traced_once = traced_once.traced_once`.
"""

import dataclasses
import functools
from collections.abc import Iterator
from unittest import mock

import pytest

from dn_jax import experiment
from dn_jax.config.schema import CheckpointConfig, RunConfig


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
  """Everything of a run is assembled anew but its two compiled functions; and its layers are counted once."""
  made, assemble = {}, experiment.assemble

  def shared(config: RunConfig, *rest: object) -> object:
    parts = assemble(config, *rest)
    data = dataclasses.replace(config.data, workers=0, bad_share=0.0)
    own = {"out": None, "checkpoint": CheckpointConfig(), "profile": False, "tensorboard": False, "wandb": None}
    first = made.setdefault(dataclasses.replace(config, data=data, **own), parts)
    return dataclasses.replace(parts, advance=first.advance, evaluate=first.evaluate)

  layers = functools.cache(experiment.layers)
  with mock.patch.object(experiment, "assemble", shared), mock.patch.object(experiment, "layers", layers):
    yield
