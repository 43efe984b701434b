"""evaluate, up to the run's images."""

import pathlib

import pytest
from conftest import call

from dn_jax.commands import evaluate
from dn_jax.commands.evaluate import Evaluation, Images
from dn_jax.config.schema import DataConfig, RunConfig
from dn_jax.config.weights_file import WeightsError
from dn_jax.data import catalog
from dn_jax.errors import UserError
from dn_jax.runs import records
from dn_jax.system import hub


class ReadError(Exception):
  """In place of images."""


def test_flags_of_the_images_reach_those_of_a_run(tmp_path, monkeypatch):
  own = DataConfig("folder", tmp_path, workers=3, bad_share=0.2, max_pixels=9, bit_depth=12)
  asked = []

  def load(data, rule):
    asked.append(data)
    raise ReadError

  monkeypatch.setattr(records, "read_config", lambda folder: RunConfig(own))
  monkeypatch.setattr(records, "split_rule", lambda folder: 2)
  monkeypatch.setattr(catalog, "load", load)
  (tmp_path / "config.json").touch()
  for given in (Images(), Images(dir=tmp_path / "moved", workers=0, bad_share=0.5, max_pixels=7)):
    with pytest.raises(ReadError):
      evaluate.evaluate(Evaluation((tmp_path,), data=given))
  assert asked[0] == own
  assert asked[1] == DataConfig("folder", tmp_path / "moved", workers=0, bad_share=0.5, max_pixels=7, bit_depth=12)
  with pytest.raises(UserError, match="those flags are for a file of weights"):
    evaluate.evaluate(Evaluation((tmp_path,), data=Images(bit_depth=10)))


def test_the_hub_is_asked_once(tmp_path, monkeypatch):
  (tmp_path / "w.safetensors").touch()
  asked = []

  def fetch(flag, address, suffixes, say):
    asked.append(str(address))
    return hub.Fetched(address, tmp_path / "w.safetensors", "0")

  monkeypatch.setattr(hub, "fetch", fetch)
  with pytest.raises(WeightsError, match=r"w\.safetensors"):
    evaluate.evaluate(Evaluation((pathlib.Path("hf://some/net"),)))
  assert asked == ["hf://some/net"]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_refused(tmp_path, size):
  done = call("experiments/evaluate.py", tmp_path, "--batch-size", size)
  assert (done.returncode, done.stderr) == (2, f"error: --batch-size {size}: must be at least 1\n")
