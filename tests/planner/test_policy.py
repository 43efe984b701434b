"""The policy that runs: as asked, by `auto`, and by default for each back end. Devices are stand-ins."""

import dataclasses
from types import SimpleNamespace

import pytest

from dn_jax.config.families import FAMILIES
from dn_jax.config.network import complete_model, remat_policies
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError
from dn_jax.planner import kept, policy, targets
from dn_jax.planner.asking import Told
from dn_jax.planner.plan import Plan, Question

SHAPE = (8, 8, 1)
GIB = 2**30


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
  """No answer comes with the package, and none is on this machine's disk."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(kept, "answers", lambda path=None: ())


def devices(kind, count=1):
  platform = {"T": "tpu", "N": "gpu", "c": "cpu"}[kind[0]]
  return (SimpleNamespace(platform=platform, device_kind=kind),) * count


def on(kind, memory=None, count=1):
  name = targets.kind_of(devices(kind)[0])
  return targets.Target("here", devices(kind, count), targets.CHIPS[name] if name else None, memory, "a compiler")


def question(batch_size=64, **model):
  return Question(complete_model(ModelConfig(**model)), 10, (32, 32, 3), batch_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_cpu_it_is_the_familys_own(family):
  depth = {"densenet": 40, "resnet": 8, "preactivation": 11, "wide": 10}.get(family)
  found, _ = policy.unless_told(question(family=family, depth=depth), on("cpu", 1))
  assert found == ("layer_by_layer" if family in ("densenet", "rdnet") else "dense_layer")


def test_on_a_gpu_it_is_none_where_memory_allows():
  asked = question(depth=100)
  # By the compiler for this machine `none` takes 2.1 GiB, `dense_layer` 0.6, `layer_by_layer` 0.24.
  for size, expected in ((None, "none"), (80 * GIB, "none"), (3 * GIB, "bottleneck"), (GIB // 4, "layer_by_layer")):
    assert policy.unless_told(asked, on("NVIDIA H200", size))[0] == expected
  # A data set on the device takes its place from it, and devices share the batch.
  assert policy.unless_told(asked, on("NVIDIA H200", 7 * GIB), beside=4 * GIB)[0] == "bottleneck"
  assert policy.unless_told(asked, on("NVIDIA H200", GIB, count=8))[0] == "none"
  found, why = policy.unless_told(question(family="wide", depth=10, widen_factor=8), on("NVIDIA H200", GIB // 2))
  assert (found, why) == ("dense_layer", "none may not fit")


def test_on_a_tpu_no_convolution_is_computed_twice_where_memory_allows():
  for model, expected in (
    ({"depth": 40}, "bottleneck"),
    ({"depth": 190, "growth_rate": 40}, "bottleneck"),
    ({"depth": 40, "bottleneck": False}, "layer_by_layer"),  # There is no bottleneck to keep.
    ({"family": "wide", "depth": 10, "widen_factor": 8}, "none"),
  ):
    asked = question(128, dtype="bfloat16", **model)
    assert policy.unless_told(asked, on("TPU v5 lite", 64 * GIB))[0] == expected, model
  asked = question(128, depth=100, dtype="bfloat16")
  assert policy.unless_told(asked, on("TPU v5 lite", GIB))[0] == "layer_by_layer"
  # A kind of TPU that is not known is still one.
  assert policy.unless_told(asked, on("TPU v9"))[0] == "bottleneck"


def keep(monkeypatch, asked, plans):
  """Has answers come with the package: plans by policy, of one v5e."""
  monkeypatch.setattr(
    kept,
    "answers",
    lambda path=None: tuple(
      kept.answer("densenet-bc-100-12", "v5e", asked.under(name), Told(plan, "libtpu 1", "a program", 2.0), 2.0)
      for name, plan in plans.items()
    ),
  )


def test_on_a_tpu_kept_answers_decide_by_their_estimate(monkeypatch):
  asked = question(64, name="densenet-bc-100-12", dtype="bfloat16")
  # 15 ms by cycles and 1 by traffic; 1 by cycles and 12 by traffic; the fastest of all, but too large.
  plans = {
    "none": Plan(GIB, cycles=22_500_000, hbm=819_000_000),
    "dense_layer": Plan(GIB, cycles=1_500_000, hbm=9_828_000_000),
    "block": Plan(20 * GIB, cycles=1, hbm=1),
    "layer_by_layer": None,
  }
  keep(monkeypatch, asked, plans)
  found, why = policy.unless_told(asked, on("TPU v5 lite", 16 * GIB))
  assert found == "dense_layer"
  assert why == "the fastest of 2 by the estimate of libtpu 1, kept with the package"
  # 512 images on four chips are a full lane each, as are 64; classes, dropout and dtype change little.
  for other in (
    dataclasses.replace(asked, batch_size=512, num_classes=100),
    question(512, name="densenet-bc-100-12", dropout=0.2),
  ):
    assert policy.unless_told(other, on("TPU v5 lite", 16 * GIB, count=4)) == (found, why)
  # In float32 it takes twice the memory.
  _, why = policy.unless_told(question(64, name="densenet-bc-100-12"), on("TPU v5 lite", 2 * GIB - 1))
  assert "kept with" not in why
  # Where the answer is in float32 itself, it does so already.
  wide = question(64, name="densenet-bc-100-12")
  keep(monkeypatch, wide, plans)
  assert policy.unless_told(wide, on("TPU v5 lite", 2 * GIB - 1))[1].startswith("the fastest of 2 by the estimate")
  keep(monkeypatch, asked, plans)
  # Other networks, other chips and other batches have no answer, and one answer alone is none to compare with.
  for other, kind in ((question(64, depth=40), "TPU v5 lite"), (asked, "TPU v6 lite")):
    assert "kept" not in policy.unless_told(other, on(kind, 16 * GIB))[1]
  assert "kept" not in policy.unless_told(dataclasses.replace(asked, batch_size=256), on("TPU v5 lite", 16 * GIB))[1]
  keep(monkeypatch, asked, {"none": plans["none"]})
  assert "kept" not in policy.unless_told(asked, on("TPU v5 lite", 16 * GIB))[1]


def test_what_is_asked_for_is_taken():
  assert policy.settle(question(remat="block"), on("TPU v5 lite", 1)) == ("block", "as asked")
  assert policy.settle(question(depth=40), on("cpu"))[0] == "layer_by_layer"


def test_auto_leaves_out_what_a_network_cannot_take():
  assert "bottleneck" not in remat_policies(complete_model(ModelConfig(depth=10, bottleneck=False)))
  assert remat_policies(complete_model(ModelConfig(family="resnet", depth=8))) == ("none", "dense_layer")


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
  monkeypatch.setattr(policy, "flops_by_policy", once(policy.flops_by_policy))
  here = targets.target(targets.HERE)
  asked = Question(complete_model(ModelConfig(blocks=(2,), growth_rate=4, bottleneck=False)), 10, SHAPE, 64)
  plans = {name: policy.plan(asked.under(name), here) for name in remat_policies(asked.model)}
  peaks = sorted(plan.peak for plan in plans.values())
  # Memory for all of them, for all but the largest, and so on down to the smallest alone.
  for memory in peaks:
    name, found = policy.choose(asked, dataclasses.replace(here, memory=memory))
    fitting = {each: plan.flops for each, plan in plans.items() if plan.peak <= memory}
    assert found == plans[name]
    assert name in fitting
    # The compiler's own count of what it left in may differ a little from what it was given.
    assert fitting[name] <= 1.05 * min(fitting.values())
  at_peak = dataclasses.replace(here, memory=peaks[-1])
  assert policy.choose(asked, at_peak, beside=peaks[-1] - peaks[0])[1].peak == peaks[0]
  with pytest.raises(ConfigurationError, match=r"--batch-size 64: fits 0\.00 GiB of memory under no remat policy"):
    policy.choose(asked, dataclasses.replace(here, memory=peaks[0] - 1))


def test_auto_takes_the_fastest_that_fits_where_there_is_an_estimate(monkeypatch):
  plans = {
    "none": Plan(3 * GIB, cycles=1_000, hbm=10**9),
    "dense_layer": Plan(2 * GIB, cycles=2_000, hbm=10**8),
    "bottleneck": Plan(refusal="too large"),
    "block": Plan(9 * GIB, cycles=1, hbm=1),
    "layer_by_layer": Plan(GIB, cycles=3_000, hbm=2 * 10**8),
  }
  asked = []
  monkeypatch.setattr(
    policy, "plan", lambda question, _: asked.append(question.model.remat) or plans[question.model.remat]
  )
  assert policy.choose(question(depth=40), on("TPU v5 lite", 8 * GIB)) == ("dense_layer", plans["dense_layer"])
  assert set(asked) == set(plans)
  assert policy.settle(question(depth=40, remat="auto"), on("TPU v5 lite", 8 * GIB), beside=6 * GIB + 1) == (
    "layer_by_layer",
    "a step takes 1,024 MiB a device",
  )
  with pytest.raises(
    ConfigurationError, match=r"fits 0\.50 GiB of memory under no remat policy; 1\.00 GiB with layer_by"
  ):
    policy.choose(question(depth=40), on("TPU v5 lite", GIB // 2))


@pytest.mark.parametrize(
  ("batch_size", "kind", "count", "accumulation", "answer"),
  [
    (64, "TPU v5 lite", 1, 1, "--batch-size 64 leaves 64 of 128 lanes of a TPU empty; 128 images"),
    (64, "TPU v5 lite", 8, 1, "--batch-size 64 leaves 120 of 128 lanes of a TPU empty; 1024 images"),
    (200, "TPU v4", 1, 1, "--batch-size 200 leaves 56 of 256 lanes of a TPU empty; 256 images"),
    (256, "TPU v4", 1, 4, "--batch-size 256 leaves 64 of 128 lanes of a TPU empty; 512 images"),
    (1024, "TPU v6 lite", 8, 1, None),
    (64, "NVIDIA H200", 1, 1, None),
    (64, "cpu", 1, 1, None),
  ],
)
def test_a_batch_that_leaves_lanes_empty_is_said_on_a_tpu(batch_size, kind, count, accumulation, answer):
  found = policy.empty_lanes(batch_size, devices(kind, count), accumulation)
  assert found is answer is None or found.startswith(answer)
