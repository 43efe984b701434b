"""What a person mistypes when training, and a run that breaks: one line that says what is wrong, exit code 2."""

import sys

import pytest
import traced_once
from conftest import FIXTURES, call, small_run

traced_once = traced_once.traced_once


def smallest_run(out, *flags):
  """For what has nothing to do with the network."""
  network = ("--model.blocks", "1", "--model.growth-rate", "4", "--model.remat", "none")
  return ("experiments/train.py", "--data.name", "digits", *network, "--epochs", "1", "--out", str(out), *flags)


# What a person mistypes, and a part of the one line that answers.
MISTAKES = [
  (
    ["--model.depth", "41"],
    "--model.depth 41: 3 equal blocks with bottlenecks need depth = 4 + 6 * n; the nearest are 40 and 46",
  ),
  (["--model.growth-rate", "0"], "--model.growth-rate 0: must be at least 1"),
  (["--model.name", "densenet-bc-100-13"], "--model.name densenet-bc-100-13: did you mean densenet-bc-100-12"),
  (["--model.stem", "imagenet", "--model.depth", "13"], "images of 8x8 pixels shrink to nothing"),
  (["--data.name", "cifar11"], "--data.name cifar11: did you mean cifar10"),
  (["--data.name", "cifar10", "--data.dir", "setup.cfg"], "--data.dir setup.cfg: is not a folder"),
  (["--data.name", "cifar10", "--data.dir", "tests"], "is not prepared in tests; to get it: python experiments"),
  (["--data.validation", "1297"], "--data.validation 1297: digits has 1297 training images"),
  (["--batch-size", "1298"], "--batch-size 1298: there are 1297 training images"),
  (["--batch-size", "-1"], "--batch-size -1: must be at least 1"),
  (["--epochs", "0"], "--epochs 0: must be at least 1"),
  (["--seed", "-1"], "--seed -1: must be at least 0"),
  (["--optimizer.learning-rate", "-0.1"], "--optimizer.learning-rate -0.1: must be above 0"),
  (["--optimizer.learning-rate", "nan"], "--optimizer.learning-rate nan: must be above 0"),
  (["--optimizer.drops", "0.5", "1.5"], "--optimizer.drops"),
  (["--wandb", "team/nets"], "--wandb team/nets: W&B refuses: Invalid project name 'team/nets'"),
  (["--wandb", ""], "--wandb '': give a project's name"),
  (["--report", "best"], "--report best: needs held-out images; give --data.validation"),
  (["--checkpoint.keep", "1"], "--checkpoint.keep 1: must be at least 2"),
  (["--model.stem", "imagenet", "--model.depth", "12"], "--model.depth 12: 4 equal blocks with bottlenecks need depth"),
  (["--model.blocks", "1", "1", "1", "1"], "give --model.depth or --model.blocks, not both"),
  (["--weights", "nowhere.pth"], "--weights nowhere.pth: there is no such file"),
  (["--out", "setup.cfg"], "--out setup.cfg: is not a run's folder"),
  (["--out", "tests"], "--out tests: is not a run's folder, and not empty"),
  (["--out", "setup.cfg/run"], "--out setup.cfg/run: cannot be written"),
]


@pytest.mark.parametrize(("flags", "answer"), MISTAKES, ids=[" ".join(flags) for flags, _ in MISTAKES])
def test_a_mistake_gets_one_line_and_exit_code_2(flags, answer, tmp_path):
  folder = tmp_path / "run"
  done = call(*small_run(folder, *flags))
  assert done.returncode == 2
  assert done.stderr.startswith("error: ")
  assert answer in done.stderr
  assert done.stderr.count("\n") == 1
  assert not folder.exists()


@pytest.mark.parametrize(("flags", "package"), [(["--tensorboard"], "tensorboardX"), (["--wandb", "nets"], "wandb")])
def test_a_package_that_a_flag_needs_is_named_before_any_work(flags, package, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  done = call(*small_run(tmp_path / "run", *flags))
  flag = flags[0][2:]
  assert done.returncode == 2
  assert (
    done.stderr
    == f"error: --{flag} {flags[1:][0] if flags[1:] else True}: needs an extra: pip install -e '.[{flag}]'\n"
  )
  assert done.stdout == ""
  assert not (tmp_path / "run").exists()


def test_a_last_batch_of_one_picture_and_one_pixel_is_refused(tmp_path):
  flags = ["--model.blocks", "1", "1", "1", "1", "--batch-size", "48", "--last-batch", "keep"]
  done = call("experiments/train.py", "--data.name", "digits", *flags, "--out", tmp_path / "run")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "--last-batch keep: the last batch has 1 image; the last block would normalise over" in done.stderr
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("where", "answer"),
  [
    ("nowhere/x", "--confusion {}/nowhere/x.svg: is no file in a folder that exists"),
    ("full", "--confusion {}/full.csv: is no file in a folder that exists"),
  ],
)
def test_a_confusion_matrix_that_could_not_be_written_is_refused_before_the_run(tmp_path, where, answer):
  (tmp_path / "full.csv").mkdir()
  for command in (small_run(tmp_path / "run"), ["experiments/evaluate.py", *(FIXTURES / "run").iterdir()]):
    done = call(*command, "--confusion", tmp_path / where)
    assert (done.returncode, done.stderr) == (2, f"error: {answer.format(tmp_path)}\n")
    assert not (tmp_path / "run").exists()


def test_an_unknown_flag_or_word_gets_exit_code_2():
  for flags in (["--model.dept", "40"], ["--model.dtype", "float16"], ["--epochs", "many"]):
    done = call("experiments/train.py", *flags)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_loss_that_explodes_stops_the_run_in_one_line(tmp_path):
  folder = tmp_path / "run"
  done = call(*smallest_run(folder, "--optimizer.learning-rate", "1e30"))
  assert done.returncode == 2
  assert done.stderr.startswith("error: the loss")
  assert "learning rate" in done.stderr
  assert done.stderr.count("\n") == 1
  assert not (folder / "summary.json").exists()


@pytest.mark.thorough
def test_a_network_that_breaks_in_an_epochs_last_step_is_noticed_and_not_saved(tmp_path):
  folder = tmp_path / "run"
  done = call(*smallest_run(folder, "--batch-size", "1297", "--optimizer.learning-rate", "1e30"))
  assert done.returncode == 2
  assert "error: the loss on the test images is" in done.stderr
  assert list((folder / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_debug_nans_stops_where_one_is_made(tmp_path):
  with pytest.raises(FloatingPointError, match=r"invalid value \(nan\)"):
    call(*smallest_run(tmp_path / "run", "--debug-nans", "--optimizer.learning-rate", "1e30"))
