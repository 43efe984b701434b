"""`--help` of every command: whole sentences, the value in force, lines that fit a terminal."""

import dataclasses
import re
import typing

import pytest
from conftest import call

from dn_jax.__main__ import COMMANDS
from dn_jax.commands import explain
from dn_jax.commands.picture import FIGURES

RESEARCH = ("benchmark", "loading", "memory_table", "parity", "torture")
WITH_FLAGS = [
  *[("dn_jax", name) for name in COMMANDS if name != "picture"],
  *[("dn_jax", "picture", name) for name in FIGURES],
  *[(f"experiments/{name}.py",) for name in RESEARCH],
]


def shown(words, monkeypatch):
  """The help of a command on a terminal of 80 columns."""
  monkeypatch.setenv("COLUMNS", "80")
  done = call(*words, "--help")
  assert (done.returncode, done.stderr) == (0, "")
  # tyro's own line may be longer.
  assert [line for line in done.stdout.splitlines() if len(line) > 80 and not line.startswith("usage: ")] == []
  return done.stdout


@pytest.mark.parametrize("words", WITH_FLAGS, ids=" ".join)
def test_every_flag_has_a_whole_sentence_and_says_what_holds_without_it(words, monkeypatch):
  said = {}
  sentence = explain._sentence

  def noted(kind, name):
    if not dataclasses.is_dataclass(typing.get_type_hints(kind)[name]):
      said[name] = sentence(kind, name) or ""
    return sentence(kind, name)

  monkeypatch.setattr(explain, "_sentence", noted)
  text = shown(words, monkeypatch)
  assert said
  assert {name: line for name, line in said.items() if not re.fullmatch(r"[A-Z]\w+ \S+ [^{}]*\.", line)} == {}
  assert "(unset)" not in text
  assert "{}" not in text


@pytest.mark.parametrize("words", [("dn_jax", "picture"), ("experiments/accelerator.py",)], ids=" ".join)
def test_other_helps_fit_a_terminal_too(words, monkeypatch):
  assert "experiments/" in shown(words, monkeypatch)


def test_lines_of_examples_stay_and_prose_is_as_wide_as_the_terminal(monkeypatch):
  monkeypatch.setenv("COLUMNS", "30")
  text = "Prose that is\nlonger than a line is.\n\n  a command of many flags \\\n    --and-more\n\nAn end."
  assert explain.paragraphs(text, "--debug is last.").splitlines() == [
    "Prose that is longer than a",
    "line is.",
    "",
    "  a command of many flags \\",
    "    --and-more",
    "",
    "An end.",
    "",
    "--debug is last.",
  ]
