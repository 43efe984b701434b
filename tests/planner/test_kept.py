"""Answers of compilers in a file: found again, replaced, and told from those of another version of the step."""

import dataclasses
import json

import pytest

import dn_jax
from dn_jax.config import zoo
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import UserError
from dn_jax.planner import kept, targets
from dn_jax.planner.asking import Told
from dn_jax.planner.plan import Plan, Question

PLAN = Plan(5, 1, 2, 3.0, 4.0, 5, {"all-reduce": (2, 80)}, 1, None, 6, 7, {"copy": 8})


def question(batch_size=64, classes=10, **model):
  return Question(complete_model(ModelConfig(name="densenet-40-12", **model)), classes, (32, 32, 3), batch_size)


def put(path, asked, plan=PLAN, target="v5e", minutes=3.14159):
  kept.keep(kept.answer("densenet-40-12", target, asked, Told(plan, "libtpu 1", "a program", minutes), minutes), path)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "kept.json"


def test_an_answer_is_found_again_by_its_question(path):
  assert kept.answers(path) == ()
  asked = question(dtype="bfloat16", remat="none")
  put(path, asked)
  found = kept.exact(asked, "v5e", path)
  assert (found.plan, found.policy, found.compiler, found.minutes) == (PLAN, "none", "libtpu 1", 3.1)
  assert kept.exact(dataclasses.replace(asked, model=dataclasses.replace(asked.model, name=None)), "v5e", path) == found
  for other in (
    asked.under("block"),
    dataclasses.replace(asked, batch_size=128),
    question(remat="none"),
    question(classes=100, dtype="bfloat16", remat="none"),
  ):
    assert kept.exact(other, "v5e", path) is None
  assert kept.exact(asked, "v6e", path) is None


def test_a_new_answer_takes_the_place_of_the_old(path):
  asked = question(remat="none")
  put(path, asked, plan=None, minutes=40)
  put(path, asked.under("block"))
  assert [(each.policy, each.plan) for each in kept.answers(path)] == [("block", PLAN), ("none", None)]
  put(path, asked)
  assert [(each.policy, each.plan) for each in kept.answers(path)] == [("block", PLAN), ("none", PLAN)]


def test_near_answers_are_of_the_same_size_and_batch(path):
  small = question(dtype="bfloat16", remat="none")
  put(path, small)
  put(path, small.under("block"))
  for other in (question(classes=100, dropout=0.2), question(remat="auto")):
    assert {each.policy for each in kept.near(other, "v5e", path)} == {"none", "block"}
  # The question's own dtype comes first.
  put(path, question(remat="none"), plan=dataclasses.replace(PLAN, temporaries=9))
  found = {each.policy: each.question["model"]["dtype"] for each in kept.near(question(), "v5e", path)}
  assert found == {"none": "float32", "block": "bfloat16"}
  found = {each.policy: each.plan.temporaries for each in kept.near(question(dtype="bfloat16"), "v5e", path)}
  assert found == {"none": 5, "block": 5}
  other = Question(complete_model(ModelConfig(depth=40)), 10, (32, 32, 3), 64)
  assert (
    kept.near(other, "v5e", path) == kept.near(question(128), "v5e", path) == kept.near(question(), "v6e", path) == []
  )


def test_a_full_lane_of_another_network_or_chip_hides_no_answer(path):
  small = question(64, dtype="bfloat16", remat="none")
  put(path, small)
  put(path, Question(complete_model(ModelConfig(depth=100, remat="none")), 10, (32, 32, 3), 128))
  put(path, question(128, dtype="bfloat16", remat="none"), target="v6e")
  for batch_size, devices in ((64, 1), (512, 4)):
    (found,) = kept.of_chip(question(batch_size, dtype="bfloat16"), "d" * devices, "v5e", path)
    assert (found.target, found.question["batch_size"]) == ("v5e", 64)
  assert kept.of_chip(question(256), "d", "v5e", path) == []


def test_an_answer_is_not_kept_for_code_that_changed_meanwhile(path, monkeypatch):
  put(path, question(remat="none"))
  (found,) = kept.answers(path)
  # As if files were written since this process began.
  monkeypatch.setattr(dn_jax, "LOADED", 0)
  with pytest.raises(UserError, match="changed while the compiler was asked; nothing is kept"):
    put(path, question(remat="block"))
  assert kept.answers(path) == (found,)
  assert not found.current


def test_an_answer_of_another_version_of_the_step_says_so(path, monkeypatch):
  put(path, question(remat="none"))
  (found,) = kept.answers(path)
  assert found.described == "libtpu 1, kept with the package"
  monkeypatch.setattr(kept, "sources", lambda: "another version")
  assert found.described == "libtpu 1, kept with the package; of an earlier version of the step"


def test_the_packages_answers_can_be_read_and_are_of_chips_and_networks_that_there_are():
  for each in kept.answers():
    assert each.target in targets.CHIPS
    model = complete_model(ModelConfig(name=each.network, dtype=each.question["model"]["dtype"], remat=each.policy))
    shape = tuple(each.question["image_shape"])
    asked = Question(model, each.question["num_classes"], shape, each.question["batch_size"])
    assert kept.exact(asked, each.target) == each
    assert each.plan is None or each.plan.refusal or each.plan.hbm > 0
  assert isinstance(json.loads(kept.FILE.read_text()), list)


def test_the_papers_networks_are_nine():
  names = [entry.title for entry in zoo.paper_densenets()]
  assert len(names) == 9
  assert {"DenseNet (L=40, k=12)", "DenseNet-BC (L=190, k=40)", "Wide-DenseNet-BC (L=40, k=60)"} < set(names)
