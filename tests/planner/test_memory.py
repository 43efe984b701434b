"""The formula for a step's memory, against this machine's compiler and against what was measured."""

import dataclasses

import pytest

from dn_jax.config.network import complete_model, remat_policies
from dn_jax.config.schema import ModelConfig
from dn_jax.planner import memory, targets
from dn_jax.planner.plan import Question, compile_step

MIB = 2**20


def question(batch_size=64, accumulation=1, **model):
  return Question(complete_model(ModelConfig(**model)), 10, (32, 32, 3), batch_size, 1, accumulation)


# MiB of temporaries by this machine's compiler, optimised: docs/performance.md, "Memory by depth".
@pytest.mark.parametrize(
  ("depth", "compiled"),
  [
    (22, {"none": 208, "dense_layer": 97, "bottleneck": 155, "block": 94, "layer_by_layer": 106}),
    (100, {"none": 2105, "dense_layer": 565, "bottleneck": 684, "block": 523, "layer_by_layer": 243}),
  ],
)
def test_the_formula_is_within_its_factor_of_what_was_measured(depth, compiled):
  for policy, size in compiled.items():
    assert 1 / memory.FACTOR < size * MIB / memory.temporaries(question(depth=depth), policy) < memory.FACTOR


@pytest.mark.slow
@pytest.mark.parametrize(
  "model",
  [{"blocks": (2,), "growth_rate": 8}, pytest.param({"family": "resnet", "depth": 8}, marks=pytest.mark.thorough)],
)
def test_the_formula_is_within_its_factor_of_the_compiler(model):
  asked, here = question(16, **model), targets.target("here")
  for policy in {"none", "dense_layer"} & set(remat_policies(asked.model)):
    found = compile_step(asked.under(policy), here)
    assert 1 / memory.FACTOR < found.temporaries / memory.temporaries(asked, policy) < memory.FACTOR


def test_memory_follows_batch_devices_and_dtype():
  one = question(depth=40)
  size = memory.temporaries(one, "none")
  assert memory.temporaries(dataclasses.replace(one, batch_size=128), "none") == 2 * size
  assert memory.temporaries(one, "none", devices=8) == size / 8
  assert memory.temporaries(dataclasses.replace(one, accumulation=2), "none") == size / 2
  assert memory.temporaries(question(depth=40, dtype="bfloat16"), "none") == size / 2


def test_parameters_are_nearly_counted():
  # The zoo has counted 769,162 and 36,479,194; the formula leaves out stem, transitions, shortcuts and norms.
  for name, count in (("densenet-bc-100-12", 769_162), ("wide-28-10", 36_479_194)):
    asked = question(name=name)
    found = (memory.needed(asked, "none") - memory.temporaries(asked, "none")) / 12
    assert 0.85 * count < found < count
