"""train --config: a run that starts from a file."""

import json
import re
import sys
import warnings

import pytest
import yaml
from conftest import FIXTURES, call

from dn_jax.config import plain_yaml
from dn_jax.runs import records

RECORDED = next((FIXTURES / "run").iterdir())


def printed(*words):
  """What --print-config prints of a command line; and what it says besides."""
  done = call("experiments/train.py", *words, "--print-config")
  assert done.returncode == 0, done.stderr
  return done.stdout, done.stderr


def origins(text):
  return {line.split(":")[0].strip(): line.partition("  # ")[2] for line in text.splitlines()}


@pytest.mark.parametrize(
  "words",
  [
    "--data.name svhn_cropped --model.name wide-16-8 --model.remat none --out {}/mine --distributed.timeout 9",
    "--data.augment --model.depth 40 --optimizer.weight-decay 1e-05 --optimizer.drops 0.1 0.2 --model.no-bottleneck",
    "--data.name digits --model.blocks 1 2 --optimizer.no-nesterov --freeze stem --checkpoint.every-minutes 5e-3",
  ],
)
def test_what_print_config_prints_is_read_again_and_is_the_same_run(words, tmp_path):
  text, _ = printed(*words.format(tmp_path).split())
  path = tmp_path / "some.yaml"
  path.write_text(text)
  again, said = printed("--config", path)
  assert plain_yaml.read(again) == plain_yaml.read(text)
  assert said == ""


def test_a_record_names_its_file_as_the_origin_and_flags_win():
  text, said = printed("--config", RECORDED, "--seed", "2", "--model.growth-rate", "8")
  values, recorded = yaml.safe_load(text), json.loads((RECORDED / "config.json").read_text())
  assert (values["seed"], values["model"]["growth_rate"], values["model"]["initial_channels"]) == (2, 8, 16)
  assert (values["epochs"], values["model"]["depth"], values["data"]["validation"]) == (2, 10, 100)
  assert (recorded["model"]["initial_channels"], recorded["epochs"]) == (8, 2)
  assert values["out"] == "runs/digits+_densenet-bc-10-8_seed2"
  assert said == f"{RECORDED}/config.json: these values follow the flags given: --model.initial-channels: 8 -> 16\n"
  found = origins(text)
  assert found["epochs"] == found["depth"] == found["augment"] == f"from {RECORDED}/config.json"
  assert (found["seed"], found["growth_rate"], found["dtype"]) == ("--seed", "--model.growth-rate", "default")
  assert found["batch_size"] == "none is published for digits; as for cifar10, over 40 epochs"


def test_a_run_from_a_record_trains_as_its_flags_said(tmp_path, monkeypatch):
  started = []
  monkeypatch.setattr("dn_jax.experiment.train", lambda config, console: started.append(config) or sys.exit())
  call("experiments/train.py", "--config", RECORDED, "--out", tmp_path / "run")
  recorded = records.read_config(RECORDED)
  (config,) = started
  assert records.identity(config) == records.identity(recorded)
  assert (config.out, config.model.remat) == (tmp_path / "run", None)


def test_help_shows_the_values_of_the_file(tmp_path):
  path = tmp_path / "a.yaml"
  path.write_text("epochs: 7\ndata: {augment: true}\nweights: hf://someone/one\noptimizer: {learning_rate: 1e-2}\n")
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # Such as tyro's, of a path that it does not know.
    done = call("experiments/train.py", "--config", path, "--batch-size", "3", "--help")
  # A path may be broken over lines.
  said = re.sub(r"[\s|│]+", "", done.stdout)
  assert f"(from{path}:7)" in said
  assert f"(from{path}:0.01)" in said
  assert "--data.no-augment" in said
  assert "(--batch-size:3)" in said
  assert "publishedforcifar10,withaugmentation:0)" in said
  assert done.stderr == ""


def test_a_switch_and_a_list_of_a_file_can_be_turned_off_and_a_value_unset(tmp_path):
  path = tmp_path / "a.yaml"
  path.write_text("epochs: 7\ndata.augment: true\nmodel.bottleneck: false\nfreeze: [stem]\n")
  words = ("--data.no-augment", "--model.bottleneck", "--freeze", "--epochs", "None")
  text, _ = printed("--config", path, *words)
  values = yaml.safe_load(text)
  assert (values["data"]["augment"], values["model"]["bottleneck"], values["freeze"]) == (False, True, [])
  assert values["epochs"] == 300


@pytest.mark.parametrize(
  ("script", "text", "line"),
  [
    ("train", "epochs: many", '--config {}: cannot be read (epochs "many": a whole number)'),
    ("train", "epoch: 3", "--config {}: cannot be read (epoch: there is no such flag; did you mean --epochs?)"),
    ("train", "model: {depth: 41}", "--model.depth 41: 3 equal blocks with bottlenecks need depth = 4 + 6 * n; "),
  ],
)
def test_a_file_that_does_not_fit_gets_one_line_and_exit_code_2(script, text, line, tmp_path):
  path = tmp_path / "a.yaml"
  path.write_text(text)
  for words in ((), ("--print-config",), ("--dry-run",)):
    done = call(f"experiments/{script}.py", "--config", path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {line.format(path)}")
    assert done.stderr.count("\n") == 1


def test_a_sweep_starts_from_a_record_and_says_what_follows(tmp_path):
  words = ("--config", RECORDED, "--seeds", "2", "--model.growth-rate", "4,8", "--out", tmp_path / "sweep", "--dry-run")
  done = call("experiments/ablate.py", *words)
  assert (done.returncode, done.stderr) == (0, "")
  assert "2 cells, 4 runs" in done.stdout
  assert done.stdout.count("these values follow the flags given: --model.initial-channels: 8 -> 16\n") == 1
  assert "1,197 + 100" in done.stdout  # Held out as the record has it.


@pytest.mark.parametrize("script", ["cifar_table", "evaluate"])
def test_commands_that_take_no_configuration_say_which_do(script):
  done = call(f"experiments/{script}.py", "--config", RECORDED)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr == f"error: --config {RECORDED}: there is no such flag; it is for train.py and ablate.py\n"
