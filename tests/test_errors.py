"""Mistakes that a person can mend."""

import pickle

import pytest

from dn_jax.config.weights_file import WeightsError
from dn_jax.errors import ConfigurationError, UserError, first_line, in_a_line
from dn_jax.weights import shapes


def test_a_mistake_of_another_process_is_the_same_line_here():
  error = pickle.loads(pickle.dumps(ConfigurationError("epochs", 0, "must be at least 1")))
  assert (str(error), error.flag, error.fits) == ("--epochs 0: must be at least 1", "epochs", "must be at least 1")


def test_of_a_long_list_the_beginning_is_shown_and_a_path_whole():
  assert str(ConfigurationError("model.blocks", (1,) * 2000, "too many")).endswith("...: too many")
  assert len(str(ConfigurationError("model.blocks", (1,) * 2000, "too many"))) < 400
  assert str(ConfigurationError("out", "a" * 4000, "is no folder")) == f"--out {'a' * 4000}: is no folder"


@pytest.mark.parametrize("name", ["a\nb", "a\n  b", "a\r\n  b", "a\u2028b", "a\x1b[2Jb"])
def test_a_name_does_not_break_a_line_and_a_list_has_a_line_for_each_part(name):
  error = ConfigurationError("out", name, "holds another run", f"was {name}", "is 5")
  assert [len(line.splitlines()) for line in in_a_line(error).split("\n  ")] == [1, 1, 1]
  assert len(in_a_line(UserError(f"{name}: is not a folder")).splitlines()) == 1
  assert in_a_line(pickle.loads(pickle.dumps(error))) == in_a_line(error)
  assert len(str(shapes.in_a_line("w.pth", WeightsError("do not fit", f"unknown: {name}"))).splitlines()) == 1


@pytest.mark.parametrize(
  ("error", "said"),
  [
    (ValueError(" no JSON\nat line 1"), "no JSON"),
    (KeyError(), "KeyError"),
    (ValueError("name '\x1b[2J\udc80'"), "name '\\x1b[2J\\x80'"),
    (ValueError("x" * 10**6), "x" * 300 + "..."),
  ],
)
def test_what_a_library_says_of_a_file_is_a_short_line(error, said):
  assert first_line(error) == said
