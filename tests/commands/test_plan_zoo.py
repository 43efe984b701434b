"""plan: answers that come with the package, and the table of the paper's networks. Compilers are stand-ins."""

import json

import pytest
from conftest import call

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import UserError
from dn_jax.planner import asking, kept, targets
from dn_jax.planner import plan as planning
from dn_jax.planner.plan import Plan, Question

NAME = "densenet-bc-100-12"
# 2 ms at 1.5 GHz, and 10 ms at 819 GB/s.
FAST, SLOW = (
  Plan(2**28, 5, cycles=3_000_000, hbm=10**9, fast=10**9),
  Plan(2**30, 5, cycles=3_000_000, hbm=8_190_000_000, fast=1),
)


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
  """The package's file of answers: three for one network."""
  path = tmp_path / "kept.json"
  question = Question(complete_model(ModelConfig(name=NAME, dtype="bfloat16")), 10, (32, 32, 3), 64)
  for policy, plan in {"none": SLOW, "dense_layer": FAST, "block": None}.items():
    kept.keep(
      kept.answer(NAME, "v5e", question.under(policy), asking.Told(plan, "libtpu 1", "a program", 40.0), 40.0), path
    )
  monkeypatch.setattr(kept, "FILE", path)
  return path


def cells(text, start):
  (line,) = [line for line in text.splitlines() if line.startswith(f"│ {start}")]
  return [cell.strip() for cell in line.split("│")[1:-1]]


def test_a_network_of_the_zoo_is_answered_at_once(monkeypatch):
  monkeypatch.setattr(targets, "target", lambda name: pytest.fail("the compiler was loaded"))
  done = call("dn_jax", "plan", "--model.name", NAME, "--target", "v5e")
  assert done.returncode == 0, done.stderr
  assert "densenet-bc-100-12, batch 64, bfloat16, on v5e" in done.stdout
  assert cells(done.stdout, "none")[1] == "1,024 MiB"
  assert "block: not finished in 40 minutes" in done.stdout
  assert "libtpu 1, kept with the package" in done.stdout
  # Said of what they are, since float32 was asked for.
  assert "these answers (bfloat16, 10 classes) come with the package; --compile asks for your own" in done.stdout
  # One policy alone.
  done = call("dn_jax", "plan", "--model.name", NAME, "--target", "v5e", "--model.remat", "none")
  assert "dense_layer" not in done.stdout


def test_the_compiler_is_asked_where_nothing_is_kept_or_where_it_is_told_to(monkeypatch):
  monkeypatch.setattr(targets, "target", lambda name: targets.kept(name, "another compiler"))
  monkeypatch.setattr(planning, "plan", lambda question, where: FAST)
  for flags in (["--compile"], ["--batch-size", "128"]):
    done = call("dn_jax", "plan", "--model.name", NAME, "--target", "v5e", *flags)
    assert done.returncode == 0, done.stderr
    assert "another compiler" in done.stdout
    assert "kept" not in done.stdout
    assert "float32, on v5e" in done.stdout


def test_a_chip_that_lacks_the_memory_is_one_line(monkeypatch):
  monkeypatch.setattr(targets, "target", lambda name: targets.kept(name, "a compiler"))
  monkeypatch.setattr(planning, "plan", lambda *_: Plan(refusal="RESOURCE_EXHAUSTED"))
  done = call("dn_jax", "plan", "--model.depth", "40", "--model.remat", "block", "--target", "v5e")
  assert (done.returncode, done.stderr) == (2, "error: --target v5e: lacks the memory for it under block\n")


def test_the_zoo_is_asked_for_as_it_goes_and_goes_on(path, monkeypatch):
  asked = []

  def ask(question, target, minutes, known):
    asked.append((question.model.depth, question.model.growth_rate, question.model.remat, question.model.dtype))
    if known and known.program == "a program":
      return asking.Told(known.plan, "libtpu 1", "a program", None)
    if question.model.depth == 250:
      raise asking.Unfinished("libtpu 1", "a program")
    if question.model.growth_rate == 60:
      raise UserError("the process died")
    if len(asked) > 20:
      raise KeyboardInterrupt
    return asking.Told(SLOW if question.model.remat == "none" else FAST, "libtpu 1", "a program", 2.0)

  monkeypatch.setattr(asking, "ask", ask)
  words = ("dn_jax", "plan", "--zoo", "--target", "v5e", "--keep", path)
  done = call(*words)
  assert done.returncode == 130
  # First the policy that runs unless told, the small networks first; then the others. What is kept is not asked for.
  assert asked[:2] == [(40, 12, "layer_by_layer", "bfloat16"), (100, 12, "bottleneck", "bfloat16")]
  policies = [policy for *_, policy, _ in asked]
  assert (policies[:9].count("bottleneck"), policies[:9].count("layer_by_layer")) == (6, 3)
  assert asked[9] == (40, 12, "none", "bfloat16")
  first, asked[:] = list(asked), []
  done = call(*words)
  assert done.returncode == 0, done.stderr
  # What did not finish in as many minutes stays so; a process that died is asked again.
  assert {(depth, rate) for depth, rate, *_ in set(first) & set(asked)} == {(40, 60), (100, 24)}
  text = done.stdout
  # 10 ms by HBM under none; 2 ms under the others: 300 epochs of 781 steps are 0.13 hours.
  assert cells(text, "DenseNet-BC (L=100, k=12)") == [
    *("DenseNet-BC (L=100, k=12)", "bottleneck", "256", "3.00 M", "1.0", "2.0, 1.2", "2.0", "0.1"),
  ]
  assert cells(text, "DenseNet-BC (L=250, k=24)")[1] == "not finished"
  assert "DenseNet-BC (L=250, k=24): bottleneck not finished in 40 minutes" in " ".join(text.split())
  assert cells(text, "Wide-DenseNet-BC (L=40, k=60)")[1] == "not asked"
  # With more time it is asked again; and after a change of the code everything, though a program that is the same
  # is not compiled again.
  asked.clear()
  call(*words, "--minutes", "60", "--model.remat", "none")
  assert {depth for depth, *_ in asked} == {250, 40}
  for program, lines in (("a program", 8), ("another program", 0)):
    asked.clear()
    records = json.loads(path.read_text())
    path.write_text(json.dumps([record | {"sources": "another version", "program": program} for record in records]))
    kept._read.cache_clear()
    done = call(*words, "--model.remat", "none")
    assert len(asked) == 9
    assert done.stdout.count("for an earlier version of the code, which made the same program") == lines
    assert all(each.current for each in kept.answers(path) if each.policy == "none")


def test_mistakes_are_one_line():
  for flags, answer in (
    (["--zoo"], "--target here: one chip of v4"),
    (["--zoo", "--target", "v5e:2x2"], "--target v5e:2x2: one chip of v4, v5e"),
    (["--zoo", "--target", "v5e", "--minutes", "0"], "--minutes 0.0: must be above 0"),
    (["--keep", "answers.json"], "--keep answers.json: is for --zoo"),
    (["--zoo", "--target", "v5e", "--keep", "no/folder/x.json"], "is no file in a folder that exists"),
    (["--model.remat", "nothing"], "--model.remat nothing: "),
  ):
    done = call("dn_jax", "plan", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert answer in done.stderr
