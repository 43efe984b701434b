"""What --help says of a flag, and what --print-config says of a run."""

import re

import pytest
import yaml
from conftest import call

from dn_jax.commands.flags import parse
from dn_jax.config.check import to_dict
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import UserError


def test_help_shows_the_values_of_the_data_set_and_network_that_are_asked_for():
  words = ("--data.name", "svhn_cropped", "--model.name", "wide-16-8")
  said = re.sub(r"[\s|│]+", " ", call("experiments/train.py", *words, "--help").stdout)
  # Of Wide ResNet's authors' scripts, see docs/protocol.md.
  assert "(published for svhn_cropped by wide: 160)" in said
  assert "(published for svhn_cropped by wide: 0.01)" in said
  assert "(of wide-16-8: 16)" in said
  assert "(--data.name: svhn_cropped)" in said
  assert "(unset: the device decides: on a CPU layer_by_layer" in said
  assert "{}" not in said
  assert "None" not in said


def test_print_config_is_the_resolved_run_and_says_where_values_come_from(tmp_path):
  words = ("--data.augment", "--model.no-bottleneck", "--seed", "3", "--out", str(tmp_path / "run"))
  done = call("experiments/train.py", *words, "--print-config")
  assert (done.returncode, done.stderr) == (0, "")
  asked = RunConfig(DataConfig(augment=True), ModelConfig(bottleneck=False), seed=3, out=tmp_path / "run")
  said, values = yaml.safe_load(done.stdout), to_dict(resolve(asked))
  said["model"]["epsilon"] = float(said["model"]["epsilon"])  # YAML 1.1 takes 1e-05 for a text.
  assert said == values
  origins = {line.split(":")[0].strip(): line.partition("  # ")[2] for line in done.stdout.splitlines()}
  assert origins["seed"] == "--seed"
  assert origins["bottleneck"] == "--model.no-bottleneck"
  assert origins["dropout"] == "published for cifar10, with augmentation"
  assert origins["epochs"] == "published for cifar10"
  assert origins["dtype"] == "default"
  assert origins["growth_rate"] == "of DenseNet"
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("words", "value"),
  [
    (["--model.bottleneck"], True),
    (["--model.no-bottleneck"], False),
    (["--model.bottleneck", "False"], False),
    (["--model.bottleneck=False"], False),
    (["--model.bottleneck", "True"], True),
    ([], None),
  ],
)
def test_a_switch_has_one_form_and_earlier_versions_are_still_read(words, value):
  assert parse(RunConfig, args=[*words, "--seed", "3"]) == RunConfig(model=ModelConfig(bottleneck=value), seed=3)
  both = parse(RunConfig, args=[*words, "--optimizer.nesterov", "False"])
  assert (both.model.bottleneck, both.optimizer.nesterov) == (value, False)
  # Also of a switch that is never unset.
  assert parse(RunConfig, args=["--data.augment", "True", *words]).data.augment
  assert not parse(RunConfig, args=["--data.augment", "False", *words]).data.augment


@pytest.mark.parametrize(
  ("words", "hint"),
  [
    ("--lr 0.1", "did you mean --optimizer.learning-rate?"),
    ("--batch 8", "did you mean --batch-size?"),
    ("--model.growth-rate 12 24", "ablate.py takes several values of a flag, with commas between them"),
    ("--model.depth 40,100", "several values, with commas, are for ablate.py"),
  ],
)
def test_a_slip_gets_a_hint(words, hint):
  with pytest.raises(UserError) as refused:
    parse(RunConfig, args=words.split())
  assert str(refused.value).endswith(hint)


def test_the_plus_of_a_data_sets_name_is_a_flag():
  with pytest.raises(UserError, match=r"cifar10\+: .*--data.name cifar10 --data.augment$"):
    resolve(RunConfig(DataConfig("cifar10+")))
