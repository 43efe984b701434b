"""experiments/: the commands as scripts, and the research programs."""

import importlib
import runpy

import pytest
from conftest import ROOT, call

from dn_jax.__main__ import COMMANDS

RESEARCH = {"accelerator", "benchmark", "loading", "memory_table", "parity", "torture"}
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


@pytest.mark.parametrize("name", sorted(RESEARCH))
def test_a_research_program_refuses_a_wrong_flag_in_one_line(name):
  done = call(f"experiments/{name}.py", *(["record.npz"] if name == "parity" else []), "--no-such-flag", "3")
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr == "error: --no-such-flag 3: there is no such flag; --help lists them\n"


def test_a_memory_table_of_nothing_is_refused_in_one_line():
  for flags, line in (
    (("--batch-sizes", "0"), "--batch-sizes (0,): one or more, each at least 1"),
    (("--policies",), "--policies (): one or more"),
    (("--csv", "/nowhere/m.csv"), "--csv /nowhere/m.csv: is no file in a folder that exists"),
  ):
    done = call("experiments/memory_table.py", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {line}")
