"""The time of a step, by hand from the chips' published numbers."""

import dataclasses

import pytest

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.planner import targets
from dn_jax.planner.estimate import Estimate, estimate
from dn_jax.planner.plan import Plan

MODEL = complete_model(ModelConfig(depth=10, growth_rate=4))
V5E, H100 = (targets.kept(name, "a compiler") for name in ("v5e", "h100"))


def test_a_tpus_step_takes_its_cycles_or_its_traffic_whichever_is_longer():
  # 8.19 GB at 819 GB/s; what stays in the fast memory and FLOPs do not count.
  found = estimate(Plan(flops=1e15, traffic=1e13, cycles=3_000_000, hbm=8_190_000_000, fast=10**12), V5E, MODEL)
  assert found.moving == pytest.approx(0.01)
  assert found.computing == pytest.approx(0.002, rel=3e-3)
  assert found.seconds == found.moving
  assert estimate(Plan(cycles=30_000_000, hbm=1), V5E, MODEL).seconds == pytest.approx(0.02, rel=3e-3)


# GHz: v4 and v5e as published elsewhere (1.05, 1.5); v5p 1.75.
@pytest.mark.parametrize(("name", "clock"), [("v4", 1.05), ("v5e", 1.5), ("v5p", 1.75), ("v6e", 1.75)])
def test_a_clock_is_the_peak_over_what_the_matrix_units_do_in_a_cycle(name, clock):
  assert targets.CHIPS[name].clock == pytest.approx(clock * 1e9, rel=3e-3)


def test_a_gpus_step_takes_flops_traffic_or_kernels():
  plan = Plan(flops=9.89e12, hbm=3_352_000_000, kernels={"fusion": 1000, "reduction": 1000})
  found = estimate(plan, H100, dataclasses.replace(MODEL, dtype="bfloat16"))
  assert found == Estimate(pytest.approx(0.01), pytest.approx(0.001), pytest.approx(0.007))
  assert found.seconds == pytest.approx(0.01)
  assert estimate(plan, H100, dataclasses.replace(MODEL, precision="highest")).computing == pytest.approx(9.89 / 67)
  many = dataclasses.replace(plan, kernels={"fusion": 10_000})
  assert estimate(many, H100, dataclasses.replace(MODEL, dtype="bfloat16")).seconds == pytest.approx(0.035)


def test_there_is_no_estimate_where_chip_or_compiler_say_too_little():
  known = Plan(flops=1.0, cycles=1, hbm=1)
  assert estimate(known, targets.target(targets.HERE), MODEL) is None
  for less in ({"hbm": None}, {"cycles": None}, {"refusal": "too large"}):
    assert estimate(dataclasses.replace(known, **less), V5E, MODEL) is None
  assert estimate(dataclasses.replace(known, flops=None), H100, MODEL) is None
