"""Mutations of what comes from outside, drawn from a seed: `FUZZ=5000 FUZZ_SEED=7 python -m pytest tests/fuzz`."""

import json
import math
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dn_jax.errors import UserError

SEED = os.environ.get("FUZZ_SEED", "0")
# Cases of each kind.
COUNTS = [int(os.environ["FUZZ"])] if "FUZZ" in os.environ else [40, pytest.param(500, marks=pytest.mark.thorough)]
# Seconds of the processor for one case, and bytes for all of a test.
_SECONDS, _BYTES = 5, 2**30
_NESTED = "a place for many brackets"

VALUES = (
  *(None, True, False, "", "abc", "False", "none", "complex64", "\x1b[31m", "\udc80", "$x$_{", "1e5", "NaN"),
  *(0, -1, 1, 2, 3, 7, 10**4, 10**7, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**20, 10**400, 0.0, -0.0, 0.5, 1.5, -1.5),
  *(1e-320, 1e-30, 1e30, 1e38, 1e308, -1e308, math.nan, math.inf, -math.inf),
  *([], {}, [None], [[1.0]], [10**7], [10_000] * 3, [1] * 2000, [0], ["a", "a"], {"a": {}}, {"name": "x"}, _NESTED),
)


def mutated(record: Any, rng: random.Random) -> str:
  """The JSON of a record in which one to three things are changed."""
  record = json.loads(json.dumps(record))
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    record = _changed(record, rng)
  text = json.dumps(record)
  while f'"{_NESTED}"' in text:
    depth, kind = rng.choice((50, 500, 5000)), rng.choice(("[]", '{"a":}'))
    nested = kind[:-1] * depth + "1" + kind[-1] * depth
    text = text.replace(f'"{_NESTED}"', nested, 1)
  if rng.random() < 0.1:
    place = rng.randrange(len(text) + 1)
    text = rng.choice((text[:place], text[:place] + chr(rng.randrange(128)) + text[place + 1 :], text + text))
  return text


def _changed(value: Any, rng: random.Random) -> Any:
  if isinstance(value, dict) and value and rng.random() < 0.9:
    name = rng.choice(list(value))
    match rng.randrange(10):
      case 0:
        return {key: each for key, each in value.items() if key != name}
      case 1:
        return {(f"{key}x" if key == name else key): each for key, each in value.items()}
    return value | {name: _changed(value[name], rng)}
  if isinstance(value, list) and value and rng.random() < 0.6:
    place = rng.randrange(len(value))
    changed = [*value[:place], _changed(value[place], rng), *value[place + 1 :]]
    return rng.choice((changed, value[:place], (value * 300)[:10_000]))
  if type(value) in (int, float) and rng.random() < 0.3:
    as_float = float(value) if abs(value) < 10**300 else 1e300
    return rng.choice((-value, value + 1, value * 10**6, as_float, str(value)))
  return rng.choice(VALUES)


def cases(kind: str, count: int) -> Iterator[random.Random]:
  """A generator of random numbers for each case; what a case takes is bounded, in time and memory."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for number in range(count):
    begin = time.process_time()
    yield random.Random(f"{SEED} {kind} {number}")
    assert time.process_time() - begin < _SECONDS, f"{kind}, seed {SEED}, case {number} takes long"
  assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < _BYTES


def outcome(read: Callable[[], Any], case: object) -> Any:
  """What is read; None where it is refused in one line. Anything else that is raised is a fault."""
  try:
    return read()
  except UserError as error:
    line = str(error)
  except Exception as error:
    raise AssertionError(f"{type(error).__name__}: {case!r:.2000}") from error
  assert len(line.splitlines()) == 1, f"{line:.2000} {case!r:.2000}"
  assert len(line) < 2000, f"{case!r:.2000}"
  return None


def numbers(value: Any) -> Iterator[float]:
  """All numbers in a nest of JSON's types."""
  if isinstance(value, dict | list | tuple):
    for each in value.values() if isinstance(value, dict) else value:
      yield from numbers(each)
  elif isinstance(value, int | float) and not isinstance(value, bool):
    yield value
