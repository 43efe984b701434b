"""summary, zoo and plan: a network layer by layer, every published one, and what a training step takes."""

import pytest
from conftest import call

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.models import remat
from dn_jax.planner import plan as planning


def test_summary_lists_layers_with_shapes_parameters_and_flops():
  done = call("dn_jax", "summary", "--model.depth", "10", "--data.name", "digits")
  assert done.returncode == 0, done.stderr
  assert "densenet-bc-10-12: images of 8x8x1, 10 classes" in done.stdout
  row = next(line for line in done.stdout.splitlines() if "block1/layer1/conv2" in line)
  # 3x3x48x12 weights at 8x8 pixels, two FLOPs each.
  assert [cell.strip() for cell in row.split("│")[2:6]] == ["Conv 3x3", "8x8x12", "5,184", "0.66"]


@pytest.mark.slow
def test_zoo_lists_networks_with_counted_and_published_figures():
  for matching, expected in (
    ("BC-100-12", ("densenet-bc-100-12", "769,162", "0.8M", "C100+ 22.27")),
    ("t-121", ("densenet-121", "7,978,856", "10-crop top-1 23.61")),
  ):
    done = call("dn_jax", "zoo", "--matching", matching)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("densenet-") == 1
    for figure in expected:
      assert figure in done.stdout


PLAN = ["--model.blocks", "1", "--model.growth-rate", "4", "--data.name", "digits", "--batch-size", "32"]


@pytest.fixture
def new_cache(tmp_path, monkeypatch):
  """Where what the planner was told is kept."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def planned(*flags):
  """The rows of the table."""
  done = call("dn_jax", "plan", *PLAN, *flags)
  assert done.returncode == 0, done.stderr
  assert "densenet-bc-4-4, batch 32, float32, on 1 x cpu" in done.stdout
  return [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]


@pytest.mark.slow
@pytest.mark.usefixtures("new_cache")
def test_plan_says_what_a_step_takes():
  (row,) = planned("--model.remat", "layer_by_layer")
  assert row[0] == "layer_by_layer"
  assert row[1].endswith(" MiB")
  assert row[4] == "yes"


def test_plan_asks_for_every_policy(monkeypatch):
  asked = []

  def plan(question, where):
    asked.append((question.under("none"), where.name))
    return planning.Plan((1 + remat.POLICIES.index(question.model.remat)) * 2**20)

  monkeypatch.setattr(planning, "plan", plan)
  rows = planned("--statistics-groups", "2", "--accumulation", "4")
  assert [row[:2] for row in rows] == [[policy, f"{n} MiB"] for n, policy in enumerate(remat.POLICIES, start=1)]
  model = complete_model(ModelConfig(blocks=(1,), growth_rate=4, remat="none"))
  question = planning.Question(model, 10, (8, 8, 1), 32, groups=2, accumulation=4)
  assert asked == [(question, "here")] * len(remat.POLICIES)


@pytest.mark.usefixtures("new_cache")
def test_a_plan_of_nothing_is_refused_in_one_line():
  for wrong, answer in (
    (["--target", "v5"], "--target v5: one of here, v4, v5e"),
    (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    (["--accumulation", "0"], "--accumulation 0: must be at least 1"),
    (["--model.blocks", "1", "1", "1", "--image-size", "2"], "images of 2x2 pixels shrink to nothing"),
  ):
    done = call("dn_jax", "plan", *PLAN, *wrong)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert answer in done.stderr


def test_mistakes_are_one_line():
  for flags, answer in (
    (["--model.name", "densenet-122"], "did you mean densenet-121"),
    (["--image-size", "0"], "--image-size 0: must be at least 1"),
    (["--data.name", "mnist"], "--data.name mnist"),
  ):
    done = call("dn_jax", "summary", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert answer in done.stderr
