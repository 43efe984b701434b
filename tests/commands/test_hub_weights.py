"""Commands that take weights from the Hugging Face hub, or bring them there."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import yaml
from conftest import call
from hub_server import TOKEN, Repository
from photographs import class_folders
from variables import variables_of

from dn_jax import weights
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.config.weights_file import about
from dn_jax.inference import load
from dn_jax.inference.load import Classifier, Input
from dn_jax.models import build

MODEL = ModelConfig(depth=10, growth_rate=4)


@pytest.fixture(scope="module")
def known():
  complete = complete_model(MODEL)
  network = build.build(complete, 2)
  variables = variables_of(network, size=16)
  how = Input(16, 18, np.full(3, 100.0), np.full(3, 60.0))
  return Classifier(complete, network, variables["params"], variables["batch_stats"], how, ("day", "night"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  return class_folders(tmp_path_factory.mktemp("hub") / "photos", classes=("day", "night"), each=20)


@pytest.fixture
def repository(known, the_hub, tmp_path):
  load.write(tmp_path / "network.safetensors", known)
  the_hub.repositories["some/net"] = repository = Repository()
  repository.commit(m__safetensors=(tmp_path / "network.safetensors").read_bytes())
  return repository


def same(one, other):
  """Files of the same tensors and description, whose metadata may be in another order."""
  one_state, other_state = weights.read(one), weights.read(other)
  assert one_state.keys() == other_state.keys()
  for name, value in one_state.items():
    np.testing.assert_array_equal(value, other_state[name])
  assert about(one) == about(other)


@pytest.mark.slow
def test_predict_evaluate_export_and_pictures_take_the_hubs_files(repository, photos, tmp_path):
  photo = next(photos.rglob("*.*"))
  local = call("experiments/predict.py", tmp_path / "network.safetensors", photo, "--json")
  assert local.returncode == 0, local.stderr
  remote = call("experiments/predict.py", "hf://some/net", photo, "--json")
  assert (remote.returncode, remote.stdout) == (0, local.stdout), remote.stderr
  assert remote.stderr.splitlines()[0].startswith("fetching hf://some/net@")
  measured = [
    call("experiments/evaluate.py", "--weights", source, "--data.dir", photos)
    for source in (tmp_path / "network.safetensors", "hf://some/net@main/m.safetensors")
  ]
  assert measured[0].returncode == 0, measured[0].stderr
  assert measured[0].stdout == measured[1].stdout
  done = call("experiments/export.py", "hf://some/net", "--to", tmp_path / "again.safetensors")
  assert done.returncode == 0, done.stderr
  same(tmp_path / "again.safetensors", tmp_path / "network.safetensors")
  done = call("experiments/picture.py", "reuse", "hf://some/net", "--to", tmp_path / "reuse.svg")
  assert done.returncode == 0, done.stderr


def test_what_the_hub_does_not_have_is_one_line_and_nothing_is_written(repository, photos, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for words in (
    ("experiments/predict.py", "hf://some/other", next(photos.rglob("*.*"))),
    ("experiments/evaluate.py", "--weights", "hf://some/other", "--data.dir", photos),
    ("experiments/export.py", "hf://some/other", "--to", tmp_path / "new.safetensors"),
    ("experiments/train.py", "--weights", "hf://some/other", "--data.name", "digits", "--out", tmp_path / "run"),
    ("experiments/ablate.py", "--weights", "hf://some/other", "--data.name", "digits", "--out", tmp_path / "runs"),
  ):
    done = call(*words)
    assert (done.returncode, done.stdout) == (2, ""), words
    assert done.stderr.startswith("error: ")
    assert "hf://some/other: " in done.stderr
  assert not {path.name for path in tmp_path.iterdir()} & {"run", "runs", "new.safetensors"}


def train(photos, out, *flags):
  words = ("--data.name", "folder", "--data.dir", photos, "--data.size", "16", "--batch-size", "8", "--epochs", "1")
  done = call("experiments/train.py", *words, "--out", out, *flags)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
def test_a_run_from_the_hub_is_trained_and_its_card_says_what_its_records_say(
  repository, the_hub, photos, tmp_path, monkeypatch
):
  said = train(photos, tmp_path / "run", "--weights", "hf://some/net")
  assert said.splitlines()[0].startswith("fetching hf://some/net@")
  # Its checkpoints are lost, and the branch has moved on to another network: it starts again from what it was.
  shutil.rmtree(tmp_path / "run" / "checkpoints")
  (tmp_path / "run" / "summary.json").unlink()
  first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
  repository.commit(m__safetensors=b"another")
  train(photos, tmp_path / "run", "--weights", "hf://some/net")
  again = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
  assert [again[name] for name in ("train_loss", "test_loss")] == [first[name] for name in ("train_loss", "test_loss")]

  monkeypatch.setenv("HF_TOKEN", TOKEN)
  flags = ("--to", "hf://me/mine", "--licence", "mit")
  done = call("experiments/export.py", tmp_path / "run", *flags)
  assert done.returncode == 0, done.stderr
  assert "to hf://me/mine, a new private repository of 127.0.0.1:" in done.stderr
  assert TOKEN not in done.stdout + done.stderr
  mine = the_hub.repositories["me/mine"]
  assert mine.private
  (files,) = mine.commits.values()
  assert done.stdout.startswith(f"hf://me/mine: commit {mine.branches['main']}, 2 classes")
  card = files["README.md"].decode()
  header, body = card.removeprefix("---\n").split("---\n", 1)
  header = yaml.safe_load(header)
  assert (header["license"], header["base_model"]) == ("mit", "some/net")
  (result,) = header["model-index"][0]["results"]
  error = json.loads((tmp_path / "run" / "summary.json").read_text())["test_error_percent"]
  assert result["metrics"][0]["value"] == pytest.approx(100 - error, abs=1e-4)
  assert f"**Test error: {error:.2f} %** after epoch 1 of 1" in body
  assert "--weights hf://some/net@" in body
  assert str(tmp_path) not in card
  # What came there is the network.
  photo = next(photos.rglob("*.*"))
  here = call("experiments/predict.py", tmp_path / "run", photo)
  there = call("experiments/predict.py", "hf://me/mine", photo)
  assert (there.returncode, there.stdout) == (0, here.stdout), there.stderr


def test_a_network_without_a_run_has_a_card_that_says_less(known, the_hub, tmp_path, monkeypatch):
  load.write(tmp_path / "network.safetensors", dataclasses.replace(known, classes=("day", "*night*\n# <b>")))
  monkeypatch.setenv("HF_TOKEN", TOKEN)
  done = call(
    "experiments/export.py", tmp_path / "network.safetensors", "--to", "hf://me/mine/net.safetensors", "--public"
  )
  assert done.returncode == 0, done.stderr
  mine = the_hub.repositories["me/mine"]
  assert not mine.private
  (files,) = mine.commits.values()
  (tmp_path / "sent.safetensors").write_bytes(files["net.safetensors"])
  same(tmp_path / "sent.safetensors", tmp_path / "network.safetensors")
  header, body = files["README.md"].decode().removeprefix("---\n").split("---\n", 1)
  assert not {"license", "model-index", "base_model"} & yaml.safe_load(header).keys()
  assert "How it was trained is not recorded." in body
  assert "None is stated." in body
  assert f"{sum(leaf.size for leaf in jax.tree.leaves(known.params)):,} parameters" in body
  assert "1. \\*night\\*\\\\n\\# \\<b\\>" in body
  (line,) = done.stderr.splitlines()  # And none of the library's bars.
  assert line.startswith("uploading net.safetensors and README.md")
  for _ in range(2):  # A new one, and one that is there.
    done = call("experiments/export.py", tmp_path / "network.safetensors", "--to", "hf://me/hidden")
    assert done.returncode == 0, done.stderr
    assert the_hub.repositories["me/hidden"].private
  # A second time it is a commit more; the repository stays public, which has to be said again.
  again = call("experiments/export.py", tmp_path / "network.safetensors", "--to", "hf://me/mine")
  assert (again.returncode, again.stdout) == (2, "")
  assert "is a public repository; give --public" in again.stderr
  assert len(mine.commits) == 1
  again = call("experiments/export.py", tmp_path / "network.safetensors", "--to", "hf://me/mine", "--public")
  assert again.returncode == 0, again.stderr
  assert list(mine.commits.values())[1].keys() == {"net.safetensors", "model.safetensors", "README.md"}


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (("--to", "hf://me/mine"), "to hf://me/mine: there is no such repository, or it needs a token"),
    (("--to", "hf://me/mine@v2"), "a new one has the branch main alone"),
    (("--to", f"hf://some/net@{1:040x}"), "is a commit, which does not change"),
    (("--to", "hf://me/mine/net.pth"), "the file must end in .safetensors"),
    (("--to", "hf://me/mine", "--licence", "My Own\n"), "the hub's name of a licence"),
    (("--to", "hf://me"), "hf://OWNER/NAME"),
    (("--to", "new.safetensors", "--public"), "--public and --licence are for hf://OWNER/NAME"),
  ],
)
def test_an_upload_that_cannot_be_is_one_line(repository, the_hub, tmp_path, flags, words):
  done = call("experiments/export.py", tmp_path / "network.safetensors", *flags)
  assert (done.returncode, done.stdout) == (2, "")
  *_, line = done.stderr.splitlines()
  assert line.startswith("error: --")
  assert words in line
  assert the_hub.created == []
  assert len(repository.commits) == 1
