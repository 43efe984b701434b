"""A command line: read and checked, or refused in a line that says the flag, the value and what would fit."""

import dataclasses
import pathlib
from typing import Annotated

import pytest
from annotated_types import Ge, Le
from conftest import run

from dn_jax.commands.flags import choose, parse
from dn_jax.config.schema import ModelConfig, RunConfig
from dn_jax.errors import UserError


def refused(command, *words):
  with pytest.raises(UserError) as end:
    parse(command, args=words)
  return str(end.value)


@pytest.mark.parametrize(
  ("words", "line"),
  [
    ("--model.depth abc", "--model.depth abc: a whole number"),
    ("--epochs 1.5", "--epochs 1.5: a whole number"),
    ("--batch-size=", "--batch-size '': a whole number"),
    ("--seed 1e3", "--seed 1e3: a whole number"),
    ("--seed -1", "--seed -1: must be at least 0"),
    ("--epochs 3 --epochs 0", "--epochs 0: must be at least 1"),
    ("--model.depth 10001", "--model.depth 10001: must be at most 10,000"),
    ("--optimizer.learning-rate nan", "--optimizer.learning-rate nan: must be above 0"),
    ("--optimizer.momentum 1", "--optimizer.momentum 1.0: at least 0, below 1"),
    ("--optimizer.drops 0.5 x", "--optimizer.drops 0.5 x: one or more numbers"),
    ("--optimizer.drops 0.5 2", "--optimizer.drops (0.5, 2.0): shares of the epochs, above 0, at most 1"),
    (
      "--model.blocks 6,6",
      "--model.blocks 6,6: one or more whole numbers: 6 6",
    ),
    ("--model.blocks", "--model.blocks (): one or more blocks of at least 1 layer"),
    ("--model.depth", "--model.depth: needs a value, a whole number"),
    ("--model.dtype float8", "--model.dtype float8: float32 or bfloat16"),
    ("--modle.depth 40", "--modle.depth 40: there is no such flag; did you mean --model.depth"),
    ("--modle.depth=40", "--modle.depth 40: there is no such flag; did you mean --model.depth"),
    ("--xyzzy --seed 3", "--xyzzy: there is no such flag; --help lists them"),
    (
      "--epochs 3 4",
      "4: one word too many after --epochs; ablate.py takes several values of a flag, with commas between them",
    ),
    ("--data.augment maybe", "maybe: one word too many after --data.augment"),
    ("digits", "digits: did you mean --data.name digits?"),
    ("densenet-121", "densenet-121: did you mean --model.name densenet-121?"),
    ("dots", "dots: belongs to no flag"),
    ("--depth 40", "--depth 40: there is no such flag; did you mean --model.depth?"),
    (
      "--name digits",
      "--name digits: there is no such flag; did you mean --data.name or --model.name or --optimizer.name?",
    ),
    ("--resume runs/one", "--resume runs/one: there is no such flag; did you mean --out?"),
  ],
)
def test_a_wrong_word_of_a_run_is_one_line(words, line, capsys):
  said = refused(RunConfig, *words.split())
  assert said.startswith(line)
  assert "?" in said.removeprefix(line) or said == line
  assert len(said.splitlines()) == 1
  assert capsys.readouterr() == ("", "")


def test_right_words_become_the_dataclass_and_words_of_others_are_left():
  config = parse(RunConfig, args=["--model.depth", "40", "--data.augment", "--optimizer.drops", "0.5", "0.9"])
  assert (config.model, config.data.augment, config.optimizer.drops) == (ModelConfig(depth=40), True, (0.5, 0.9))
  assert parse(RunConfig, args=["--seed", "3", "--columns", "a"], leave_unknown=True) == (
    RunConfig(seed=3),
    ["--columns", "a"],
  )


@dataclasses.dataclass(frozen=True)
class Sizes:
  height: Annotated[int, Ge(1), Le(9)] = 1


def command(
  run: pathlib.Path, sizes: Sizes = Sizes(), count: Annotated[int, Ge(1)] = 1, names: tuple[str, ...] = ()
) -> tuple:
  """A command that is a function."""
  return run, sizes, count, names


def test_a_function_is_called_once_its_flags_are_checked():
  assert parse(command, args=["--run", "x"]) == (pathlib.Path("x"), Sizes(), 1, ())
  found = parse(command, args=["--run", "x", "--sizes.height", "3", "--count", "2", "--names", "a", "b"])
  assert found == (pathlib.Path("x"), Sizes(3), 2, ("a", "b"))
  assert refused(command, "--run", "x", "--count", "0") == "--count 0: must be at least 1"
  assert refused(command, "--run", "x", "--sizes.height", "10") == "--sizes.height 10: must be at most 9"
  assert refused(command, "--count", "3") == "--run: has to be given: a path"
  assert refused(command, "--rum", "x").startswith("--rum x: there is no such flag; did you mean --run")


def test_a_mistake_within_a_function_is_its_own():
  def breaks(count: int = 1) -> None:
    raise ValueError(f"of {count}")

  with pytest.raises(ValueError, match=r"^of 2$"):
    parse(breaks, args=["--count", "2"])


def test_a_wrong_flag_is_answered_without_importing_jax():
  code = (
    "import sys; from dn_jax.commands import flags; from dn_jax.config.schema import RunConfig\n"
    "try: flags.parse(RunConfig, args=['--epochs', '0'])\n"
    "except Exception as error: print(error, 'jax' in sys.modules)"
  )
  assert run("-c", code).stdout == "--epochs 0: must be at least 1 False\n"


def test_the_first_word_chooses_among_functions_and_the_others_are_its_flags(monkeypatch):
  drawn = []

  def curve(width: Annotated[int, Ge(1)] = 3) -> None:
    drawn.append(width)

  def chosen(*words):
    monkeypatch.setattr("sys.argv", ["picture", *words])
    choose({"curve": curve, "heat": curve}, "Draws.")

  chosen("curve", "--width", "5")
  assert drawn == [5]
  for words, line in (
    ((), "give one of curve, heat"),
    (("crve",), "crve: did you mean curve?"),
    (("curve", "--wdth", "5"), "--wdth 5: there is no such flag; did you mean --width?"),
    (("curve", "--width", "0"), "--width 0: must be at least 1"),
  ):
    with pytest.raises(UserError) as end:
      chosen(*words)
    assert str(end.value) == line
  assert drawn == [5]
