"""While a run is under way, nothing moves between host and device that is not said."""

import dataclasses
import functools
from unittest import mock

import jax
import numpy as np
import pytest
from jax._src.array import ArrayImpl

from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.data import catalog
from dn_jax.system import kept_programs
from dn_jax.system.compilation import Compilable
from dn_jax.training import loop, resident, setup


class Watcher:
  def __init__(self):
    self.records, self.saved = [], 0

  def compiled(self, what, seconds):
    pass

  def progress(self, epoch, images, seconds, loss, error):
    pass

  def epoch(self, record, state):
    self.records.append(record)

  def due(self, step):
    return step == 7

  def stopping(self):
    return False

  def save(self, step, state, totals, begun):
    self.saved += 1


@pytest.fixture(scope="module")
def parts():
  """Of two epochs on digits, with everything that is drawn."""
  model = ModelConfig(blocks=(1,), growth_rate=4, bottleneck=False, dropout=0.1, remat="none")
  data = DataConfig("digits", augment=True, validation=100)
  config = resolve(RunConfig(data, model, epochs=2, batch_size=128))
  return setup.assemble(config, catalog.load(config.data))


def read_of_devices():
  """Counts what is read of arrays on the device other than by `jax.device_get`, which a CPU's guard lets pass."""
  found, within = [], []
  value, get = ArrayImpl._value, jax.device_get

  def said(tree):
    within.append(tree)
    try:
      return get(tree)
    finally:
      within.pop()

  def read(array):
    if not within:
      found.append(array.shape)
    return value.fget(array)

  def converted(given, *arguments, convert, **options):
    if isinstance(given, jax.Array) and not within:
      found.append(given.shape)
    return convert(given, *arguments, **options)

  return found, [
    mock.patch.object(jax, "device_get", said),
    mock.patch.object(ArrayImpl, "_value", property(read)),
    *(
      mock.patch.object(np, name, functools.partial(converted, convert=getattr(np, name)))
      for name in ("asarray", "array")
    ),
  ]


@pytest.mark.slow
def test_a_run_copies_nothing_that_is_not_said_in_either_direction(parts, monkeypatch):
  monkeypatch.setattr(loop, "_PROGRESS_EVERY", 0.0)  # Told after each command.
  position, watcher = loop.Position(parts.fresh_state()), Watcher()
  found, patches = read_of_devices()
  for patch in patches:
    patch.start()
  try:
    np.asarray(parts.splits.test.labels)
    float(parts.splits.test.labels.sum())
    assert len(found) >= 2  # It sees what it is to see.
    found.clear()
    loop.run(parts, position, watcher)
  finally:
    for patch in patches:
      patch.stop()
  assert found == []
  assert [record.epoch for record in watcher.records] == [1, 2]
  assert watcher.saved == 1


@pytest.mark.parametrize("where", ["advance", "evaluate", "order_of"])
def test_a_number_of_the_host_that_slips_into_a_program_ends_the_run(parts, where):
  add = jax.jit(lambda x, n: x + n)
  labels = parts.splits.test.labels

  def slips(*arguments, **options):
    add(labels, 1)
    raise AssertionError("it was let in")

  whole = getattr(parts, where)
  changed = Compilable(slips, whole.compile) if isinstance(whole, Compilable) else slips
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    loop.run(dataclasses.replace(parts, **{where: changed}), loop.Position(parts.fresh_state()), Watcher())


@pytest.mark.slow
def test_a_program_is_the_same_for_every_seed(monkeypatch):
  texts, keys = [], []

  def compiled(layout, function, arguments, like, donate, in_specs, out_specs):
    program = layout.everywhere(function, donate, in_specs, out_specs)
    texts.append(program.lower(*arguments).as_text())
    made_of = (function, layout, in_specs, out_specs)
    keys.append(kept_programs.Program(made_of, arguments, like, donate, layout.mesh).key)
    return program

  monkeypatch.setattr("dn_jax.distributed.layout.Layout.compiled", compiled)
  for seed in (0, 1):
    config = RunConfig(
      DataConfig("digits", augment=True), ModelConfig(blocks=(1,), growth_rate=4, dropout=0.1), seed=seed
    )
    config = resolve(config)
    parts = setup.assemble(config, catalog.load(config.data))
    state, totals = parts.fresh_state(), resident.Totals.zero_beside(parts.splits.train.labels)
    parts.advance(state, totals, parts.splits.train, parts.order_of(0), 0, 1, batch_size=64)
  assert texts[0] == texts[1]
  # So another seed finds it where the first one kept it.
  assert keys[0] == keys[1]
  assert keys[0] is not None
