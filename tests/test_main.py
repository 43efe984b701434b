"""python -m dn_jax, and the code on the pages."""

import re

import pytest
from conftest import ROOT, run

from dn_jax.models import remat


def test_summary_lists_layers_with_shapes_parameters_and_flops():
  done = run("-m", "dn_jax", "summary", "--model.depth", "10", "--data.name", "digits")
  assert done.returncode == 0, done.stderr
  assert "pictures of 8x8x1, 10 classes" in done.stdout
  row = next(line for line in done.stdout.splitlines() if "block1/layer1/conv2" in line)
  # 3x3x48x12 weights at 8x8 pixels, two FLOPs each.
  assert [cell.strip() for cell in row.split("│")[2:6]] == ["Conv 3x3", "8x8x12", "5,184", "0.66"]


def test_zoo_lists_networks_with_counted_and_published_figures():
  done = run("-m", "dn_jax", "zoo", "--matching", "2")
  assert done.returncode == 0, done.stderr
  for expected in ("densenet-bc-100-12", "769,162", "0.8M", "7,978,856", "C100+ 17.60", "10-crop top-1 23.61"):
    assert expected in done.stdout


def test_plan_says_what_a_step_takes_under_every_policy(tmp_path):
  flags = ["--model.depth", "10", "--model.growth-rate", "4", "--data.name", "digits", "--batch-size", "32"]
  done = run("-m", "dn_jax", "plan", *flags, XDG_CACHE_HOME=str(tmp_path))
  assert done.returncode == 0, done.stderr
  assert "L=10, k=4, batch 32, float32, on 1 x cpu" in done.stdout
  rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
  assert [row[0] for row in rows] == list(remat.POLICIES)
  assert all(row[1].endswith(" MiB") and row[4] == "yes" for row in rows)
  of_two = run("-m", "dn_jax", "plan", *flags, "--model.remat", "none", "--seeds-per-device", "2")
  assert "2 seeds of L=10, k=4, batch 32, float32, on 1 x cpu" in of_two.stdout
  for wrong, answer in (
    (["--target", "v5"], "--target v5: did you mean v5"),
    (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    (["--seeds-per-device", "0"], "--seeds-per-device 0: must be at least 1"),
    (["--image-size", "2"], "pictures of 2x2 pixels shrink to nothing"),
  ):
    done = run("-m", "dn_jax", "plan", *flags, *wrong)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert answer in done.stderr


def test_mistakes_are_one_line():
  for flags, answer in (
    (["--model.name", "densenet-122"], "did you mean densenet-121"),
    (["--image-size", "0"], "--image-size 0: must be at least 1"),
    (["--data.name", "mnist"], "--data.name mnist"),
  ):
    done = run("-m", "dn_jax", "summary", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert answer in done.stderr


@pytest.mark.parametrize(
  ("page", "smaller"),
  [
    ("README.md", {"blocks_of_depth(100": "blocks_of_depth(10", "64, 32, 32": "4, 8, 8"}),
    (
      "docs/weights.md",
      {
        'ModelConfig(name="densenet-121")': "ModelConfig(depth=10, growth_rate=4)",
        "1, 224, 224": "4, 8, 8",
        "=1000": "=10",
      },
    ),
  ],
)
def test_the_code_on_a_page_runs(page, smaller, tmp_path):
  (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
  # A network of the same make, small enough to run here.
  for written, small in smaller.items():
    assert written in code
    code = code.replace(written, small)
  done = run("-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}\nprint(logits.shape)")
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "(4, 10)"
