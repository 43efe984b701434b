"""A digest tells two programs apart wherever they differ, and is the same for the same program."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from jax.sharding import PartitionSpec

from dn_jax.config.schema import OptimizerConfig
from dn_jax.distributed.layout import Layout, make_layout_of_one
from dn_jax.models.densenet import DenseNet
from dn_jax.models.resnet import ResNet
from dn_jax.system import made_of
from dn_jax.training import optimizer, step

PUBLISHED = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (0.5,), 0.1)
SCALE = 2.0


def train_step(layout=None, rate=PUBLISHED, epochs=2, objective=step.Objective(), resnet=None, frozen=(), **densenet):
  sizes = {"blocks": (1,), "growth_rate": 4, "num_classes": 5, "initial_channels": 8} | densenet
  network = ResNet(resnet, 1, 5) if resnet else DenseNet(**sizes)
  sgd = optimizer.make(rate, optimizer.learning_rate(rate, epochs, 10, 64), frozen)
  return step.make_train_step(network, sgd, layout or make_layout_of_one(), objective=objective)


@pytest.mark.parametrize(
  "changed",
  [
    {"growth_rate": 6},
    {"remat": "none"},
    {"dropout_rate": 0.2},
    {"dtype": jnp.bfloat16},
    {"precision": jax.lax.Precision.HIGHEST},
    {"rate": dataclasses.replace(PUBLISHED, learning_rate=0.2)},
    {"rate": dataclasses.replace(PUBLISHED, schedule="cosine")},
    {"rate": dataclasses.replace(PUBLISHED, classifier_rate=2.0)},
    {"rate": dataclasses.replace(PUBLISHED, average=0.9)},
    {"rate": dataclasses.replace(PUBLISHED, rate_batch=256, warmup_epochs=1.0)},
    {"rate": dataclasses.replace(PUBLISHED, decay="kernels")},
    {"rate": dataclasses.replace(PUBLISHED, name="adamw", beta2=0.999)},
    {"rate": dataclasses.replace(PUBLISHED, schedule="cosine", final_rate=0.01)},
    {"rate": dataclasses.replace(PUBLISHED, warmup_epochs=1.0, warmup_rate=0.05)},
    {"frozen": ("stem",)},
    {"resnet": "resnet"},
    {"resnet": "wide"},
    {"epochs": 3},
    {"objective": step.Objective(label_smoothing=0.1)},
    {"layout": Layout(tuple(jax.devices()[:1]), 2)},
  ],
)
def test_a_training_step_has_a_digest_of_its_own(changed):
  assert made_of.digest(train_step()) == made_of.digest(train_step())
  assert made_of.digest(train_step(**changed)) != made_of.digest(train_step())


def times(factor, more=0.0):
  return lambda x: factor * x + more


def scaled(x):
  return SCALE * x


def counting(n):
  return n and counting(n - 1)


PAIRS = {
  "closures": (times(2.0), times(3.0)),
  "types of numbers": (times(2.0), times(2)),
  "second of two closures": (times(2.0, 1.0), times(2.0, 2.0)),
  "constants in code": (lambda x: x + 1, lambda x: x + 2),
  "operations": (lambda x: x + 1, lambda x: x - 1),
  "what a module gives": (lambda x: jnp.sin(x), lambda x: jnp.cos(x)),
  "functions within functions": (lambda x: (lambda y: y + 1)(x), lambda x: (lambda y: y + 2)(x)),
  "defaults": (lambda x, y=1: x, lambda x, y=2: x),
  "arguments given": (functools.partial(times, more=1.0), functools.partial(times, more=2.0)),
  "values of arrays": (np.float32([1, 2]), np.float32([1, 3])),
  "types of arrays": (np.float32([1, 2]), np.float64([1, 2])),
  "shapes of arrays": (np.zeros((2, 3)), np.zeros((3, 2))),
  "values by name": ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
  "kinds of containers": ((1, 2), [1, 2]),
  "borders of containers": (((1,), (2, 3)), ((1, 2), (3,))),
  "text and bytes": ("a", b"a"),
  "specs": (PartitionSpec("data"), PartitionSpec(None, "data")),
  "classes": (jnp.float32, jnp.bfloat16),
}


@pytest.mark.parametrize("name", PAIRS)
def test_values_that_differ_have_digests_that_differ(name):
  one, other = PAIRS[name]
  assert made_of.digest(one) != made_of.digest(other)


def test_a_function_from_elsewhere_counts_with_the_globals_that_it_reads(monkeypatch):
  before = made_of.digest(scaled)
  assert made_of.digest(scaled) == before
  monkeypatch.setitem(globals(), "SCALE", 3.0)
  assert made_of.digest(scaled) != before


def test_a_function_that_calls_itself_has_a_digest():
  assert made_of.digest(counting) == made_of.digest(counting)


def test_the_order_of_a_set_does_not_count():
  one, other = set(), set()
  for number in (8, 16, 0):
    one.add(number)
  for number in (0, 16, 8):
    other.add(number)
  assert list(one) != list(other)  # They share a place, which the first takes.
  assert made_of.digest(one) == made_of.digest(other)


class Foreign:
  """Of a class whose code no digest covers."""


@pytest.mark.parametrize(
  "value", [Foreign(), lambda: Foreign, np.array([None]), iter([]), jnp.ones(2)], ids=lambda value: type(value).__name__
)
def test_a_value_of_an_unknown_kind_has_no_digest(value):
  with pytest.raises(made_of.UnknownError):
    made_of.digest([value])


@pytest.mark.slow
def test_another_process_finds_the_same_digest():
  # Its text hashes otherwise, so its sets and what depends on them lie in another order.
  code = "import test_made_of; print(test_made_of.made_of.digest(test_made_of.train_step(remat='none')))"
  paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'system'}"}
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, env=os.environ | paths | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True)
  assert done.stdout.split() == [made_of.digest(train_step(remat="none"))], done.stderr
