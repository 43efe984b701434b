"""YAML as JSON has it: numbers are numbers, nothing is guessed, nothing stands for something else."""

import itertools
import re

import pytest

from dn_jax.config import plain_yaml


@pytest.mark.parametrize(
  ("text", "value"),
  [
    *(("1e-05", 1e-5), ("1E3", 1000.0), ("-1.5e+3", -1500.0), (".5", 0.5), ("1.", 1.0), ("0", 0), ("-3", -3)),
    *(("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'1'", "1")),
    # YAML 1.1 takes these for a number, a truth or a day.
    *((text, text) for text in ("010", "1:30", "1_000", "0x10", "no", "on", "2001-01-01", ".inf", ".", "-", "9" * 30)),
    *(("[1, 2.0, x]", [1, 2.0, "x"]), ("{a: {b: 1}}", {"a": {"b": 1}}), ('"\\u00e9"', "é"), ("<<", "<<")),
  ],
)
def test_a_value_is_what_json_would_have(text, value):
  found = plain_yaml.read(f"name: {text}") if text != "-" else plain_yaml.read("name: '-'")
  assert found == {"name": value}
  assert type(found["name"]) is type(value)


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("a: &x [1]\nb: 2", "line 1: neither & nor * nor ! is read; write it out"),
    ("a: 1\nb: *x", "line 2: neither & nor * nor ! is read; write it out"),
    ("a: !!python/object/apply:os.getcwd []", "line 1: neither & nor * nor ! is read; write it out"),
    ("a: !!int '3'", "line 1: neither & nor * nor ! is read; write it out"),
    ("a: 1\nb: 2\na: 3", "line 3: a is there twice"),
    ("a: {b: 1, b: 1}", "line 1: b is there twice"),
    ("? [a]\n: 1", "line 1: a list or mapping as a name"),
    ("a: 1\n---\nb: 2", "line 2: but found another document"),
    ("a: [1,\nb", "line 2: expected ',' or ']', but got '<stream end>'"),
    ("a: \x07", "special characters are not allowed"),
  ],
)
def test_what_json_cannot_say_is_refused_in_a_line(text, line):
  with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
    plain_yaml.read(text)


def test_a_short_text_that_stands_for_a_huge_one_is_not_read_out():
  names = "abcdefghi"
  bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(names)
  )
  with pytest.raises(ValueError, match="line 1: neither &"):
    plain_yaml.read(bomb)
