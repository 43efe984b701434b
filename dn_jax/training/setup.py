"""The parts of a run from its configuration: network, optimizer, data on the devices, compiled steps."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from dn_jax.config.network import check_images
from dn_jax.config.schema import DataConfig, RunConfig
from dn_jax.data import catalog, sources, stream
from dn_jax.data.augment import epoch_order, normalised, prepared
from dn_jax.distributed import layout as distribution
from dn_jax.errors import ConfigurationError
from dn_jax.models import build
from dn_jax.runs.contents import MOST_CLASSES
from dn_jax.training import initial_state, loop, optimizer, resident, step, streamed

# Fewer images than these are tested without worker processes, which take seconds to start.
_FEW = 5000


def assemble(config: RunConfig, dataset: catalog.Dataset, say: Callable[[str], None] = print) -> loop.Assembly:
  """Builds network, optimizer, data on the devices (or its way there) and compiled functions of a configuration.

  Args:
    config: resolved.
    dataset: of the configuration.
    say: receives a line for each image that cannot be read.

  Raises:
    ConfigurationError: the batch does not fit the data or the devices.
  """
  info = dataset.info
  layout = distribution.make_layout(
    config.statistics_groups, config.parallel, shard=config.shard_state, devices=config.devices
  )
  plan = plan_of(config, dataset, layout)
  weights_key, order_key, augmentation_key, dropout_key = jax.random.split(jax.random.key(config.seed), 4)
  network = build.build(config.model, info.num_classes)
  schedule = optimizer.learning_rate(config.optimizer, plan.epochs, plan.steps_per_epoch, plan.batch_size)
  update_rule = optimizer.make(config.optimizer, schedule, config.freeze)
  drawn = functools.partial(initial_state.variables, config, network, weights_key, info.image_shape, say)
  # A file that does not fit is refused before anything is written; one that is gone stops no run that has begun.
  begun = config.out is not None and (config.out / "checkpoints").exists()
  at_hand = [] if begun else [drawn()]

  def fresh_state() -> step.TrainState:
    variables = at_hand.pop() if at_hand else drawn()
    state = jax.jit(lambda variables: step.state_of(variables, update_rule))(variables)
    return distribution.place_state(state, specs, layout.mesh)

  if at_hand:  # To trace the network for its shapes takes as long as to draw it.
    shapes = jax.eval_shape(lambda variables: step.state_of(variables, update_rule), at_hand[0])
  else:
    shapes = jax.eval_shape(lambda key: step.create_state(network, update_rule, key, info.image_shape), weights_key)
  specs = step.specs_of(shapes, layout)
  weights = tuple(catalog.class_weights(dataset).tolist()) if config.data.class_weights else None
  objective = step.Objective(config.optimizer.label_smoothing, config.freeze_statistics, weights)
  train_step = step.make_train_step(network, update_rule, layout, config.accumulation, specs.params, objective)
  prepare = prepared(config.data, dataset)
  if config.data.mixup or config.data.cutmix:
    mix = step.make_mix(layout, config.data.mixup or 0.0, config.data.cutmix or 0.0)
    prepare = step.PrepareAndMix(prepare, mix)
  of_a_step = (train_step, prepare, layout, augmentation_key, dropout_key)
  if dataset.info.streamed:
    splits = _streamed(config, dataset, layout, plan, say)
    advance, order_of = streamed.make_advance(*of_a_step, specs), lambda number: number
  else:
    splits = on_devices(dataset, layout.mesh)
    advance = resident.make_advance(*of_a_step, plan.steps_per_dispatch, specs)
    # Compiled here, since compiling a step clears what JAX has traced.
    in_order = jax.jit(epoch_order, static_argnames="count")
    in_order = in_order.lower(order_key, jax.device_put(np.int32(0)), count=plan.train_images).compile()
    order_of = lambda number: distribution.replicate(in_order(order_key, jax.device_put(np.int32(number))), layout.mesh)
  rate = jax.jit(schedule)
  return loop.Assembly(
    plan=plan,
    num_classes=info.num_classes,
    splits=splits,
    advance=advance,
    evaluate=evaluator(config, dataset, config.evaluation_batch_size, layout),
    order_of=order_of,
    rate_of=lambda number: float(jax.device_get(rate(jax.device_put(np.int32(number))))),
    fresh_state=fresh_state,
    template=distribution.placed(shapes, specs, layout.mesh),
  )


def _streamed(
  config: RunConfig,
  dataset: catalog.Dataset,
  layout: distribution.Layout,
  plan: loop.Plan,
  say: Callable[[str], None],
) -> loop.Splits:
  if config.parallel == "pmap":
    raise ConfigurationError("parallel", "pmap", "each device would need all images of a batch; streams need jit")
  if config.steps_per_dispatch not in (None, 1):
    fits = "images that are read one by one come a step at a time; 1"
    raise ConfigurationError("steps-per-dispatch", config.steps_per_dispatch, fits)
  data, rows = config.data, streamed.own_rows(layout, plan.batch_size)
  how = stream.reading(data)
  training = stream.Training(
    dataset.train, config.seed, data.size, plan.batch_size, rows, data.augment, data.resize, how
  )
  bad = stream.Bad(dataset.train, data.bad_share, say, how)
  steps = plan.epochs * plan.steps_per_epoch
  train = streamed.Feed(training, steps, data.workers, streamed.placer(layout), bad.note)
  tested = functools.partial(batches_of, data=data, layout=layout, batch_size=config.evaluation_batch_size, say=say)
  return loop.Splits(train, tested(dataset.valid) if dataset.valid else None, tested(dataset.test))


def batches_of(
  source: sources.Source,
  data: DataConfig,
  layout: distribution.Layout,
  batch_size: int,
  say: Callable[[str], None],
  crops: int = 1,
) -> streamed.Batches:
  """The images of a source in batches, to test a network on.

  Args:
    source: of the images.
    data: with sizes, workers and share of bad images.
    layout: the devices that share a batch.
    batch_size: images at a time; rounded up to a multiple of the devices.
    say: receives a line for each image that cannot be read.
    crops: 1, or 10.
  """
  divisible = math.ceil(batch_size / len(layout.devices)) * len(layout.devices)
  rows = streamed.own_rows(dataclasses.replace(layout, groups=1), divisible)
  how = stream.reading(data)
  testing = stream.Testing(source, data.size, data.resize, crops, divisible, rows, how)
  bad = stream.Bad(source, data.bad_share, say, how)

  def batches() -> Iterator[streamed.Columns]:
    for columns in testing.batches(data.workers if len(source) >= _FEW else 0):
      bad.note(columns.pop("bad"))
      yield columns

  def blank() -> streamed.Columns:
    columns = testing.batch(testing.steps)
    del columns["bad"]
    return columns

  return streamed.Batches(batches, blank)


def plan_of(config: RunConfig, dataset: catalog.Dataset, layout: distribution.Layout) -> loop.Plan:
  """The epochs and steps of a resolved configuration's run.

  Raises:
    ConfigurationError: the batch does not fit the data or the devices.
  """
  by_default = 1 if dataset.info.streamed or jax.default_backend() == "cpu" else 32
  plan = loop.Plan(
    epochs=config.epochs,
    batch_size=config.batch_size,
    train_images=catalog.pictures(dataset.train),
    keep_last_batch=config.last_batch == "keep",
    steps_per_dispatch=config.steps_per_dispatch or by_default,
    evaluated_images=sum(catalog.pictures(split) for split in (dataset.valid, dataset.test) if split is not None),
  )
  if plan.batch_size > plan.train_images:
    fits = f"there are {plan.train_images} training images; at most that"
    raise ConfigurationError("batch-size", plan.batch_size, fits)
  layout.check("batch-size", plan.batch_size)
  layout.check_accumulation(config.accumulation)
  rest = plan.train_images % plan.batch_size
  if plan.keep_last_batch and rest:
    try:
      layout.check("last-batch", rest)
      check_images(config.model, min(dataset.info.image_shape[:2]), rest, layout.groups)
    except ConfigurationError as error:
      pictures = "1 image" if rest == 1 else f"{rest} images"
      fits = f"the last batch has {pictures}; {error.fits}; or drop it"
      raise ConfigurationError("last-batch", "keep", fits) from None
  return plan


def evaluator(
  config: RunConfig, dataset: catalog.Dataset, batch_size: int, layout: distribution.Layout, confusion: bool = False
) -> resident.Evaluate:
  """Measures a resolved configuration's network on a split, so many images at a time or a few more.

  It makes a confusion matrix where that is asked for, and of few classes anyway: their errors are recorded.
  """
  network, plain = build.build(config.model, dataset.info.num_classes), normalised(config.data, dataset)
  classes = dataset.info.num_classes if confusion or dataset.info.num_classes <= MOST_CLASSES else 0
  if dataset.info.streamed:
    return streamed.make_evaluate(step.make_logits(network), plain, layout, classes)
  return resident.make_evaluate(step.make_eval_step(network, classes > 0), plain, layout, batch_size, classes)


def on_devices(dataset: catalog.Dataset, mesh: jax.sharding.Mesh) -> loop.Splits:
  """Every device gets all images."""

  def put(split: catalog.Split | None) -> resident.DeviceSplit | None:
    return None if split is None else distribution.replicate(resident.DeviceSplit(*split), mesh)

  return loop.Splits(put(dataset.train), put(dataset.valid), put(dataset.test))
