"""Runs that differ in their seeds alone, trained in one program on one device; each is a run as any other."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import rich.console

from dn_jax import experiment
from dn_jax.config import datasets
from dn_jax.config.resolve import resolve, slug
from dn_jax.config.schema import RunConfig
from dn_jax.data import catalog
from dn_jax.data.augment import epoch_order
from dn_jax.distributed.layout import make_layout
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.models import build
from dn_jax.models.summary import layers
from dn_jax.runs import records as run_records
from dn_jax.runs.records import EpochRecord
from dn_jax.system.signals import Interrupted, Interruption
from dn_jax.training import initial_state, loop, optimizer, resident, side_by_side, step
from dn_jax.training.checkpoint import Checkpoints, Rhythm, written_to
from dn_jax.training.progress import ProgressDisplay
from dn_jax.training.setup import normalised, on_devices, plan_of, prepared


def configurations(config: RunConfig) -> list[RunConfig]:
  """The runs of a configuration with `seeds_per_device`, resolved: of its seed and the next ones.

  Raises:
    ConfigurationError: they cannot be trained side by side.
  """
  for flag, value, plain, why in (
    ("parallel", config.parallel, "jit", "takes all devices for one run"),
    ("shard-state", config.shard_state, False, "takes all devices for one run"),
    ("profile", config.profile, False, "is of one run"),
    ("tensorboard", config.tensorboard, False, "is of one run"),
    ("debug-nans", config.debug_nans, False, "is of one run"),
  ):
    if value != plain:
      raise ConfigurationError(flag, value, f"{why}; without --seeds-per-device")
  if datasets.info_of(config.data).streamed:
    raise ConfigurationError(
      "seeds-per-device", config.seeds_per_device, "pictures that are read one by one come for one run at a time; 1"
    )
  if jax.process_count() > 1 or len(make_layout(devices=config.devices).devices) > 1:
    raise ConfigurationError("seeds-per-device", config.seeds_per_device, "shares one device; give --devices 1")
  # Without --out, a resolved configuration has the folder of its own seed.
  around = config.out.parent if config.out.name == slug(config) else config.out
  if (around / "config.json").exists():
    raise ConfigurationError("out", around, "is one run's folder; give the folder around it")
  found = []
  for n in range(config.seeds_per_device):
    one = resolve(dataclasses.replace(config, seed=config.seed + n, seeds_per_device=1))
    found.append(dataclasses.replace(one, out=around / slug(one)))
  return found


def train(config: RunConfig, console: rich.console.Console) -> list[dict[str, Any]]:
  """Does all runs that are not done yet, from start or from the newest step that all of them have saved.

  Args:
    config: resolved, with `seeds_per_device`.
    console: where progress goes.

  Returns:
    Each run's summary, as in summary.json; `folder` besides.

  Raises:
    UserError: something a person can put right.
    Interrupted: SIGINT or SIGTERM came.
  """
  configs = configurations(config)
  finished = [run_records.finished(one.out, one) for one in configs]
  todo = [one for one, done in zip(configs, finished, strict=True) if not done]
  if todo:
    dataset = catalog.load(config.data)
    policy = experiment.with_remat_policy(todo[0], dataset, console, len(todo)).model.remat
    todo = [dataclasses.replace(one, model=dataclasses.replace(one.model, remat=policy)) for one in todo]
    done = iter(_train(todo, dataset, console))
    finished = [found or next(done) for found in finished]
  return [found | {"folder": str(one.out)} for found, one in zip(finished, configs, strict=True)]


class _Recorders:
  """The recorder of each run as one, for the loop."""

  def __init__(self, recorders: Sequence[experiment.Recorder], display: ProgressDisplay, interruption: Interruption):
    self._recorders, self._display, self._interruption = recorders, display, interruption

  def due(self, step: int) -> bool:
    return self._recorders[0].due(step)

  def stopping(self) -> bool:
    return self._interruption.asked()

  def save(self, step: int, state: Sequence[step.TrainState], totals: Sequence[step.Totals], begun: loop.Begun) -> None:
    for recorder, own, sums in zip(self._recorders, state, totals, strict=True):
      recorder.keep(step, own, begun, sums)
    if self._interruption.asked():
      raise Interrupted(f"stopped as asked, and saved after step {step:,}")

  def progress(self, epoch: int, pictures: int, loss: float, error: float) -> None:
    self._display.progress(resident, pictures, loss, error)

  def epoch(self, record: Sequence[EpochRecord], state: Sequence[step.TrainState]) -> None:
    for recorder, one, own in zip(self._recorders, record, state, strict=True):
      recorder.epoch(one, own)


def _train(
  configs: Sequence[RunConfig], dataset: catalog.Dataset, console: rich.console.Console
) -> list[dict[str, Any]]:
  first, info, count = configs[0], dataset.info, len(configs)
  layout = make_layout(first.statistics_groups, devices=first.devices)
  plan = plan_of(first, dataset, layout)
  network = build.build(first.model, info.num_classes)
  schedule = optimizer.learning_rate(first.optimizer, plan.epochs, plan.steps_per_epoch, plan.batch_size)
  sgd = optimizer.sgd(first.optimizer, schedule, first.freeze)
  objective = step.Objective(first.optimizer.label_smoothing, first.freeze_statistics)
  train_step = step.make_train_step(network, sgd, layout, first.accumulation, objective=objective)
  # As dn_jax.training.setup draws them for a run alone.
  keys = [jax.random.split(jax.random.key(config.seed), 4) for config in configs]
  of_runs = [resident.Keys(*each[2:]) for each in keys]
  advance = resident.make_advance_side_by_side(
    train_step, prepared(first, dataset), layout, of_runs, plan.steps_per_dispatch
  )
  evaluate = resident.make_evaluate(
    step.make_eval_step(network), normalised(first, dataset), lambda batch: batch, first.evaluation_batch_size
  )
  order_of = jax.jit(lambda key, number: epoch_order(key, number, plan.train_pictures))
  orders_of = lambda number: tuple(order_of(each[1], number) for each in keys)
  data = catalog.fingerprint(dataset)
  for config in configs:
    run_records.create(config.out, config, data)

  rows = layers(network, info.image_shape)
  parameters = sum(row.parameters for row in rows)
  console.print(
    f"{slug(first)} and {count - 1} more seeds side by side: {parameters:,} parameters each, "
    f"{plan.train_pictures:,} training pictures, {plan.epochs} epochs of {plan.steps_per_epoch} steps",
    highlight=False,
  )
  with contextlib.ExitStack() as stack:
    interruption = stack.enter_context(Interruption())
    kept = []
    for config in configs:
      stack.enter_context(written_to(config.out))
      kept.append(
        stack.enter_context(Checkpoints(config.out / run_records.CHECKPOINTS, config.checkpoint.keep, console.print))
      )

    def fresh(config: RunConfig, key: jax.Array) -> step.TrainState:
      variables = initial_state.variables(config, network, key, info.image_shape, console.print)
      return step.state_of(variables, sgd)

    begun, states, records, totals = _begin(configs, kept, [each[0] for each in keys], fresh, console)
    done = len(records[0])
    display = stack.enter_context(
      ProgressDisplay(console, plan.epochs, count * plan.steps_per_epoch * plan.batch_size, done)
    )
    recorders = [
      experiment.Recorder(
        config,
        own,
        checkpoints,
        display,
        None,
        interruption,
        Rhythm(
          config.checkpoint.every_steps, config.checkpoint.every_minutes, done * plan.steps_per_epoch + begun.steps
        ),
        None,
      )
      for config, own, checkpoints in zip(configs, records, kept, strict=True)
    ]
    side_by_side.run(
      states,
      plan,
      on_devices(dataset, layout.mesh),
      advance,
      evaluate,
      orders_of,
      schedule,
      _Recorders(recorders, display, interruption),
      done,
      begun,
      totals,
    )
    for recorder in recorders:
      recorder.draw()
  flops, summaries = sum(row.flops for row in rows), []
  for config, own, recorder in zip(configs, records, recorders, strict=True):
    run_records.write_records(config.out, own)
    beside = {"saving_seconds": recorder.saving, "seeds_beside": count - 1}
    summaries.append(experiment.summary_of(config, own, parameters, flops) | beside)
    run_records.write_summary(config.out, summaries[-1])
  return summaries


def _begin(
  configs: Sequence[RunConfig],
  kept: Sequence[Checkpoints],
  keys: Sequence[jax.Array],
  fresh: Callable[[RunConfig, jax.Array], step.TrainState],
  console: rich.console.Console,
) -> tuple[loop.Begun, Sequence[step.TrainState], list[list[EpochRecord]], Sequence[step.Totals] | None]:
  """Where the runs go on, in step: the epoch under way, their states, their records and that epoch's totals."""
  found = [checkpoints.steps() for checkpoints in kept]
  if not any(found):
    for config in configs:
      if lost := run_records.set_records_aside(config.out):
        console.print(f"{config.out}: no whole checkpoint; the records of {lost} epochs are in set-aside")
    states = tuple(fresh(config, key) for config, key in zip(configs, keys, strict=True))
    return loop.Begun(), states, [[] for _ in configs], None
  common = set.intersection(*map(set, found))
  if not common:
    newest = ", ".join(
      f"{config.out.name} {steps[0] if steps else 0}" for config, steps in zip(configs, found, strict=True)
    )
    raise UserError(
      f"these runs have no saved step in common (the newest: {newest}); each goes on alone, without --seeds-per-device"
    )
  at = max(common)
  template = fresh(configs[0], keys[0])
  restored = [
    checkpoints.restore(template, at, any_version=config.checkpoint.any_version)
    for config, checkpoints in zip(configs, kept, strict=True)
  ]
  console.print(f"going on from the checkpoints of step {at:,}")
  states, records, begun, totals = zip(*restored, strict=True)
  for config, own in zip(configs, records, strict=True):
    run_records.write_records(config.out, own)
  # The time that they took so far is the longest any of them took.
  longest = max(begun, key=lambda each: each.seconds)
  return longest, states, list(records), totals if longest.steps else None
