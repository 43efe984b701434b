"""What the planner says, against counting by hand and against the policies tried one by one."""

import dataclasses
import importlib.util
import json
import math
from types import SimpleNamespace

import jax
import pytest

import dn_jax
from dn_jax.config.network import complete_model
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
    return planning.Plan(question.batch_size, 1, 2, 3.0, 4.0, 5, {"all-reduce": (2, 80)}, 1, kernels={"copy": 3})

  monkeypatch.setattr(planning, "compile_step", compile_step)
  first = plan(8)
  assert plan(8) == first == planning.Plan(8, 1, 2, 3.0, 4.0, 5, {"all-reduce": (2, 80)}, 1, kernels={"copy": 3})
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
  monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=1024")
  plan(8)
  plan(8)
  assert len(asked) == 6
  where = dataclasses.replace(targets.here(), options={"xla_gpu_autotune_level": 0})
  planning.plan(planning.Question(MODEL, 10, SHAPE, 8), where)
  assert len(asked) == 7
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(planning, "sources", lambda: "another version")
    plan(8)
  assert len(asked) == 8
  # Code that has changed since it was loaded has no answer, and gets none.
  monkeypatch.setattr(dn_jax, "LOADED", 0)
  for _ in range(2):
    plan(8)
  assert len(asked) == 10


def test_a_gpus_flops_are_the_lowered_programs_whatever_its_compiler_counts(monkeypatch):
  memory = SimpleNamespace(
    temp_size_in_bytes=1, argument_size_in_bytes=2, output_size_in_bytes=3, alias_size_in_bytes=3
  )
  text = "HloModule step\n\nENTRY %main (a: f32[8]) -> f32[8] {\n  ROOT %a = f32[8]{0} parameter(0)\n}\n"
  compiled = SimpleNamespace(memory_analysis=lambda: memory, cost_analysis=lambda: {"flops": 7.0}, as_text=lambda: text)
  monkeypatch.setattr(planning, "flops_by_policy", lambda question, policies: dict.fromkeys(policies, 1000.0))
  where = targets.Target("here", (SimpleNamespace(platform="gpu"),) * 2, None, None, "a compiler")
  assert planning._told(planning.Question(MODEL, 10, SHAPE, 8), where, compiled).flops == 500


def test_an_answer_that_was_cut_short_is_asked_again(tmp_path, monkeypatch):
  monkeypatch.setattr(planning, "compile_step", lambda *_: planning.Plan(5))
  plan(8)
  (kept,) = tmp_path.rglob("*.json")
  kept.write_text(kept.read_text()[:-40])
  monkeypatch.setattr(planning, "compile_step", lambda *_: planning.Plan(6))
  assert plan(8).temporaries == 6
  assert json.loads(kept.read_text())["plan"]["temporaries"] == 6


@pytest.mark.thorough
def test_two_devices_exchange_every_gradient_once_and_halve_the_batch(eight_devices):
  found = eight_devices.case("planned", BLOCKS, GROWTH_RATE, SHAPE, 32, 2)
  counted = leaves(build.build(MODEL, 10))
  numbers = 2 * counted["params"] + counted["batch_stats"] + 16 * (64 + 2)
  assert 0 <= found["arguments"] - 4 * numbers < 64
  _, size = found["collectives"]["all-reduce"]
  # Statistics are exchanged too, forward and back, and the sums that are reported.
  assert 4 * counted["params"] <= size <= 4 * (counted["params"] + 4 * counted["batch_stats"] + 16)


def test_comments_and_docstrings_are_no_other_version():
  code = planning._code
  first = code('"""a"""\n\ndef f(x):\n  """b"""\n  return x  # c\n')
  assert first == code("def f(x):\n  # d\n  return x\n")
  assert first != code("def f(x):\n  return -x\n")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU's compiler, libtpu, is not installed")
@pytest.mark.slow
def test_a_tpus_plan_has_cycles_and_traffic_by_memory():
  found = planning.compile_step(planning.Question(MODEL, 10, SHAPE, 128), targets.target("v5e"))
  assert found.cycles > 0
  # All arguments come from HBM, and all outputs go there.
  assert found.hbm >= found.arguments
  assert found.fast > 0
  assert found.kernels == {}


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="JAX's CUDA wheels are not installed")
@pytest.mark.slow
def test_a_gpus_plan_has_kernels_flops_and_traffic():
  found = planning.compile_step(planning.Question(MODEL, 10, SHAPE, 128), targets.target("h100"))
  # The stem, two convolutions a layer and one of the transition: forward, by weights and by inputs.
  assert found.kernels["convolution"] + found.kernels.get("product", 0) >= 3 * (1 + 2 * 3 + 1) - 1
  assert found.hbm >= found.arguments
  assert found.flops == planning.flops_by_policy(planning.Question(MODEL, 10, SHAPE, 128), ["none"])["none"]
  assert found.cycles is None
