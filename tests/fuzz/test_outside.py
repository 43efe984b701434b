"""What comes from outside is accepted with values that make sense, or refused in one line."""

import contextlib
import dataclasses
import functools
import json
import math
import shutil

import fabricated
import h5py
import hostile
import numpy as np
import pytest
import safetensors.numpy
from conftest import RECORDS
from hostile import COUNTS, SEED, VALUES, cases, mutated, numbers, outcome
from keras_written import write
from torch_files import Name, Saved, Storage, view

from dn_jax import weights
from dn_jax.commands.flags import parse
from dn_jax.config import keras_file, saved, size, weights_file
from dn_jax.config.about import About, AboutInput
from dn_jax.config.check import to_dict
from dn_jax.config.nested import flag_types, identity
from dn_jax.config.network import complete_model
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.data import catalog
from dn_jax.data import tfds as tfds_folders
from dn_jax.runs import collection, records, start
from dn_jax.training import parity

pytestmark = pytest.mark.parametrize("count", COUNTS)


def is_sane(model):
  complete = complete_model(model)
  assert 1e-12 <= complete.epsilon < 1
  assert complete.dtype in ("float32", "bfloat16")
  assert complete.bottleneck in (True, False, None)
  assert sum(complete.blocks or ()) <= 10_000
  assert 0 < size.parameters(complete) <= 10**12
  return True


ABOUT = About(
  ModelConfig(blocks=(2, 2), growth_rate=4, bottleneck=True, compression=0.5, initial_channels=8, stem="cifar"),
  ("cat", "dog"),
  AboutInput(32, 36, (125.3, 123.0, 113.9), (63.0, 62.1, 66.7), 12, 3),
)


def test_what_a_file_of_weights_says_of_itself(count, tmp_path):
  path = tmp_path / "w.safetensors"
  arrays = {f"features.{n}": np.zeros(1, np.float32) for n in range(9)}
  taken = 0
  for rng in cases("about", count):
    text = mutated(to_dict(ABOUT), rng)
    with contextlib.suppress(UnicodeEncodeError):
      safetensors.numpy.save_file(arrays, path, {weights_file.METADATA: text})
      if (found := outcome(lambda: weights_file.about(path), text)) is None:
        continue
      taken += 1
      assert found.model is None or is_sane(found.model)
      known = found.input
      assert all(math.isfinite(each) for each in numbers(to_dict(known)))
      assert all(each > 0 for each in numbers(known.std or ()))
      assert all(each is None or 1 <= each <= 10_000 for each in (known.size, known.resize))
      assert all(isinstance(each, str) for each in found.classes or ())
  assert 0 < taken < count


def hostile_tensor(saved, rng):
  """A tensor whose storage, sizes, strides and place may be anything."""
  number = lambda usual: (
    usual if rng.random() < 0.6 else rng.choice((0, -1, 5, 2**20, 2**40, 2**63, 10**30, 1.5, "a", None))
  )
  key = (
    saved.storage(np.arange(12, dtype=np.float32)).key if rng.random() < 0.8 else rng.choice(("x", "../data.pkl", ""))
  )
  storage = Storage(rng.choice(("Float", "Float", "Double", "Half", "Nothing")), key, number(12))
  sizes = tuple(number(each) for each in rng.choice(((3, 4), (12,), (), (1,) * 40)))
  return view(storage, sizes, tuple(number(each) for each in (4, 1)[: len(sizes)]), number(0))


def test_files_of_pytorch(count, tmp_path):
  path = tmp_path / "w.pth"
  for rng in cases("pth", count):
    saved, state = Saved(), {}
    for n in range(rng.randrange(1, 4)):
      name = rng.choice((f"layer{n}.weight", f"layer{n}.weight", n, None, (n, "a"), b"\xff", "\x1b[2J", "", 1.5))
      state[name] = rng.choice(
        (hostile_tensor(saved, rng), hostile_tensor(saved, rng), n, "text", Name("os", "system"))
      )
    content = saved.content(rng.choice((state, {"state_dict": state}, {"model": [state]}, [state])), rng.random() < 0.3)
    if rng.random() < 0.5:
      place = rng.randrange(len(content))
      changed = bytes([rng.randrange(256)])
      content = rng.choice((content[:place], content[:place] + changed + content[place + 1 :]))
    path.write_bytes(content)
    found = outcome(lambda: weights.read(path, lambda _: None), content)
    for name, value in (found or {}).items():
      assert isinstance(name, str)
      assert value.size <= len(content), content


FIRST = "init/features.denseblock1.denselayer1.conv1.weight"
KERAS = {
  "class_name": "Functional",
  "config": {
    "layers": [
      {"class_name": "Conv2D", "config": {"filters": 8}},
      {"class_name": "BatchNormalization", "config": {"epsilon": 1e-5, "axis": [3]}},
      {"class_name": "BatchNormalization", "config": {"epsilon": 1e-5, "axis": [3]}},
    ]
  },
}


def test_what_a_file_of_keras_says_of_itself(count, tmp_path):
  path = tmp_path / "w.h5"
  for rng in cases("keras", count):
    text = mutated(KERAS, rng)
    with h5py.File(path, "w") as file:
      try:
        file.attrs["model_config"] = text
      except (OSError, ValueError, RuntimeError):  # Too long for an attribute.
        continue
    found = outcome(lambda: keras_file.epsilon_of(path), text)
    assert found is None or 1e-12 <= found[0] < 1


def damaged(content, rng):
  """The bytes of a file with one or more changed, or its end cut off."""
  changed = bytearray(content)
  for _ in range(rng.choice((1, 1, 2, 4, 16))):
    changed[rng.randrange(len(changed))] = rng.choice((0, 255, rng.randrange(256)))
  return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.1 else changed)


def test_bytes_of_a_file_of_keras(count, tmp_path):
  path = tmp_path / "w.h5"
  write(path, ModelConfig(blocks=(1,), growth_rate=4, bottleneck=False, compression=1.0, stem="cifar"))
  whole, read = path.read_bytes(), 0
  names = set(weights.read(path, lambda _: None))
  for rng in cases("keras bytes", count):
    content = damaged(whole, rng)
    path.write_bytes(content)
    case = (SEED, [n for n, byte in enumerate(content) if byte != whole[n]])
    found = outcome(lambda: weights.read(path, lambda _: None), case)
    read += found is not None
    assert found is None or set(found) <= names, case
    epsilon = outcome(lambda: keras_file.epsilon_of(path), case)
    assert epsilon is None or 1e-12 <= epsilon[0] < 1
  assert 0 < read < count


def test_records_for_parity(count, tmp_path, monkeypatch):
  # Its network is not traced.
  monkeypatch.setattr(parity, "_check", lambda record, path: parity._faults_of_pictures(record))
  with np.load(RECORDS[0]) as file:
    whole = {name: file[name] for name in file.files}
  # The reader wants the first kernel; the other weights only take time.
  whole = {name: value for name, value in whole.items() if "/" not in name or name == FIRST}
  fields = [field.name for field in dataclasses.fields(parity.Header)]
  path = tmp_path / "record.npz"
  for rng in cases("parity", count):
    arrays = dict(whole)
    for name in rng.sample([each for each in whole if "/" not in each], rng.choice((1, 1, 2))):
      value = rng.choice((*VALUES, np.zeros((0, 3)), np.full(3, np.nan), -whole[name].astype(np.float64)))
      with contextlib.suppress(ValueError, OverflowError):
        arrays[name] = np.asarray(value)
    arrays = {name: value for name, value in arrays.items() if value.dtype != object}
    np.savez(path, **arrays)
    if rng.random() < 0.1:
      path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    case = {name: arrays.get(name) for name in fields}
    if found := outcome(lambda: parity.read(path), case):
      assert sum(found.network.blocks) <= len(arrays), case
      assert 0 < found.network.compression <= 1, case


WHOLE = {
  "config.json": to_dict(fabricated.config()),
  "data.json": fabricated.DATA,
  "summary.json": fabricated.summary(fabricated.config(), 5.0),
  "failure.json": {"error": "no luck", "exit_code": 1, "at": "2026-01-01T00:00:00+00:00"},
  "metrics.jsonl": fabricated.record(1, 0.3),
}


@pytest.mark.parametrize("name", WHOLE)
def test_records_of_a_run(name, count, tmp_path):
  folder = fabricated.finished(tmp_path / "run")
  for rng in cases(name, count):
    text = mutated(WHOLE[name], rng)
    (folder / name).write_text(text, errors="surrogateescape")
    found = outcome(lambda: collection.read_run(folder), text)
    if found is None:
      continue
    assert identity(resolve(found.config)) == identity(found.config), text
    is_sane(found.config.model)
    assert all(len(line.splitlines()) == 1 for line in found.damaged), text
    if found.summary:
      said = to_dict(found.summary)
      assert all(0 <= each < math.inf for each in numbers(said)), text
      assert 0 <= found.test_error <= 100, text
    for record in outcome(lambda: records.read_records(folder), text) or ():
      assert all(math.isfinite(each) for each in numbers(to_dict(record))), text
      assert 0 <= record.test_error <= 1, text


PARTS = {"epochs": 3, "model": {"growth_rate": 24, "blocks": [2, 3]}, "data.augment": True, "optimizer.momentum": 0.5}


def test_files_that_a_run_starts_from(count, tmp_path):
  path, taken = tmp_path / "some.yaml", 0
  for rng in cases("configuration", count):
    text = mutated(rng.choice((WHOLE["config.json"], PARTS, PARTS)), rng)
    if rng.random() < 0.5:
      place = rng.randrange(len(text) + 1)
      text = text[:place] + rng.choice(("\n", "\t", " #", "&a ", "*a", "!!int ", "? ", "<<: ", "---\n")) + text[place:]
    path.write_text(text, errors="surrogateescape")
    if (found := outcome(lambda: saved.read(path), text)) is None:
      continue
    assert all(math.isfinite(each) for each in numbers(to_dict(found.run))), text
    if run := outcome(lambda: resolve(found.under({})), text):
      taken += 1
      is_sane(run.model)
  assert 0 < taken < count


def test_descriptions_of_tfds_folders(count, prepared, tmp_path):
  shutil.copytree(prepared, tmp_path / "tfds")
  (version,) = (tmp_path / "tfds" / "cifar10").iterdir()
  whole = {name: (version / name).read_text() for name in ("features.json", "dataset_info.json")}
  for rng in cases("tfds", max(10, count // 5)):
    name = rng.choice(list(whole))
    text = mutated(json.loads(whole[name]), rng)
    for each, said in whole.items():
      (version / each).write_text(text if each == name else said, errors="surrogateescape")
    if described := outcome(lambda: tfds_folders.described(version), text):
      assert 1 <= len(described.classes) <= 10**6, text
      assert all(0 <= each < 2**31 for each in described.splits.values()), text
    if data := outcome(lambda: catalog.load(DataConfig("cifar10", tmp_path / "tfds")), text):
      assert len(data.train.labels) == 120, text
      assert set(data.train.labels.tolist()) == set(range(10)), text


def resolved(words):
  return start.resolved(parse(RunConfig, None, words), lambda _: None)


def test_flags(count):
  flags = sorted(set(flag_types(RunConfig)) - {"weights"})
  for rng in cases("flags", max(10, count // 5)):
    words = ["--data.name", "digits"]
    for flag in rng.sample(flags, rng.choice((1, 1, 2, 3))):
      value = rng.choice(hostile.VALUES)
      several = value if isinstance(value, list) else [value]
      words += [f"--{flag}", *(str(each) for each in several[:5] if abs(each if type(each) is int else 0) < 10**100)]
    found = outcome(functools.partial(resolved, words), words)
    if found:
      assert is_sane(found.model), words
      assert all(math.isfinite(each) for each in numbers(to_dict(found))), words
      assert 12 * size.parameters(found.model) < 16 * 10**13, words
