"""A network's card says what the records of its run say, and no more."""

import pytest
import untrained
import yaml

from dn_jax.config.network import complete_model
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.report import model_card
from dn_jax.runs import records
from dn_jax.system.hub import Address

CONFIG = RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="densenet-bc-100-12"), epochs=30, seed=7)
NETWORK = model_card.Network(complete_model(CONFIG.model), 769_162, 10, None, 32)
ADDRESS = Address("me/mine")


def card(training, network=NETWORK, licence=None):
  """Header and body of a card."""
  header, body = model_card.text(network, training, licence, ADDRESS).removeprefix("---\n").split("\n---\n", 1)
  return yaml.safe_load(header), body


def test_a_finished_runs_card_has_its_error_command_protocol_and_images(tmp_path):
  folder = untrained.run(tmp_path, CONFIG, 4.51, commit="c0ffee", devices="8 x TPU v5e")
  found = records.read_records(folder)
  header, body = card(model_card.training_of(folder, 30), licence="apache-2.0")
  error = 100 * found[-1].test_error
  assert f"**Test error: {error:.2f} %** after epoch 30 of 30" in body
  assert header["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(100 - error, abs=1e-4)
  assert header["license"] == "apache-2.0"
  for words in ("769,162 parameters", "L=100, k=12", "c0ffee", "8 x TPU v5e", "CVPR 2017", "(published: 300)"):
    assert words in body.replace("\\", "")
  command = next(line for line in body.splitlines() if line.startswith("python -m dn_jax train"))
  assert body.splitlines()[body.splitlines().index(command) - 1] == "```"
  assert "--seed 7" in body
  assert "--model.name densenet-bc-100-12" in body
  assert f"python -m dn_jax predict {ADDRESS}" in body


def test_the_error_is_that_of_the_network_which_is_described(tmp_path):
  folder = untrained.run(tmp_path, CONFIG, 4.51)
  third = records.read_records(folder)[2]
  _, body = card(model_card.training_of(folder, 3))
  assert f"**Test error: {100 * third.test_error:.2f} %** after epoch 3 of 30" in body
  header, body = card(model_card.training_of(folder, None))
  assert "%**" not in body
  assert "is not known" in body
  assert "model-index" not in header


def test_an_unfinished_runs_card_says_so(tmp_path):
  folder = untrained.run(tmp_path, CONFIG)
  _, body = card(model_card.training_of(folder, None))
  assert "The run is not finished" in body


def test_no_folder_of_this_machine_is_in_the_card(tmp_path):
  config = RunConfig(CONFIG.data, CONFIG.model, epochs=1, weights=tmp_path / "secret" / "first.pth")
  _, body = card(model_card.training_of(untrained.run(tmp_path, config, 5.0), 1))
  assert body.count("first.pth") == 2  # In words, and in the command.
  assert "secret" not in body
  assert str(tmp_path) not in body.replace("\\", "")


@pytest.mark.parametrize(
  "name",
  [
    "*b*",
    "[x](http://y)",
    "<script>",
    "a\nb",
    "`c`",
    "# d",
    "| e |",
    "\udce9",
    "&amp;",
    "![i](j)",
    "12. f",
    "- g",
    "\u202e",
  ],
)
def test_a_classes_name_is_text_whatever_characters_it_has(name):
  network = model_card.Network(NETWORK.model, 1, 2, (name, "other"), 32)
  header, body = card(None, network)
  assert set(header) == {"library_name", "pipeline_tag", "tags"}
  line = next(line for line in body.splitlines() if line.startswith("0. "))
  rest = line.removeprefix("0. ")
  bare = rest.replace("\\\\", "")
  # Each character that Markdown or HTML could take for its own has a backslash before it.
  for place, each in enumerate(bare):
    assert each not in "*_`[]<>#|&!" or bare[place - 1] == "\\"
  assert bare[0] not in "-+="
  assert not bare.startswith("12. ")
  body.encode()
  assert "\u202e" not in body


def test_a_licence_is_stated_only_where_it_is_given():
  header, body = card(None)
  assert "license" not in header
  assert "None is stated." in body


def test_a_name_in_the_command_does_not_end_its_block(tmp_path):
  config = RunConfig(CONFIG.data, CONFIG.model, epochs=1, weights=tmp_path / "a```b\n# c.pth")
  _, body = card(model_card.training_of(untrained.run(tmp_path, config, 5.0), 1))
  fences = [line for line in body.splitlines() if set(line) == {"`"}]
  assert fences[:2] == ["````", "````"]
  assert "# c.pth" not in body.splitlines()
