"""Targets by name; compilers that are missing are said to be."""

import importlib.util
from importlib import metadata

import pytest

from dn_jax.errors import ConfigurationError
from dn_jax.planner import targets


def test_this_machine_has_memory_and_its_compiler_a_version():
  here = targets.target("here")
  assert here.chip is None
  assert here.memory > 2**30
  assert metadata.version("jaxlib") in here.compiler


@pytest.mark.parametrize(
  ("name", "answer"),
  [
    ("v7", "one of here, v4, v5e, v5p, v6e, h100, or a TPU slice such as v5e:2x2"),
    ("gtx", "one of here, v4, v5e"),
    ("h100:8", "one GPU is planned for; h100"),
  ],
)
def test_a_name_that_is_unknown_is_answered_with_those_that_are(name, answer):
  with pytest.raises(ConfigurationError, match=f"--target {name}: .*{answer}"):
    targets.target(name)


def test_a_compiler_that_is_missing_is_said_with_what_brings_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(metadata, "distributions", lambda: [])
  with pytest.raises(ConfigurationError, match=r"--target v5e:2x2: needs the TPU compiler: pip install -e '\.\[tpu\]'"):
    targets.target("v5e:2x2")
  with pytest.raises(ConfigurationError, match=r"--target h100: needs the GPU compiler: pip install -e '\.\[cuda\]'"):
    targets.target("h100")


def test_this_machine_is_asked_for_last_and_the_order_is_kept(monkeypatch):
  asked = []
  monkeypatch.setattr(targets, "target", lambda name: asked.append(name) or name.upper())
  assert targets.targets(["here", "h100", "here", "v5e"]) == ["HERE", "H100", "HERE", "V5E"]
  assert asked[-1] == "here"
  assert sorted(asked) == ["h100", "here", "v5e"]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU's compiler, libtpu, is not installed")
def test_a_slice_that_there_is_none_of_is_refused():
  with pytest.raises(ConfigurationError, match="--target v5e:3x7: its compiler does not describe it"):
    targets.target("v5e:3x7")
