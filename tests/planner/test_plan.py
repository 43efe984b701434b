"""What the planner says, against counting by hand and against the policies tried one by one."""

import dataclasses
import json
import math

import jax
import pytest

from dn_jax.config.network import complete_model, remat_policies
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError
from dn_jax.models import build, summary
from dn_jax.planner import plan as planning
from dn_jax.planner import targets

SHAPE = (8, 8, 1)
BLOCKS, GROWTH_RATE = (2, 1), 4
MODEL = complete_model(ModelConfig(blocks=BLOCKS, growth_rate=GROWTH_RATE, remat="none"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def plan(batch_size, groups=1, accumulation=1, **changes):
  model = dataclasses.replace(MODEL, **changes)
  return planning.plan(planning.Question(model, 10, SHAPE, batch_size, groups, accumulation), targets.here())


def leaves(network):
  variables = jax.eval_shape(
    lambda key, x: network.init(key, x, False), jax.random.key(0), jax.numpy.zeros((1, *SHAPE))
  )
  return {name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for name, tree in variables.items()}


@pytest.mark.slow
def test_arguments_and_flops_are_what_counting_gives():
  found, network = plan(32), build.build(MODEL, 10)
  counted = leaves(network)
  # Parameters with their momentum, statistics, pixels, labels and weights, four bytes each; a few counters.
  numbers = 2 * counted["params"] + counted["batch_stats"] + 32 * (64 + 2)
  assert 0 <= found.arguments - 4 * numbers < 64
  # The backward pass costs twice the forward one, the stem's half of it excepted; the rest is not products.
  products = 3 * 32 * sum(row.flops for row in summary.layers(network, SHAPE))
  assert 0.8 < found.flops / products < 1.5
  assert found.collectives == {}
  # The new state takes the old one's place: what is left are four sums and a pointer to each result.
  assert found.outputs < 4 * counted["params"]
  assert found.peak == found.temporaries + found.arguments + found.outputs


def test_an_accumulation_that_does_not_divide_is_refused():
  with pytest.raises(ConfigurationError, match=r"--accumulation 3: each device works on 4 .* 1, 2, 4 fit"):
    plan(32, groups=4, accumulation=3)


def test_an_answer_is_kept_and_only_for_the_same_question(monkeypatch):
  asked = []

  def compile_step(question, where):
    asked.append((question.model.remat, question.model.dtype, question.batch_size, question.groups))
    return planning.Plan(question.batch_size, 1, 2, 3.0, 4.0, 5, {"all-reduce": (2, 80)}, 1)

  monkeypatch.setattr(planning, "compile_step", compile_step)
  first = plan(8)
  assert plan(8) == first == planning.Plan(8, 1, 2, 3.0, 4.0, 5, {"all-reduce": (2, 80)}, 1)
  assert len(asked) == 1
  plan(8, remat="block")
  plan(16)
  plan(8, dtype="bfloat16")
  plan(8, groups=2)
  assert asked == [
    ("none", "float32", 8, 1),
    ("block", "float32", 8, 1),
    ("none", "float32", 16, 1),
    ("none", "bfloat16", 8, 1),
    ("none", "float32", 8, 2),
  ]
  monkeypatch.setattr(planning, "_sources", lambda: "another version")
  plan(8)
  assert len(asked) == 6


def test_an_answer_that_was_cut_short_is_asked_again(tmp_path, monkeypatch):
  monkeypatch.setattr(planning, "compile_step", lambda *_: planning.Plan(5))
  plan(8)
  (kept,) = tmp_path.rglob("*.json")
  kept.write_text(kept.read_text()[:-40])
  monkeypatch.setattr(planning, "compile_step", lambda *_: planning.Plan(6))
  assert plan(8).temporaries == 6
  assert json.loads(kept.read_text())["plan"]["temporaries"] == 6


def once(function):
  known = {}

  def remembered(*arguments):
    if repr(arguments) not in known:
      known[repr(arguments)] = function(*arguments)
    return known[repr(arguments)]

  return remembered


@pytest.mark.slow
def test_auto_takes_the_policy_that_fits_and_recomputes_least(monkeypatch):
  # Of the same network each time.
  monkeypatch.setattr(planning, "flops_by_policy", once(planning.flops_by_policy))
  here = targets.target(targets.HERE)
  asked = planning.Question(complete_model(ModelConfig(blocks=(2,), growth_rate=4, bottleneck=False)), 10, SHAPE, 64)
  plans = {policy: planning.plan(asked.under(policy), here) for policy in remat_policies(asked.model)}
  peaks = sorted(plan.peak for plan in plans.values())
  # Memory for all of them, for all but the largest, and so on down to the smallest alone.
  for memory in peaks:
    policy, found = planning.choose(asked, dataclasses.replace(here, memory=memory))
    fitting = {name: plan.flops for name, plan in plans.items() if plan.peak <= memory}
    assert found == plans[policy]
    assert policy in fitting
    # The compiler's own count of what it left in may differ a little from what it was given.
    assert fitting[policy] <= 1.05 * min(fitting.values())
  at_peak = dataclasses.replace(here, memory=peaks[-1])
  assert planning.choose(asked, at_peak, beside=peaks[-1] - peaks[0])[1].peak == peaks[0]
  with pytest.raises(ConfigurationError, match=r"--batch-size 64: fits 0\.00 GiB of memory under no remat policy"):
    planning.choose(asked, dataclasses.replace(here, memory=peaks[0] - 1))


def test_auto_leaves_out_what_a_network_cannot_take():
  assert "bottleneck" not in remat_policies(complete_model(ModelConfig(depth=10, bottleneck=False)))
  assert remat_policies(complete_model(ModelConfig(family="resnet", depth=8))) == ("none", "dense_layer")


def test_collectives_are_read_off_a_programs_text():
  text = """
  %a = f32[24]{0:T(128)S(1)} all-reduce(%x), channel_id=1, replica_groups={{0,1}}
  %b = (bf16[3,3,48,12]{3,2,1,0}, s32[]) all-reduce(%y, %z), channel_id=2, to_apply=%add
  %c = (f32[8]{0}, f32[16]{0}) all-gather-start(%w), dimensions={0}
  %d = f32[16]{0} all-gather-done(%c)
  ROOT %e = pred[7]{0} fusion(%all-reduce), kind=kLoop
  """
  assert planning.collectives(text) == {"all-reduce": (2, 24 * 4 + 3 * 3 * 48 * 12 * 2 + 4), "all-gather": (1, 48)}


@pytest.mark.thorough
def test_two_devices_exchange_every_gradient_once_and_halve_the_batch(eight_devices):
  found = eight_devices.case("planned", BLOCKS, GROWTH_RATE, SHAPE, 32, 2)
  counted = leaves(build.build(MODEL, 10))
  numbers = 2 * counted["params"] + counted["batch_stats"] + 16 * (64 + 2)
  assert 0 <= found["arguments"] - 4 * numbers < 64
  _, size = found["collectives"]["all-reduce"]
  # Statistics are exchanged too, forward and back, and the sums that are reported.
  assert 4 * counted["params"] <= size <= 4 * (counted["params"] + 4 * counted["batch_stats"] + 16)


def test_an_estimate_is_the_slower_of_computing_and_moving():
  chip = targets.CHIPS["v5e"]
  where = dataclasses.replace(targets.target(targets.HERE), chip=chip)
  moved, computed = planning.Plan(flops=1.0, traffic=8.19e9), planning.Plan(flops=1.97e12, traffic=1.0)
  assert planning.seconds(moved, where, MODEL) == pytest.approx(0.01)
  assert planning.seconds(computed, where, MODEL) == pytest.approx(0.01)
  assert planning.seconds(computed, where, dataclasses.replace(MODEL, precision="highest")) == pytest.approx(0.06)
  assert planning.seconds(dataclasses.replace(moved, flops=None), where, MODEL) is None
  assert planning.seconds(moved, targets.target(targets.HERE), MODEL) is None
