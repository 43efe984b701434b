"""The parts of a run from its configuration: network, optimizer, data on the devices, compiled steps."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from dn_jax import distributed
from dn_jax.configuration import ConfigurationError, RunConfig
from dn_jax.data import catalog
from dn_jax.data.augment import epoch_order, mirror_and_shift, normalise
from dn_jax.models import build, initial
from dn_jax.training import epoch, loop, optimizer, step


@dataclasses.dataclass(frozen=True)
class Assembly:
  """The parts of a run, ready to go."""

  plan: loop.Plan
  splits: loop.Splits
  advance: epoch.Advance
  evaluate: epoch.Evaluate
  order_of: Callable[[int], jax.Array]
  rate_of: Callable[[int], Any]
  fresh_state: Callable[[], step.TrainState]
  template: step.TrainState


def assemble(config: RunConfig, dataset: catalog.Dataset) -> Assembly:
  """Builds network, optimizer, data on the devices and compiled functions of a resolved configuration.

  Raises:
    ConfigurationError: the batch does not fit the data or the devices.
  """
  info = dataset.info
  layout = distributed.make_layout(
    config.statistics_groups, config.parallel, shard=config.shard_state, devices=config.devices
  )
  plan = _plan(config, dataset, layout)
  weights_key, order_key, augmentation_key, dropout_key = jax.random.split(jax.random.key(config.seed), 4)
  network = build.build(config.model, info.num_classes)
  schedule = optimizer.learning_rate(config.optimizer, plan.epochs, plan.steps_per_epoch)
  sgd = optimizer.sgd(config.optimizer, schedule)

  def fresh_state() -> step.TrainState:
    variables = initial.variables(network, weights_key, info.image_shape)
    state = jax.jit(lambda variables: step.state_of(variables, sgd))(variables)
    return distributed.place_state(state, specs, layout.mesh)

  shapes = jax.eval_shape(lambda key: step.create_state(network, sgd, key, info.image_shape), weights_key)
  specs = step.specs_of(shapes, layout)
  order_of = jax.jit(lambda number: epoch_order(order_key, number, plan.train_pictures))
  return Assembly(
    plan=plan,
    splits=on_devices(dataset, layout.mesh),
    advance=epoch.make_advance(
      step.make_train_step(network, sgd, layout, config.accumulation, specs.params),
      prepared(config, dataset),
      layout,
      augmentation_key,
      dropout_key,
      plan.steps_per_dispatch,
      specs,
    ),
    evaluate=evaluator(config, dataset, config.evaluation_batch_size, layout.mesh),
    order_of=lambda number: distributed.replicate(order_of(number), layout.mesh),
    rate_of=schedule,
    fresh_state=fresh_state,
    template=distributed.placed(shapes, specs, layout.mesh),
  )


def _plan(config: RunConfig, dataset: catalog.Dataset, layout: distributed.Layout) -> loop.Plan:
  plan = loop.Plan(
    epochs=config.epochs,
    batch_size=config.batch_size,
    train_pictures=len(dataset.train.labels),
    keep_last_batch=config.last_batch == "keep",
    steps_per_dispatch=config.steps_per_dispatch or (1 if jax.default_backend() == "cpu" else 32),
  )
  if plan.batch_size > plan.train_pictures:
    fits = f"there are {plan.train_pictures} training pictures; at most that"
    raise ConfigurationError("batch-size", plan.batch_size, fits)
  layout.check("batch-size", plan.batch_size)
  layout.check_accumulation(config.accumulation)
  rest = plan.train_pictures % plan.batch_size
  if plan.keep_last_batch and rest:
    try:
      layout.check("last-batch", rest)
      build.check_pictures(config.model, min(dataset.info.image_shape[:2]), rest, layout.groups)
    except ConfigurationError as error:
      pictures = "1 picture" if rest == 1 else f"{rest} pictures"
      fits = f"the last batch has {pictures}; {error.fits}; or drop it"
      raise ConfigurationError("last-batch", "keep", fits) from None
  return plan


def _normalised(config: RunConfig, dataset: catalog.Dataset) -> Callable[[jax.Array], jax.Array]:
  mean, std = catalog.normalisation(dataset, config.data.normalise)
  return functools.partial(normalise, mean=mean, std=std)


def prepared(config: RunConfig, dataset: catalog.Dataset) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
  """What a training picture goes through: (uint8 pictures, a step's key, the pictures' numbers) -> input.

  Normalised first and padded then, as in the authors' Torch code: the border of a shifted picture is the mean.
  """
  normalised = _normalised(config, dataset)
  if not config.data.augment:
    return lambda images, key, numbers: normalised(images)
  info, padding = dataset.info, config.data.padding
  shift = functools.partial(mirror_and_shift, mirror=info.mirror, pad=info.pad, padding=padding)
  return lambda images, key, numbers: shift(normalised(images), key, numbers)


def evaluator(config: RunConfig, dataset: catalog.Dataset, batch_size: int, mesh: jax.sharding.Mesh) -> epoch.Evaluate:
  """Measures a resolved configuration's network on a split, so many pictures at a time or a few more."""
  network = build.build(config.model, dataset.info.num_classes)
  divisible = math.ceil(batch_size / mesh.size) * mesh.size
  cut, gather = (functools.partial(each, mesh=mesh) for each in (distributed.cut, distributed.gathered))
  return epoch.make_evaluate(step.make_eval_step(network), _normalised(config, dataset), cut, divisible, gather)


def on_devices(dataset: catalog.Dataset, mesh: jax.sharding.Mesh) -> loop.Splits:
  """Every device gets all pictures."""

  def put(split: catalog.Split | None) -> epoch.DeviceSplit | None:
    return None if split is None else distributed.replicate(epoch.DeviceSplit(*split), mesh)

  return loop.Splits(put(dataset.train), put(dataset.valid), put(dataset.test))
