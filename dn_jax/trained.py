"""A run's trained network, from its checkpoints."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import optax
from jax.sharding import PartitionSpec

from dn_jax import distributed, runs
from dn_jax.configuration import ConfigurationError, RunConfig
from dn_jax.data import catalog
from dn_jax.models import build
from dn_jax.training import optimizer, step
from dn_jax.training.checkpoint import Checkpoints

Which = Literal["reported", "last", "best"]


@dataclasses.dataclass(frozen=True)
class Trained:
  """A network with what it was trained to.

  config:  of the run
  network: the module
  params, batch_stats: its variables
  epoch, steps: whole epochs that they have behind them, and steps of the next
  """

  config: RunConfig
  network: nn.Module
  params: Any
  batch_stats: Any
  epoch: int
  steps: int


def load(folder: pathlib.Path, which: Which, say: Callable[[str], None]) -> Trained:
  """Reads a run's network; changes nothing.

  Args:
    folder: of the run.
    which: `last`, `best` (on validation), or `reported`: the one whose error the run reports.
    say: told of checkpoints that are not used.

  Raises:
    UserError: no run, no whole checkpoint, none of that kind.
  """
  config = runs.read_config(folder)
  if which == "best" and not config.data.validation:
    raise ConfigurationError("checkpoint", which, "this run held out no validation pictures")
  info, mesh = catalog.info_of(config.data), distributed.make_layout().mesh
  num_classes = len(classes) if (classes := runs.read_classes(folder)) else info.num_classes
  if config.model.remat == "auto":  # Written down by a sweep; the run has not begun.
    config = dataclasses.replace(config, model=build.complete(dataclasses.replace(config.model, remat=None)))
  network = build.build(config.model, num_classes)
  sgd = optimizer.sgd(config.optimizer, optax.constant_schedule(0.0), config.freeze)
  shapes = jax.eval_shape(lambda key: step.create_state(network, sgd, key, info.image_shape), jax.random.key(0))
  template = distributed.placed(shapes, PartitionSpec(), mesh)
  with Checkpoints(folder / runs.CHECKPOINTS, config.checkpoint.keep, say, read_only=True) as checkpoints:
    state, records, begun, _ = checkpoints.restore(template)
    if which == "best" or (which == "reported" and config.report == "best"):
      if not records:
        raise ConfigurationError("checkpoint", which, "no epoch of this run is done yet; take last")
      if begun.steps or runs.best_record(records) != records[-1]:
        state, records, begun, _ = checkpoints.restore(template, runs.best_record(records).step)
  params = optimizer.tested(state.params, state.opt_state)
  return Trained(config, network, params, state.batch_stats, len(records), begun.steps)
