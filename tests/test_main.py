"""python -m dn_jax and the console command, and the code on the pages."""

import configparser
import importlib
import re
import sys

import pytest
from conftest import ROOT, call, run

import dn_jax
from dn_jax import __main__ as program

# What takes long to import.
HEAVY = ("jax", "flax", "orbax", "grain", "matplotlib", "sklearn", "tensorflow", "tensorflow_datasets", "cv2", "ray")
MISTYPED = f"""
import contextlib, io, sys
from dn_jax import __main__ as program

for name in program.COMMANDS:
  sys.argv = ["dn-jax", name, "--no-such-flag"]
  with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    try:
      program.main()
      code = 0
    except SystemExit as end:
      code = end.code
  print(name, code, *sorted(set({HEAVY}) & set(sys.modules)))
"""


@pytest.mark.parametrize("name", program.COMMANDS)
def test_a_command_is_main_of_its_module_and_gets_the_other_words(name, monkeypatch):
  called = []
  monkeypatch.setattr(importlib.import_module(f"dn_jax.commands.{name}"), "main", lambda: called.append(sys.argv))
  monkeypatch.setattr(sys, "argv", ["/path/__main__.py", name, "--flag", "3"])
  program.main()
  assert called == [[f"python -m dn_jax {name}", "--flag", "3"]]


def test_a_mistyped_flag_is_refused_before_anything_heavy_is_imported():
  done = run("-c", MISTYPED)
  assert done.stdout.splitlines() == [f"{name} 2" for name in program.COMMANDS], done.stderr


def test_no_command_and_a_wrong_one_are_one_line():
  listed = ", ".join(program.COMMANDS)
  for words, answer in (
    ((), f"error: no command; one of {listed}\n"),
    (("trian",), "error: trian: did you mean train?\n"),
    (("--fast",), f"error: --fast: one of {listed}\n"),
  ):
    done = call("dn_jax", *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", answer)


def test_help_has_a_line_for_every_command():
  done = call("dn_jax", "--help")
  assert done.returncode == 0
  for name, what in program.COMMANDS.items():
    assert [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(f"  {name} ")] == [
      [name, what]
    ]


def test_the_version_names_the_commit(monkeypatch):
  monkeypatch.setattr("dn_jax.system.provenance.commit", lambda: "ab12+")
  assert call("dn_jax", "--version").stdout == f"dn_jax {dn_jax.__version__}, commit ab12+\n"
  monkeypatch.setattr("dn_jax.system.provenance.commit", lambda: None)  # Installed without git.
  assert call("dn_jax", "--version").stdout == f"dn_jax {dn_jax.__version__}\n"


def test_python_m_dn_jax_and_the_console_command_of_setup_cfg_are_the_same_program():
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  ((name, value),) = (
    map(str.strip, line.split("=")) for line in setup["options.entry_points"]["console_scripts"].split("\n") if line
  )
  # As the script that pip writes.
  script = f"import sys; from importlib.metadata import EntryPoint as E; sys.argv[0] = '/bin/{name}'; "
  script += f"sys.exit(E('{name}', '{value}', 'console_scripts').load()())"
  for command, called in ((("-m", "dn_jax"), "python -m dn_jax"), (("-c", script), "dn-jax")):
    done = run(*command, "zoo", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {called} zoo [-h] [--matching STR]")
    done = run(*command, "zoo", "--matching", "no-such")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --matching no-such: no network of that name; python -m dn_jax zoo lists them")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("page", "smaller"),
  [
    (
      "README.md",
      {"blocks_of_depth(100, bottleneck=True)": "blocks_of_depth(10, bottleneck=True)[:1]", "64, 32, 32": "4, 8, 8"},
    ),
    (
      "docs/weights.md",
      {
        'ModelConfig(name="densenet-121")': "ModelConfig(blocks=(1,), growth_rate=4)",
        "1, 224, 224": "4, 8, 8",
        "=1000": "=10",
      },
    ),
  ],
)
def test_the_code_on_a_page_runs(page, smaller, tmp_path, monkeypatch):
  (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
  # A network of the same make, small enough to run here.
  for written, small in smaller.items():
    assert written in code
    code = code.replace(written, small)
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(code, page, "exec"), names)
  assert names["logits"].shape == (4, 10)
