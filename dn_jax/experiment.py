"""One run, from its configuration to its summary: builds step and data, drives the loop, keeps the records."""

import contextlib
import dataclasses
import functools
import math
import platform
import time
from collections.abc import Sequence
from typing import Any

import jax
import rich.console

from dn_jax.config import protocol, size
from dn_jax.config.check import to_dict
from dn_jax.config.nested import flags
from dn_jax.config.network import name_of
from dn_jax.config.resolve import data_name, slug
from dn_jax.config.schema import RunConfig
from dn_jax.data import catalog
from dn_jax.distributed import processes
from dn_jax.distributed.layout import Layout, make_layout
from dn_jax.errors import ConfigurationError, shown
from dn_jax.models import build
from dn_jax.models.summary import layers
from dn_jax.planner import policy as remat_policy
from dn_jax.planner import targets
from dn_jax.planner.plan import Question
from dn_jax.runs import place, sinks, start
from dn_jax.runs import records as run_records
from dn_jax.runs.contents import MOST_CLASSES, EpochRecord, class_errors
from dn_jax.runs.sinks import Sink
from dn_jax.system import folders, provenance
from dn_jax.system.signals import Interrupted, Interruption
from dn_jax.training import loop, step
from dn_jax.training.checkpoint import Checkpoints, Rhythm, written_to
from dn_jax.training.position import check as check_position
from dn_jax.training.progress import Profile, ProgressDisplay
from dn_jax.training.setup import assemble

# Seconds between two drawings of the curves during a run.
_DRAW_EVERY = 60.0


@dataclasses.dataclass
class Recorder:
  """Records a run as the loop reports it; see `dn_jax.training.loop.Watcher`.

  records: of all epochs so far
  sinks:   take them too
  saving:  seconds that saving held the run up
  """

  config: RunConfig
  records: list[EpochRecord]
  checkpoints: Checkpoints
  display: ProgressDisplay
  interruption: Interruption
  rhythm: Rhythm
  sinks: Sequence[Sink] = ()
  profile: Profile | None = None
  saving: float = 0.0
  _drawn: float = dataclasses.field(default_factory=time.monotonic, init=False)

  def due(self, step: int) -> bool:
    if self.profile:
      self.profile.after_command()
    return self.rhythm.due(step) | self.stopping()

  def stopping(self) -> bool:
    return self.interruption.asked()

  def save(self, step: int, state: step.TrainState, totals: step.Totals, begun: loop.Begun) -> None:
    self.keep(step, state, begun, totals)
    if self.interruption.asked():
      raise Interrupted(f"stopped as asked, and saved after step {step:,}")

  def keep(
    self, step: int, state: step.TrainState, begun: loop.Begun = loop.Begun(), totals: step.Totals | None = None
  ) -> None:
    """Writes a checkpoint, and counts its time."""
    begin = time.perf_counter()
    self.checkpoints.save(step, state, self.records, begun, totals)
    self.saving += time.perf_counter() - begin
    self.rhythm.saved(step)

  def compiled(self, what: str, seconds: float) -> None:
    self.display.compiled(what, seconds)

  def progress(self, epoch: int, images: int, seconds: float, loss: float, error: float) -> None:
    self.display.progress(epoch, images, seconds, loss, error)

  def epoch(self, record: EpochRecord, state: step.TrainState) -> None:
    self.records.append(record)
    if processes.is_first():
      self.checkpoints.check_there()
      run_records.write_records(self.config.out, self.records)
    self.display.epoch(record)
    for sink in self.sinks:
      sink.epoch(record)
    is_best = record.valid_error is not None and run_records.best_record(self.records) is record
    if is_best or record.epoch == self.config.epochs or record.epoch % self.config.checkpoint.every_epochs == 0:
      self.keep(record.step, state)
    if processes.is_first() and time.monotonic() - self._drawn > _DRAW_EVERY:
      self.draw()

  def draw(self) -> None:
    from dn_jax.report import curves, words  # With matplotlib, for which a first step need not wait.

    curves.draw(self.records, words.run(self.config), self.config.out / run_records.CURVES)
    self._drawn = time.monotonic()


def train(config: RunConfig, console: rich.console.Console) -> dict[str, Any]:
  """Carries a run from its start, or from its newest whole checkpoint, to its end.

  Args:
    config: as the person asked for it.
    console: shows progress.

  Returns:
    The run's summary, as in summary.json; `folder` besides.

  Raises:
    UserError: something a person can put right.
    Interrupted: SIGINT or SIGTERM came.
  """
  # Several processes end together or not at all. A single one has nothing to save before it trains, and may just end.
  early = Interruption() if jax.process_count() > 1 else None
  with processes.ending_together(Interrupted, loop.NotFiniteError), early or contextlib.nullcontext():
    return _train(config, console, early)


def _train(config: RunConfig, console: rich.console.Console, interruption: Interruption | None) -> dict[str, Any]:
  config = start.resolved(config, functools.partial(console.print, markup=False))  # It says names of files.
  if said := protocol.of_streamed(config):
    console.print(said, highlight=False)
  folder = config.out
  if config.profile and folders.is_bucket(folder):
    raise ConfigurationError("profile", True, "is written to a folder of this machine, and --out is a bucket's")
  processes.agree(_program(config))
  groups, devices = config.statistics_groups, config.devices
  layout = processes.together(lambda: make_layout(groups, config.parallel, devices=devices))
  if jax.process_count() > 1:
    layout.connect()
  processes.by_first(lambda: sinks.check(config))
  if found := _finished(config, console):
    return found
  with contextlib.ExitStack() as stack:
    # Before data is loaded: whoever is second hears of it at once.
    processes.by_first(lambda: stack.enter_context(place.held(folder, config)))
    return _finished(config, console) or _begin(config, layout, console, interruption)


def _finished(config: RunConfig, console: rich.console.Console) -> dict[str, Any] | None:
  """The summary of a run that is finished, else None."""
  found = processes.by_first(lambda: (found := run_records.finished(config.out, config)) and to_dict(found))
  if not found:
    return None
  console.print(f"{shown(config.out)}: this run is finished")
  return found | {"folder": str(config.out)}


def _begin(
  config: RunConfig, layout: Layout, console: rich.console.Console, interruption: Interruption | None
) -> dict[str, Any]:
  """Loads data, and trains in a folder that nobody else has."""
  folder = config.out
  rule = processes.by_first(lambda: run_records.split_rule(folder))
  dataset = processes.together(lambda: catalog.load(config.data, rule))
  for line in dataset.said:
    console.print(line, markup=False, highlight=False, soft_wrap=True, emoji=False)
  if config.report == "best" and dataset.valid is None:
    raise ConfigurationError("report", config.report, "needs held-out images; give --data.validation")
  data = run_records.Data(**catalog.fingerprint(dataset))
  for line in catalog.remarks(dataset):
    console.print(line, markup=False, highlight=False)
  # One process may have read its makers' files where another read what TFDS prepared: the images are the same.
  processes.agree({"data": to_dict(dataclasses.replace(data, unverified=None))})
  config = with_remat_policy(config, dataset, console)
  if said := remat_policy.empty_lanes(config.batch_size, layout.devices, config.accumulation):
    console.print(said, highlight=False)
  parts = processes.together(lambda: assemble(config, dataset, functools.partial(console.print, markup=False)))
  processes.by_first(lambda: run_records.create(folder, config, data))

  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parts.template.params))
  console.print(
    f"{slug(config)}: {parameters:,} parameters, {parts.plan.train_images:,} training images, "
    f"{parts.plan.epochs} epochs of {parts.plan.steps_per_epoch} steps, on {_devices(config)}",
    highlight=False,
    soft_wrap=True,
  )
  with contextlib.ExitStack() as stack:
    opened: list[Sink] = []
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    processes.by_first(lambda: opened.extend(stack.enter_context(sinks.opened(config, say))))
    with (
      written_to(folder),
      contextlib.nullcontext(interruption) if interruption else Interruption() as interruption,
      Checkpoints(folder / run_records.CHECKPOINTS, config.checkpoint.keep, console.print) as checkpoints,
      # Inside, since closing the checkpoints waits for all processes.
      processes.ending_together(Interrupted, loop.NotFiniteError),
      written_to(folder),
    ):
      records, saving = _drive(config, parts, checkpoints, console, interruption, opened)
    network = build.build(config.model, dataset.info.num_classes)
    few = dataset.info.num_classes <= MOST_CLASSES
    names = processes.by_first(
      lambda: data.names or (catalog.class_names(config.data, dataset.info.num_classes) if few else None)
    )
    flops = sum(row.flops for row in layers(network, dataset.info.image_shape))
    summary = _summary(config, records, parameters, flops, names, dataset.info.num_classes)
    summary = dataclasses.replace(summary, saving_seconds=saving)
    with written_to(folder):
      if processes.is_first():
        run_records.write_summary(folder, summary)
    for sink in opened:
      sink.end(summary, folder / run_records.CURVES)
  return to_dict(summary) | {"folder": str(folder)}


def _program(config: RunConfig) -> dict[str, Any]:
  """The flags that all processes of a run share: all but their own ids, addresses and data folders."""
  own = ("data.dir", "distributed.process-id", "distributed.coordinator")
  return {flag: value for flag, value in flags(config).items() if flag not in own}


def with_remat_policy(config: RunConfig, dataset: catalog.Dataset, console: rich.console.Console) -> RunConfig:
  """Decides a policy that is open or `auto`: from the run's record if it has begun, else by the planner.

  Policies round differently, so a run that goes on keeps the one it began with.
  """
  asked = config.model.remat
  if asked not in (None, "auto"):
    return config

  def decide() -> tuple[str, str]:
    if (config.out / "config.json").exists():
      recorded = run_records.read_config(config.out).model.remat
      if recorded not in (None, "auto"):  # A sweep writes the configuration down before the run has begun.
        return recorded, "as the run began"
    info = dataset.info
    splits = [split for split in dataset[1:] if isinstance(split, catalog.Split)]
    beside = sum(split.images.nbytes + split.labels.nbytes for split in splits)
    beside += size.beyond_momentum(config, info.image_shape[2], info.num_classes)
    if asked == "auto":
      console.print("remat auto: asking the compiler what a step takes", highlight=False)
    question = Question(
      config.model, info.num_classes, info.image_shape, config.batch_size, config.statistics_groups, config.accumulation
    )
    return remat_policy.settle(question, targets.here(config.devices), beside)

  # All processes ask, since a GPU's compiler may divide its work among them; the first one's answer counts.
  found = processes.together(decide)
  policy, why = processes.by_first(lambda: found)
  if asked == "auto" or jax.default_backend() != "cpu":
    console.print(f"remat {asked or 'unless told'}: {policy} ({why})", highlight=False)
  return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=policy))


def _drive(
  config: RunConfig,
  parts: loop.Assembly,
  checkpoints: Checkpoints,
  console: rich.console.Console,
  interruption: Interruption,
  opened: Sequence[Sink],
) -> tuple[list[EpochRecord], float]:
  """Trains from the newest whole checkpoint, or from the start, to the end.

  Returns:
    All records of the run, and the seconds that saving held it up since this start.
  """
  folder, plan = config.out, parts.plan
  if checkpoints.steps():
    state, records, begun, totals = processes.together(
      lambda: checkpoints.restore(parts.template, any_version=config.checkpoint.any_version)
    )
    position, step_done = loop.Position(state, len(records), begun, totals), int(jax.device_get(state.step))
    check_position(folder / run_records.CHECKPOINTS / str(checkpoints.steps()[0]), step_done, records, begun, plan)
    within = f" and {begun.steps:,} step{'s' * (begun.steps > 1)}" if begun.steps else ""
    console.print(f"going on after epoch {len(records)}{within}, from the checkpoint of step {step_done:,}")
    if processes.is_first():
      run_records.write_records(folder, records)
  else:
    if lost := processes.by_first(lambda: run_records.set_records_aside(folder)):
      console.print(
        f"no whole checkpoint: starting again; the records of {lost} epochs are in {shown(folder)}/set-aside"
      )
    position, records, step_done = loop.Position(parts.fresh_state()), [], 0
  with ProgressDisplay(console, plan, records) as display:
    for sink in opened:
      sink.resume(records)
    profile = Profile(folder / "profile") if config.profile and processes.is_first() else None
    rhythm = Rhythm(config.checkpoint.every_steps, config.checkpoint.every_minutes, step_done)
    recorder = Recorder(config, records, checkpoints, display, interruption, rhythm, opened, profile)
    try:
      with jax.debug_nans(config.debug_nans):
        loop.run(parts, position, recorder)
    finally:
      if profile:
        profile.close()
      if parts.feed:
        parts.feed.close()
  if processes.is_first():
    recorder.draw()
    run_records.write_records(folder, records)
  return records, recorder.saving


def _summary(
  config: RunConfig,
  records: Sequence[EpochRecord],
  parameters: int,
  flops: int,
  names: Sequence[str] | None,
  classes: int,
) -> run_records.Summary:
  reported = run_records.best_record(records) if config.report == "best" else records[-1]
  errors, top5 = reported.test_class_errors, reported.test_top5_error
  if classes <= 5:  # An earlier version recorded it.
    top5 = None
  seconds = sum(record.seconds for record in records)
  images = sum(record.seconds * record.images_per_second for record in records)
  return run_records.Summary(
    test_error_percent=100 * reported.test_error,
    reported=config.report,
    reported_epoch=reported.epoch,
    valid_error_percent=None if reported.valid_error is None else 100 * reported.valid_error,
    parameters=parameters,
    flops=flops,
    epochs=len(records),
    seconds=seconds,
    evaluation_seconds=sum(record.evaluation_seconds for record in records),
    images_per_second=images / seconds,
    network=name_of(config.model),
    data=data_name(config),
    seed=config.seed,
    remat=config.model.remat,
    devices=_devices(config),
    python=platform.python_version(),
    versions=provenance.versions(),
    commit=provenance.commit(),
    compile_seconds=sum(record.compile_seconds or 0 for record in records) or None,
    test_top5_error_percent=None if top5 is None else 100 * top5,
    test_class_errors_percent=None if errors is None else class_errors(errors, names),
  )


def _devices(config: RunConfig) -> str:
  devices = jax.devices()[: config.devices]
  return f"{len(devices)} x {devices[0].device_kind}"
