"""experiments/: the commands as scripts, and the research programs."""

import importlib
import runpy

import pytest
from conftest import ROOT

from dn_jax.__main__ import COMMANDS

RESEARCH = {"benchmark", "loading", "memory_table", "parity", "torture"}
SCRIPTS = sorted({path.stem for path in (ROOT / "experiments").glob("*.py")} - RESEARCH)


def test_every_script_is_a_command_and_those_without_one_are_of_python_m_dn_jax():
  assert set(COMMANDS) - set(SCRIPTS) == {"plan", "zoo", "summary"}
  assert set(SCRIPTS) <= set(COMMANDS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_the_command_of_its_name(name, monkeypatch):
  called = []
  monkeypatch.setattr(importlib.import_module(f"dn_jax.commands.{name}"), "main", lambda: called.append(name))
  runpy.run_path(str(ROOT / "experiments" / f"{name}.py"), run_name="imported")
  assert called == []
  runpy.run_path(str(ROOT / "experiments" / f"{name}.py"), run_name="__main__")
  assert called == [name]
