"""What holds for any depth, any sweep, any place to go on from, and any text from outside; examples by hypothesis."""

import dataclasses
import functools
import itertools
import json
import math
import operator
import pathlib
import tempfile
import typing

import fabricated
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dn_jax.config.check import check, to_dict
from dn_jax.config.nested import identity
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from dn_jax.data import stream
from dn_jax.errors import UserError
from dn_jax.models.densenet import blocks_of_depth
from dn_jax.runs import collection, records
from dn_jax.sweep.cells import axes_of, cells_of
from dn_jax.training.loop import Plan

# The same examples every time, so that a fault fails in every run or in none; no time limit on a busy machine.
settings.register_profile("tests", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("tests")


def depth_of(blocks: int, bottleneck: bool, layers: int) -> int:
  """The paper's count: the stem's convolution, one a transition, the classifier, and one or two a layer."""
  return 1 + (blocks - 1) + 1 + blocks * layers * (2 if bottleneck else 1)


@given(st.integers(-50, 1500), st.booleans(), st.integers(1, 6))
@example(4, False, 3)
@example(5, False, 3)
@example(9, True, 3)
def test_a_depth_fits_where_the_papers_count_gives_it_and_else_its_neighbours_are_named(depth, bottleneck, blocks):
  fitting = [depth_of(blocks, bottleneck, layers) for layers in range(1, 1600)]
  if depth in fitting:
    found = blocks_of_depth(depth, bottleneck, blocks)
    assert len(found) == blocks
    assert {depth_of(blocks, bottleneck, layers) for layers in found} == {depth}
    return
  with pytest.raises(ValueError, match="the nearest are") as refused:
    blocks_of_depth(depth, bottleneck, blocks)
  named = [int(word) for word in str(refused.value).rpartition("the nearest are ")[2].split(" and ")]
  below = [each for each in fitting if each < depth]
  expected = [below[-1], fitting[len(below)]] if below else fitting[:2]
  assert named == expected


POOL = {
  "model.depth": ["10", "16", "22", "40"],
  "model.growth-rate": ["4", "6", "12"],
  "data.augment": ["True", "False"],
  "optimizer.weight-decay": ["0", "1e-4", "0.0001", "0.0"],
}


@settings(max_examples=60)
@given(
  st.fixed_dictionaries(
    {}, optional={flag: st.lists(st.sampled_from(values), min_size=1, max_size=4) for flag, values in POOL.items()}
  ),
  st.lists(st.integers(0, 5), min_size=1, max_size=3),
)
def test_a_sweep_is_the_product_of_its_values_each_run_once_and_first_seeds_first(values, seeds):
  words = ["--data.name", "digits", "--epochs", "2", "--seed", ",".join(map(str, seeds))]
  for flag, texts in values.items():
    words += [f"--{flag}", ",".join(texts)]
  cells = cells_of(words)

  def meant(flag, text):
    return text == "True" if flag == "data.augment" else float(text)

  def has(cell, flag):
    part, _, name = flag.partition(".")
    return getattr(getattr(cell.config, part), name.replace("-", "_"))

  wanted = set(itertools.product(set(seeds), *({meant(flag, text) for text in values[flag]} for flag in values)))
  found = [(cell.config.seed, *(has(cell, flag) for flag in values)) for cell in cells]
  assert set(found) == wanted
  assert len(found) == len(wanted) == len({cell.key for cell in cells})
  order = list(dict.fromkeys(seeds))
  assert [order.index(seed) for seed, *_ in found] == sorted(order.index(seed) for seed, *_ in found)
  # A run's own flags say what it is.
  (again,) = cells_of(cells[-1].flags)
  assert again.config == cells[-1].config


plans = st.builds(
  Plan,
  epochs=st.integers(1, 3),
  batch_size=st.integers(1, 9),
  train_images=st.integers(9, 60),
  keep_last_batch=st.booleans(),
  steps_per_dispatch=st.integers(1, 7),
)


@given(plans, st.data())
def test_an_epoch_takes_every_image_once_from_wherever_it_goes_on(plan, data):
  done = data.draw(st.integers(0, plan.steps_per_epoch))

  def taken(done):
    """The images of each step, by their places in the epoch's order."""
    return [
      range(first + n * size, first + (n + 1) * size)
      for first, steps, size in plan.dispatches(done)
      for n in range(steps)
    ]

  everything = taken(0)
  assert len(everything) == plan.steps_per_epoch
  assert list(itertools.chain(*everything)) == list(range(plan.images_per_epoch))
  rest = plan.train_images - plan.images_per_epoch
  assert rest == (0 if plan.keep_last_batch else plan.train_images % plan.batch_size)
  assert taken(done) == everything[done:]
  assert all(1 <= steps <= plan.steps_per_dispatch for _, steps, _ in plan.dispatches(done))


class Numbers:
  """A source whose images are not looked at."""

  def __init__(self, count):
    self._count = count

  def __len__(self):
    return self._count


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.data())
def test_a_stream_opened_at_any_step_gives_what_an_undisturbed_one_does(seed, count, batch_size, processes, data):
  count = max(count, batch_size * processes)

  def of(rows):
    return stream.Training(Numbers(count), seed, 8, batch_size * processes, rows, True, 8)

  def numbers(training, step):
    return [training.picture(step, row)["number"] for row in training.rows]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stream, "_read", lambda source, number, how: (number, 0))
    patch.setattr(stream.image_files, "random_area_crop", lambda whole, size, rng, interpolation: whole)
    everything = of(tuple(range(batch_size * processes)))
    per_epoch = everything.steps_per_epoch
    steps = [numbers(everything, step) for step in range(2 * per_epoch)]
    epochs = [list(itertools.chain(*steps[:per_epoch])), list(itertools.chain(*steps[per_epoch:]))]
    for epoch, taken in enumerate(epochs):
      assert taken == stream.order(seed, epoch, count)[: per_epoch * everything.batch_size].tolist()
      assert len(set(taken)) == len(taken)
    # Processes that share a batch take its rows, at whatever step they open the stream.
    step = data.draw(st.integers(0, 2 * per_epoch - 1))
    parts = [range(first, first + batch_size) for first in range(0, batch_size * processes, batch_size)]
    together = list(itertools.chain(*(numbers(of(tuple(rows)), step) for rows in parts)))
    assert together == steps[step]


def attempt(read, what):
  """What is read, or the words of the refusal; anything else that is raised is a fault."""
  try:
    return read(what), ""
  except UserError as error:
    return None, str(error)


json_values = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
  max_leaves=6,
)


def leaves(record, path=()):
  """The places of a nested record."""
  for name, value in record.items():
    yield (*path, name)
    if isinstance(value, dict):
      yield from leaves(value, (*path, name))


def at(record, path):
  return functools.reduce(operator.getitem, path, record)


def changed(record, path, value):
  head, *rest = path
  return record | {head: changed(record[head], rest, value) if rest else value}


CONFIG = to_dict(fabricated.config())
words_of_paths = st.characters(exclude_characters="/\0.", exclude_categories=["Cs"])


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(sorted(leaves(CONFIG))), json_values), min_size=1, max_size=2))
def test_a_changed_configuration_is_refused_in_a_line_or_is_a_run_that_can_be(changes):
  record = CONFIG
  for path, value in changes:
    try:
      record = changed(record, path, value)
    except (KeyError, TypeError):  # The first change took the second's place away.
      continue
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "config.json").write_text(json.dumps(record))
    found, refused = attempt(collection.read_run, folder)
  if refused:
    assert refused.startswith(str(folder))
    assert "\n" not in refused
  else:
    assert identity(resolve(found.config)) == identity(found.config)


@settings(max_examples=150)
@given(st.sampled_from([None, *fabricated.record(1, 0.3)]), json_values, st.binary(max_size=40))
def test_a_changed_or_cut_record_of_an_epoch_is_refused_in_a_line_or_read_as_it_stands(field, value, tail):
  record = fabricated.record(1, 0.3)
  line = json.dumps(record | {field: value}) if field else json.dumps(record)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "metrics.jsonl").write_bytes(f"{line}\n".encode() + tail)
    found, refused = attempt(records.read_records, folder)
  if refused:
    assert refused.startswith(f"{folder}/metrics.jsonl: cannot be read")
    return
  assert not tail.strip()
  (found,) = found
  if field:
    assert getattr(found, field) == value
    assert isinstance(value, bool) <= isinstance(getattr(found, field), bool)


KINDS = {
  "config.json": records.read_config,
  "data.json": records.read_data,
  "summary.json": records.read_summary,
  "failure.json": records.read_failure,
  "metrics.jsonl": records.read_records,
}
WHOLE = {
  "config.json": CONFIG,
  "data.json": fabricated.DATA,
  "summary.json": fabricated.summary(fabricated.config(), 5.0),
  "failure.json": {"error": "no luck", "exit_code": 1, "at": "now"},
  "metrics.jsonl": fabricated.record(1, 0.3),
}


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_bytes_and_any_json_are_read_or_refused_in_a_line(name, data):
  nested = st.integers(1, 2000).map(lambda depth: b'{"model":' * depth)
  whole = json.dumps(WHOLE[name]).encode()
  cut = st.tuples(st.integers(0, len(whole)), st.binary(max_size=3)).map(lambda cut: whole[: cut[0]] + cut[1])
  content = data.draw(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()) | nested | cut)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / name
    path.write_bytes(content)
    found, refused = attempt(KINDS[name], path.parent)
  assert found is None or not refused
  if refused:
    assert refused.startswith(f"{path}: cannot be read (")
    assert len(refused.removeprefix(str(path))) < 240
    assert len(refused.splitlines()) == 1


@settings(max_examples=200)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_record_with_another_value_is_read_as_it_stands_or_refused_in_a_line(name, data):
  path = data.draw(
    st.sampled_from([path for path in leaves(WHOLE[name]) if not isinstance(at(WHOLE[name], path), dict)])
  )
  value = data.draw(json_values)
  record = changed(WHOLE[name], path, value)
  with tempfile.TemporaryDirectory() as folder:
    (pathlib.Path(folder) / name).write_text(json.dumps(record))
    found, refused = attempt(KINDS[name], pathlib.Path(folder))
  if refused:
    assert len(refused.splitlines()) == 1
    assert path[0] in refused
    return
  found = at(to_dict(found[0] if name == "metrics.jsonl" else found), path)
  assert found == value or path[-1] in ("dir", "weights", "out")  # pathlib writes a path in its own way.


@settings(max_examples=100)
@given(
  st.builds(
    RunConfig,
    st.builds(DataConfig, st.just("digits"), augment=st.booleans(), validation=st.none() | st.integers(0, 100)),
    st.builds(
      ModelConfig,
      blocks=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
      growth_rate=st.integers(1, 24),
      compression=st.none() | st.floats(0.5, 1.0),
      dropout=st.none() | st.floats(0.0, 0.9),
      epsilon=st.floats(1e-8, 0.1),
    ),
    st.builds(
      OptimizerConfig,
      learning_rate=st.none() | st.floats(1e-30, 1e30),
      drops=st.none() | st.lists(st.floats(0.01, 1.0), max_size=3).map(tuple),
      warmup_epochs=st.none() | st.floats(0.0, 1.0),
      decay=st.sampled_from([None, "all", "kernels"]),
    ),
    seed=st.integers(0, 2**32 - 1),
    epochs=st.none() | st.integers(1, 1000),
    batch_size=st.none() | st.integers(2, 1000),
    weights=st.none() | st.text(words_of_paths, min_size=1, max_size=8).map(pathlib.Path),
  )
)
def test_a_resolved_configuration_comes_back_from_its_file_as_it_was(config):
  config = resolve(config)
  with tempfile.TemporaryDirectory() as folder:
    records.claim(pathlib.Path(folder), config)
    again = records.read_config(pathlib.Path(folder))
  assert again == config
  assert identity(again) == identity(config)
  assert collection.key(again) == collection.key(config)
  assert repr(resolve(again)) == repr(again)


def bounded():
  """Every number of a configuration: its flag, type, and the bounds that its annotation says."""

  def of(kind, prefix=""):
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
      if dataclasses.is_dataclass(hint):
        yield from of(hint, f"{prefix}{name}.")
        continue
      parts = [hint]
      for part in parts:
        parts += [each for each in typing.get_args(part) if each is not type(None)]
      number = next((kind for kind in (int, float) if kind in parts), None)
      if number and tuple not in map(typing.get_origin, parts):
        yield prefix + name, number, [each for each in parts if type(each).__module__ == "annotated_types"]

  return list(of(RunConfig))


@settings(max_examples=300)
@given(st.sampled_from(bounded()), st.data())
def test_a_number_is_taken_exactly_within_its_bounds(field, data):
  flag, number, bounds = field
  assert bounds, flag
  ends = [value for bound in bounds for value in vars_of(bound).values() if isinstance(value, (int, float))]
  near = st.sampled_from(ends).flatmap(
    lambda end: st.integers(-2, 2).map(lambda step: number(end) + step * (1 if number is int else 1e-6))
  )
  value = data.draw(near | (st.integers() if number is int else st.floats()))
  fits = math.isfinite(value) and all(
    {"Ge": value >= end, "Gt": value > end, "Le": value <= end, "Lt": value < end}[type(bound).__name__]
    for bound in bounds
    if type(bound).__name__ != "DocInfo"
    for end in vars_of(bound).values()
  )
  _, refused = attempt(check, changed_config(RunConfig(), flag, value))
  assert bool(refused) != fits
  if refused:
    assert refused.startswith(f"--{flag.replace('_', '-')} {value}: ")


def vars_of(bound):
  return {field.name: getattr(bound, field.name) for field in dataclasses.fields(bound)}


def changed_config(config, flag, value):
  head, _, rest = flag.partition(".")
  return dataclasses.replace(config, **{head: changed_config(getattr(config, head), rest, value) if rest else value})


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
flags = st.sampled_from(["--model.depth", "--seed", "--data.augment", "--model.blocks", "--optimizer.drops", "--out"])


@given(st.lists(flags | words | words.map("--".__add__), max_size=5))
def test_any_words_are_flags_with_values_or_are_refused(tokens):
  found, refused = attempt(axes_of, tokens)
  if not refused:
    assert sum(word.startswith("--") for word in tokens) == len(found)
    assert all(values and () not in values for values in found.values())
