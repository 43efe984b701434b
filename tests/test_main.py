"""python -m dn_jax."""

from conftest import run


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


def test_mistakes_are_one_line():
  for flags, answer in (
    (["--model.name", "densenet-122"], "did you mean densenet-121"),
    (["--image-size", "0"], "--image-size 0: must be at least 1"),
    (["--data.name", "mnist"], "--data.name mnist"),
  ):
    done = run("-m", "dn_jax", "summary", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert answer in done.stderr


def test_the_readmes_ten_lines_run():
  import re

  from conftest import ROOT

  (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
  # A network of the same make, small enough to run here.
  small = code.replace("blocks_of_depth(100", "blocks_of_depth(10").replace("64, 32, 32", "4, 8, 8")
  assert small != code
  done = run("-c", small + "\nprint(logits.shape)")
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "(4, 10)"
