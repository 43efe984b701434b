"""Nothing is traced or compiled while an epoch's or an evaluation's time is taken."""

import dataclasses

import jax
import pytest
from photographs import halves

from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.data import catalog
from dn_jax.training import loop, setup


class Watcher:
  """Of a run that compiles at its start alone."""

  def __init__(self):
    self.records, self.told = [], []

  def compiled(self, what, seconds):
    self.told.append((len(self.records), what, seconds))

  def progress(self, epoch, images, seconds, loss, error):
    pass

  def epoch(self, record, state):
    self.records.append(record)

  def due(self, step):
    return False

  def stopping(self):
    return False


@pytest.fixture
def compiling(monkeypatch):
  """(what was under way, JAX's event, seconds) of everything that is traced, lowered or compiled."""
  under_way, found = ["before"], []

  def within(name):
    function = getattr(loop, name)

    def called(*arguments):
      under_way.append(name)
      try:
        return function(*arguments)
      finally:
        under_way.pop()

    monkeypatch.setattr(loop, name, called)

  def note(event, seconds, **_):
    if event.startswith("/jax/core/compile/"):
      found.append((under_way[-1], event, seconds))

  for name in ("compile_steps", "compile_evaluation", "train_epoch", "evaluate"):
    within(name)
  jax.clear_caches()  # Whatever another test has compiled.
  jax.monitoring.register_event_duration_secs_listener(note)
  yield found
  jax.monitoring.unregister_event_duration_listener(note)


MODEL = ModelConfig(blocks=(1,), growth_rate=4, bottleneck=False, remat="none")
DIGITS = RunConfig(DataConfig("digits", validation=100), MODEL, epochs=2, batch_size=256)


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    {"last_batch": "keep", "steps_per_dispatch": 3},  # 1197 = 4 * 256 + 173
    {"parallel": "pmap"},
    {"debug_nans": True},
    pytest.param({"data": DataConfig("folder", size=16, augment=True), "batch_size": 16}, id="streamed"),
  ],
  ids=str,
)
def test_what_runs_in_an_epoch_or_an_evaluation_is_compiled_before_it(changes, compiling, tmp_path):
  config = dataclasses.replace(DIGITS, **changes)
  if config.data.name == "folder":
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=halves(tmp_path)))
  config, watcher = resolve(config), Watcher()
  with jax.debug_nans(config.debug_nans):
    parts = setup.assemble(config, catalog.load(config.data))
    loop.run(parts, loop.Position(parts.fresh_state()), watcher)
  if parts.feed:
    parts.feed.close()
  assert [each for each in compiling if each[0] in ("train_epoch", "evaluate")] == []
  # Each is lowered and compiled there.
  taken = lambda within: sum(spent for name, event, spent in compiling if name == within and "trace" not in event)
  (step_told, step), (evaluation_told, evaluation) = [(each[:2], each[2]) for each in watcher.told]
  assert (step_told, evaluation_told) == ((0, "training step"), (0, "evaluation"))
  assert step > taken("compile_steps") > 0
  assert evaluation > taken("compile_evaluation") > 0
  assert [record.compile_seconds for record in watcher.records] == [step + evaluation, None]
  assert all(0 < record.waiting_seconds < record.seconds for record in watcher.records if parts.feed)
