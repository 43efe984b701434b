"""The commit of a run's weights: found when it begins, kept when it goes on."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from hub_server import TOKEN, Repository

from dn_jax import weights
from dn_jax.config.about import About
from dn_jax.config.nested import identity
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.runs import collection, records, start
from dn_jax.sweep import cells

DIGITS = RunConfig(DataConfig("digits"), epochs=1)


def of_depth(depth, path, value=0.0):
  """A file of weights that says which network it is of."""
  weights.write(path, {"a": np.full(1, value)}, About(ModelConfig(depth=depth, growth_rate=4)))
  return path.read_bytes()


@pytest.fixture
def repository(the_hub, tmp_path):
  the_hub.repositories["some/net"] = repository = Repository()
  repository.commit(m__safetensors=of_depth(10, tmp_path / "first.safetensors"))
  return repository


def started(text, say=lambda _: None, **flags):
  return start.resolved(dataclasses.replace(DIGITS, weights=pathlib.Path(text), **flags), say)


def test_a_run_is_of_the_commit_and_the_digest_that_its_branch_had(repository, tmp_path):
  config = started("hf://some/net", out=tmp_path / "run")
  assert config.model.depth == 10  # As the file says.
  records.claim(tmp_path / "run", config)
  recorded = json.loads((tmp_path / "run" / "config.json").read_text())
  commit = repository.branches["main"]
  assert recorded["weights"] == f"hf://some/net@{commit}/m.safetensors"
  assert recorded["weights_revision"] == "main"
  again = records.read_config(tmp_path / "run")
  assert identity(again) == identity(config)
  what_it_is = identity(config)
  assert what_it_is["weights"].startswith("hf://some/net@")
  assert len(what_it_is["weights-digest"]) == 64
  assert "weights-revision" not in what_it_is
  # By another name the same commit is the same run.
  assert collection.key(started(f"hf://some/net@{commit}/m.safetensors")) == collection.key(config)


@pytest.mark.parametrize("out", ["run", None])
def test_a_run_that_goes_on_keeps_its_commit_where_the_branch_has_moved_on_also_offline(
  repository, out, tmp_path, monkeypatch
):
  from huggingface_hub import constants

  monkeypatch.chdir(tmp_path)
  given = {"out": pathlib.Path(out)} if out else {}
  first = started("hf://some/net", **given)
  records.claim(first.out, first)
  repository.commit(m__safetensors=of_depth(10, tmp_path / "second.safetensors", 1.0))
  repository.commit(n__pth=b"another")
  lines = []
  assert started("hf://some/net", lines.append, **given) == first
  assert any("this run began with commit" in line for line in lines)
  assert started("hf://some/net@main/m.safetensors", **given) == first
  # By the commit itself; the branch that it was asked by is kept.
  assert started(str(first.weights), **given) == first
  # Asked for the new one by its name, it is another run.
  new = started(f"hf://some/net@{repository.branches['main']}/m.safetensors", **given)
  with pytest.raises(ConfigurationError, match="--weights: hf://some/net@"):
    records.check_config(first.out, new)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert started("hf://some/net", **given) == first


def test_another_branch_is_another_run_unless_it_is_the_same_commit(repository, tmp_path):
  first = started("hf://some/net", out=tmp_path / "run")
  records.claim(tmp_path / "run", first)
  repository.branches["same"] = repository.branches["main"]
  records.check_config(tmp_path / "run", started("hf://some/net@same", out=tmp_path / "run"))
  repository.commit("v2", m__safetensors=of_depth(16, tmp_path / "second.safetensors"))
  with pytest.raises(ConfigurationError, match="--weights: hf://some/net@"):
    records.check_config(tmp_path / "run", started("hf://some/net@v2", out=tmp_path / "run"))


def test_another_digest_is_refused_of_the_hubs_files_and_of_others(repository, tmp_path):
  first = started("hf://some/net", out=tmp_path / "run")
  assert started("hf://some/net", weights_digest=first.weights_digest) is not None
  with pytest.raises(
    ConfigurationError, match=r"--weights-digest 00: hf://some/net@0*1/m.safetensors has [0-9a-f]{64}"
  ):
    started("hf://some/net", weights_digest="00")
  with pytest.raises(ConfigurationError, match=r"--weights-digest 00: /.*first.safetensors has [0-9a-f]{64}"):
    started(str(tmp_path / "first.safetensors"), weights_digest="00")
  # The cache's file was changed meanwhile.
  records.claim(tmp_path / "run", first)
  from dn_jax.config.weights_file import place

  place(first.weights).resolve().write_bytes(b"changed")
  with pytest.raises(ConfigurationError, match="weights-digest"):
    started("hf://some/net", out=tmp_path / "run")


def test_a_run_of_weights_that_are_gone_from_the_cache_is_still_read(repository, tmp_path, monkeypatch):
  config = started("hf://some/net", out=tmp_path / "run")
  records.claim(tmp_path / "run", config)
  from huggingface_hub import constants

  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
  assert collection.read_run(tmp_path / "run").key == collection.key(config)


def test_a_run_of_a_file_of_this_machine_is_recorded_and_keyed_as_before(tmp_path):
  of_depth(10, tmp_path / "first.safetensors")
  config = started(str(tmp_path / "first.safetensors"))
  assert config == resolve(dataclasses.replace(DIGITS, weights=tmp_path / "first.safetensors"))
  assert not {"weights-digest", "weights-revision"} & identity(config).keys()
  records.claim(tmp_path / "run", config)
  assert "weights_digest" not in (tmp_path / "run" / "config.json").read_text()


def test_a_sweep_starts_from_one_commit(repository):
  commit = repository.branches["main"]
  flags = ["--data.name", "digits", "--epochs", "1", "--weights"]
  found = cells.cells_of([*flags, f"hf://some/net@{commit}"], 2)
  assert [cell.key for cell in found] == [
    collection.key(started(f"hf://some/net@{commit}", seed=seed)) for seed in range(2)
  ]
  assert f"hf://some/net@{commit}" in found[0].flags
  with pytest.raises(Exception, match="--weights hf://some/net: a sweep's runs start from one commit"):
    cells.cells_of([*flags, "hf://some/net"], 2)


def test_a_private_files_token_is_in_no_record(the_hub, tmp_path, monkeypatch):
  the_hub.repositories["some/net"] = repository = Repository(private=True)
  repository.commit(m__safetensors=of_depth(10, tmp_path / "first.safetensors"))
  monkeypatch.setenv("HF_TOKEN", TOKEN)
  records.claim(tmp_path / "run", started("hf://some/net"))
  assert TOKEN not in (tmp_path / "run" / "config.json").read_text()


@pytest.mark.parametrize("flags", [{}, {"depth": 10, "growth_rate": 4}])
def test_a_run_that_began_needs_its_file_of_weights_no_more(flags, tmp_path):
  path, out = tmp_path / "net.safetensors", tmp_path / "run"
  weights.write(path, {"a": np.zeros(1)}, About(ModelConfig(depth=10, growth_rate=4, epsilon=0.1)))
  config = started(path, out=out, model=ModelConfig(**flags))
  assert (config.model.depth, config.model.epsilon) == (10, 0.1)
  records.claim(out, config)
  path.unlink()
  again = started(path, out=out, model=ModelConfig(**flags))
  assert identity(again) == identity(config)
  # A flag that says something else is still another run.
  other = started(path, out=out, model=ModelConfig(**flags, epsilon=0.2))
  with pytest.raises(ConfigurationError, match=r"--model.epsilon: 0.1 -> 0.2"):
    records.check_config(out, other)
