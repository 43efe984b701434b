"""A run that starts from a file: what it takes of it, what follows the flags, what is refused."""

import dataclasses
import json
import pathlib

import fabricated
import pytest
from conftest import FIXTURES

from dn_jax.config import saved
from dn_jax.config.nested import replaced
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import (
  CheckpointConfig,
  DataConfig,
  DistributedConfig,
  ModelConfig,
  OptimizerConfig,
  RunConfig,
)
from dn_jax.errors import ConfigurationError
from dn_jax.runs import records

RECORDED = next((FIXTURES / "run").iterdir())
# As people ask for runs.
ASKED = [
  RunConfig(),
  RunConfig(DataConfig("svhn_cropped"), ModelConfig(name="wide-16-8"), seed=3),
  RunConfig(DataConfig("cifar100", augment=True), ModelConfig(family="resnet", depth=110, survival=0.5)),
  RunConfig(DataConfig("imagenet2012"), ModelConfig(name="densenet-121", growth_rate=24), batch_size=128),
  RunConfig(DataConfig("folder", size=96, dir=pathlib.Path("photos")), ModelConfig(blocks=(1,), stem="imagenet")),
  RunConfig(DataConfig("cifar10", validation=5000), ModelConfig(depth=40, bottleneck=False), protocol="caffe"),
  RunConfig(
    DataConfig("imagenet2012", augment=True),
    ModelConfig(name="densenet-121"),
    OptimizerConfig(label_smoothing=0.0, decay="all"),
    epochs=30,
    protocol="rdnet",
  ),
  RunConfig(DataConfig("cifar10"), optimizer=OptimizerConfig(0.001, weight_decay=0.1, name="adamw", warmup_epochs=2.0)),
  RunConfig(
    DataConfig("digits", channels=1, class_weights="balanced"),
    ModelConfig(depth=40, initial_channels=7, dropout=0.0, dtype="bfloat16"),
    OptimizerConfig(learning_rate=0.3, drops=(0.2, 0.9), nesterov=False),
    CheckpointConfig(every_minutes=5.0, keep=3),
    freeze=("stem", "block1/layer1"),
    devices=1,
  ),
]


def written(folder, asked):
  """The record of a run, as a run writes it."""
  config = resolve(dataclasses.replace(asked, out=folder))
  config = replaced(config, "model.remat", "none")
  records.create(folder, config, records.Data({"train": 10, "test": 5}, "00"))
  return config


def of_text(tmp_path, text):
  path = tmp_path / "some.yaml"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return saved.read(path)


@pytest.mark.parametrize("asked", ASKED)
def test_a_run_from_a_record_is_that_run_in_another_folder(asked, tmp_path):
  config = written(tmp_path / "run", replaced(asked, "distributed.timeout", 7))
  for path in (tmp_path / "run", tmp_path / "run" / "config.json"):
    again = resolve(saved.read(path).under({}))
    assert again == resolve(asked)  # Its folder, policy and processes are not the record's.
    assert again == dataclasses.replace(
      replaced(config, "model.remat", None), distributed=DistributedConfig(), out=again.out
    )


def test_a_record_that_lacks_what_came_later_is_still_another_runs(tmp_path):
  written(tmp_path / "run", RunConfig(batch_size=32))
  path = tmp_path / "run" / "config.json"
  record = json.loads(path.read_text())
  del record["model"]["epsilon"]
  path.write_text(json.dumps(record))
  assert saved.read(path).under({}) == saved.read(path).under({"seed"}) == RunConfig(batch_size=32)


def test_a_run_from_a_record_of_an_earlier_version_is_that_run():
  recorded = records.read_config(RECORDED)
  again = resolve(saved.read(RECORDED).under({}))
  assert again == dataclasses.replace(replaced(recorded, "model.remat", None), out=again.out)
  assert again.out != recorded.out


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
  ("flag", "value"),
  [
    ("model.growth-rate", 24),
    ("model.depth", 52),
    ("model.bottleneck", True),
    ("data.augment", True),
    ("batch-size", 32),
    ("seed", 9),
    ("epochs", None),
  ],
)
def test_a_flag_over_a_record_is_that_flag_over_what_was_asked_for(asked, flag, value, tmp_path):
  """Values that the record has from the old flags alone are not kept."""
  written(tmp_path / "run", asked)

  def outcome(start):
    try:
      return resolve(replaced(start, flag, value))
    except ConfigurationError as error:
      return str(error)

  if flag == "model.depth":  # Else both were given.
    asked = replaced(asked, "model.blocks", None)
  assert outcome(saved.read(tmp_path / "run").under({flag})) == outcome(asked)


def test_another_data_set_brings_its_own_protocol_and_a_line_says_what_changed(tmp_path):
  written(tmp_path / "run", RunConfig(batch_size=32))
  file = saved.read(tmp_path / "run")
  given = {"data.name"}
  config = resolve(replaced(file.under(given), "data.name", "svhn_cropped"))
  assert config == resolve(RunConfig(DataConfig("svhn_cropped"), batch_size=32))
  # As published for SVHN: 40 epochs, 6,000 images held out.
  assert file.changes(config, given) == (
    f"{tmp_path}/run/config.json: these values follow the flags given: "
    "--data.validation: 0 -> 6000, --epochs: 300 -> 40, --report: last -> best"
  )
  assert file.changes(resolve(file.under({})), {}) is None
  assert file.changes(resolve(replaced(file.under({}), "seed", 2)), {"seed"}) is None


def test_the_line_leaves_out_what_the_flags_say_themselves(tmp_path):
  written(tmp_path / "run", RunConfig(model=ModelConfig(name="densenet-bc-100-12")))
  file, given = saved.read(tmp_path / "run"), {"model.growth-rate", "batch-size"}
  start = replaced(replaced(file.under(given), "model.growth-rate", 24), "batch-size", 32)
  said = file.changes(resolve(start), given)
  assert said.partition(": these values follow the flags given: ")[2] == "--model.initial-channels: 24 -> 48"


def test_a_record_without_the_lines_of_its_own_run_is_one_still(tmp_path):
  written(tmp_path / "run", RunConfig(DataConfig("svhn_cropped")))
  path = tmp_path / "run" / "config.json"
  record = json.loads(path.read_text())
  path.write_text(json.dumps({name: value for name, value in record.items() if name not in ("out", "distributed")}))
  assert saved.read(path).under({}) == RunConfig(DataConfig("svhn_cropped"))


def test_a_named_network_replaces_the_files_and_leaves_the_rest(tmp_path):
  file = of_text(tmp_path, "model: {growth_rate: 24, blocks: [2, 2], bottleneck: false, dtype: bfloat16}\nepochs: 7")
  start = file.under({"model.name"})
  assert start == RunConfig(model=ModelConfig(dtype="bfloat16"), epochs=7)
  assert file.under({"epochs"}).model.blocks == (2, 2)
  assert file.under({"model.depth"}).model.blocks is None


def test_a_file_of_weights_takes_its_digest_with_it(tmp_path):
  text = f"weights: hf://someone/one@{'a' * 40}/w.pth\nweights-digest: {'b' * 64}\nweights_revision: main"
  file = of_text(tmp_path, text)
  assert str(file.under({}).weights_digest) == "b" * 64
  assert file.under({"weights"}).weights_digest is None
  assert file.under({"weights"}).weights_revision is None


def test_what_a_person_wrote_stays_also_where_it_is_as_published(tmp_path):
  file = of_text(tmp_path, "data: {name: cifar10}\nepochs: 300\nmodel: {initial_channels: 24, remat: none}\nout: here")
  assert file.under({"data.name", "model.growth-rate"}) == RunConfig(
    DataConfig("cifar10"), ModelConfig(initial_channels=24, remat="none"), epochs=300, out=pathlib.Path("here")
  )


def test_yaml_names_flags_nested_or_not_and_home_by_a_tilde(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", "/home/someone")
  expected = RunConfig(
    DataConfig(augment=True, dir=pathlib.Path("/home/someone/data")),
    ModelConfig(growth_rate=24, blocks=(2, 3)),
    OptimizerConfig(weight_decay=1e-5),
  )
  for text in (
    "data: {augment: true, dir: ~/data}\nmodel: {growth_rate: 24, blocks: [2, 3]}\noptimizer: {weight_decay: 1e-05}",
    "data:\n  augment: true\n  dir: ~/data\nmodel.growth-rate: 24\nmodel.blocks: [2, 3]\noptimizer.weight-decay: 1e-5",
    '{"data": {"augment": true, "dir": "~/data"},\n\t"model": {"growth_rate": 24, "blocks": [2, 3]},\n'
    '"optimizer": {"weight_decay": 1e-05}}',
    "\ufeffdata: {augment: true, dir: ~/data}\nmodel: {growth-rate: 24, blocks: [2, 3]}\noptimizer.weight_decay: 1e-5",
  ):
    assert of_text(tmp_path, text).under({}) == expected


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("epochs: x", 'cannot be read (epochs "x": a whole number)'),
    ("epochs: 3.5", "cannot be read (epochs 3.5: a whole number)"),
    ("epochs: 0", "cannot be read (epochs 0: must be at least 1)"),
    ("seed: 010", 'cannot be read (seed "010": a whole number)'),
    ("data: {augment: yes}", 'cannot be read (data.augment "yes": True or False)'),
    ("optimizer: {learning_rate: 1e999}", "cannot be read (optimizer.learning_rate Infinity: must be above 0)"),
    ("optimizer: {drops: [0.5, 2]}", "cannot be read (optimizer.drops 2: shares of the epochs, above 0, at most 1)"),
    ("epoch: 3", "cannot be read (epoch: there is no such flag; did you mean --epochs?)"),
    ("growth_rate: 3", "cannot be read (growth-rate: there is no such flag; did you mean --model.growth-rate?)"),
    ("lr: 0.1", "cannot be read (lr: there is no such flag; did you mean --optimizer.learning-rate?)"),
    ("model: 3", "cannot be read (model: needs names and values below it)"),
    ("1: 2", "cannot be read (1: there is no such flag; --help lists them)"),
    ("model.depth: 40\nmodel: {depth: 40}", "cannot be read (model.depth is there twice)"),
    ('{"seed": 1, "seed": 2}', "cannot be read (line 1: seed is there twice)"),
    ("seed: *x", "cannot be read (line 1: neither & nor * nor ! is read; write it out)"),
    ('{"seed": 1', "cannot be read (line 1: expected ',' or '}', but got '<stream end>')"),
    ("", "cannot be read (it needs names and values, such as seed: 1)"),
    ("3", "cannot be read (it needs names and values, such as seed: 1)"),
    ("seeds_per_device: 2", "cannot be read (seeds_per_device 2: this version has no several seeds in one program)"),
    (b"data: \xff", "cannot be read (it is not UTF-8)"),
    (b"#" * 2**16 + b"#", "is larger than any configuration (65,536 bytes)"),
    ('{"a":' * 1000 + "1" + "}" * 1000, "cannot be read (lists or mappings within too many others)"),
    ("[" * 1000, "cannot be read (lists or mappings within too many others)"),
  ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(text, line, tmp_path):
  with pytest.raises(ConfigurationError) as refused:
    of_text(tmp_path, text)
  assert str(refused.value) == f"--config {tmp_path}/some.yaml: {line}"


def test_a_file_that_is_none_is_refused_in_a_line(tmp_path):
  for path, line in (
    (tmp_path / "none", f"{tmp_path}/none: there is no such file"),
    (tmp_path, f"{tmp_path}/config.json: there is no such file"),
    (pathlib.Path("/dev/zero"), "/dev/zero: is not a file"),
    (tmp_path / ("a" * 300), f"{tmp_path}/{'a' * 300}: cannot be read (File name too long; take a shorter name)"),
  ):
    with pytest.raises(ConfigurationError) as refused:
      saved.read(path)
    assert str(refused.value) == f"--config {line}"


def test_a_damaged_record_is_refused_whatever_is_left_of_it(tmp_path):
  fabricated.begun(tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  whole = json.loads(path.read_text())
  for name in ("data", "model", "epochs"):
    path.write_text(json.dumps(whole | {name: []}))
    with pytest.raises(ConfigurationError):
      saved.read(path)
