"""What a person types nearly right: one line that says what would be right, before any work."""

import fabricated
import numpy as np
import pytest
import rich.console
from conftest import call, run

from dn_jax.commands.network import DataName, input_of
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.inference.evaluate import Measured
from dn_jax.runs.records import RunError

CHIPS = "v4, v5e, v5p, v6e, h100"


@pytest.mark.parametrize(
  ("words", "line"),
  [
    ("dn_jax plan --target v7", f"--target v7: one of here, {CHIPS}, or a TPU slice such as v5e:2x2"),
    ("dn_jax ablate --model.depth 40 --target v7", f"--target v7: one chip of {CHIPS}"),
    ("dn_jax cifar_table --target v5e v7", f"--target v7: one chip of {CHIPS}"),
    ("dn_jax zoo --matching vgg", "--matching vgg: no network of that name; python -m dn_jax zoo lists them"),
    ("dn_jax zoo --matching densnet-100-12", "--matching densnet-100-12: did you mean densenet-100-12"),
    ("dn_jax train --model.name vgg", "--model.name vgg: no network of that name; python -m dn_jax zoo lists them"),
    ("dn_jax ablate --xyzzy 3", "--xyzzy 3: there is no such flag; --help lists them"),
    ("dn_jax ablate --model.dept 4,7", "--model.dept 4,7: there is no such flag; did you mean --model.depth?"),
    ("dn_jax ablate --lr 0.1,1", "--lr 0.1,1: there is no such flag; did you mean --optimizer.learning-rate?"),
    ("dn_jax ablate --batch 8", "--batch 8: there is no such flag; did you mean --batch-size?"),
    ("dn_jax ablate --sedes 1", "--sedes 1: there is no such flag; did you mean --seeds or "),
    ("dn_jax report runs --trial", "--trial: there is no such flag; did you mean --trail or "),
    ("dn_jax predict --sizes 3 run x.jpg", "--sizes 3: there is no such flag; did you mean --size"),
    ("dn_jax report --trail --model.depth 40 runs", "runs: needs a value, a path"),
    ("dn_jax ablate cifar10", "cifar10: did you mean --data.name cifar10?"),
    ("dn_jax ablate densenet-121 --seeds 2", "densenet-121: did you mean --model.name densenet-121?"),
    ("dn_jax train --data.name CIFAR10", "--data.name CIFAR10: did you mean cifar10?"),
    ("dn_jax train --model.name densenet121", "--model.name densenet121: did you mean densenet-121?"),
    ("dn_jax report runs others", "others: one folder at a time"),
    ("dn_jax train --data.name C10+", '--data.name C10+: "+" is a flag of its own: --data.name cifar10 --data.augment'),
    ("dn_jax train --data.name c100", "--data.name c100: did you mean cifar100?"),
    ("dn_jax prepare --data.name cifar10+", "--data.name cifar10+: has the images of cifar10; prepare that, and"),
    ("dn_jax cifar_table --columns cifar100+", "--columns cifar100+: did you mean c100+?"),
    ("dn_jax cifar_table --columns svhn_cropped+", "--columns svhn_cropped+: one of c10, c10+, c100, c100+, svhn"),
    (
      "dn_jax train --distributed.process-id 0",
      "--distributed.process-id 0: goes together with --distributed.coordinator and --distributed.num-processes",
    ),
    ("dn_jax prepare cifar10", "cifar10: did you mean --data.name cifar10?"),
    ("dn_jax predict none.pth x.jpg", "none.pth: there is no such run's folder or file of weights"),
    ("dn_jax predict tests x.jpg", "tests: not a run's folder (no config.json)"),
    ("dn_jax evaluate", "give runs' folders, or a file of weights"),
    ("dn_jax evaluate a --weights b", "--weights b: give it, or a; not both"),
  ],
)
def test_a_slip_is_one_line_with_what_was_meant(words, line):
  done = call(*words.split())
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith(f"error: {line}")
  assert done.stderr.count("\n") == 1


def test_the_plus_of_a_data_set_is_no_matter_where_nothing_is_trained():
  network = complete_model(ModelConfig())
  assert input_of(network, DataName("cifar100+")) == input_of(network, DataName("cifar100")) == ((32, 32, 3), 100)


def test_a_missing_source_is_refused_before_jax_is_imported():
  code = """
import pathlib, sys
from dn_jax.commands import evaluate, export, picture, predict, train
none = pathlib.Path("none.safetensors")
sys.argv = ["train", "--weights", "none.safetensors"]
for command in (
  train.train,
  lambda: evaluate.evaluate(evaluate.Evaluation(weights=none)),
  lambda: evaluate.evaluate(evaluate.Evaluation((none,))),
  lambda: evaluate.evaluate(evaluate.Evaluation((pathlib.Path("none"), pathlib.Path("too")))),
  lambda: predict.predict(predict.Prediction(none, ("x.jpg",))),
  lambda: export.export(none, pathlib.Path("x.safetensors")),
  lambda: picture.draw_reuse(none, pathlib.Path("x.svg")),
):
  try: command()
  except Exception as error:
    said = any(words in str(error) for words in ("there is no such", "none too: hold no run"))
    print(type(error).__name__, said, "jax" in sys.modules)
"""
  lines = run("-c", code).stdout.splitlines()
  assert [line.split()[1:] for line in lines] == [["True", "False"]] * 7, lines


@pytest.fixture
def three(tmp_path, monkeypatch):
  """Runs whose networks are measured by a stand-in: the second cannot be."""
  folders = [fabricated.begun(tmp_path / name, fabricated.config(seed)) for seed, name in enumerate("abc")]

  def of_run(folder, split, which, own, how, say):
    if folder.name == "b":
      raise RunError(f"{folder}: no whole checkpoint")
    error = {"a": 12.5, "c": 25.0}[folder.name]
    return Measured(400, error, 1.25, 0.3, tuple("0123456789"), np.diag([1] * 10), epoch=2)

  monkeypatch.setattr("dn_jax.inference.evaluate.of_run", of_run)
  # No folder's name is broken over lines.
  monkeypatch.setattr("dn_jax.commands.command_line.console", lambda: rich.console.Console(width=500))
  return [str(folder) for folder in folders]


def cells(text):
  """The rows of a printed table below its header."""
  return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_several_runs_are_a_table_and_one_that_cannot_be_measured_is_named_at_its_place(three):
  done = call("dn_jax", "evaluate", three[0], three[2])
  assert (done.returncode, done.stderr) == (0, "")
  of = lambda name, error: [name, "digits", "densenet-bc-10-4", "2", "400", error, "1.25"]
  assert cells(done.stdout) == [of(three[0], "12.50"), of(three[2], "25.00")]
  done = call("dn_jax", "evaluate", *three)
  assert done.returncode == 2
  assert cells(done.stdout) == [of(three[0], "12.50"), of(three[2], "25.00")]
  assert done.stderr.splitlines() == [
    f"not measured: {three[1]}: {three[1]}: no whole checkpoint",
    "error: 1 of 3 runs could not be measured, see above",
  ]


def test_a_folder_of_runs_stands_for_its_runs(three, tmp_path):
  done = call("dn_jax", "evaluate", tmp_path)
  assert [row[0] for row in cells(done.stdout)] == [three[0], three[2]]
  (tmp_path / "report").mkdir()
  done = call("dn_jax", "evaluate", *sorted(tmp_path.iterdir()))  # As a shell has runs/*.
  assert [row[0] for row in cells(done.stdout)] == [three[0], three[2]]
  (tmp_path / "slurm").mkdir()  # As a sweep on a cluster leaves it.
  done = call("dn_jax", "evaluate", *sorted(tmp_path.iterdir()))
  assert [row[0] for row in cells(done.stdout)] == [three[0], three[2]]
  assert done.stderr.splitlines()[-1] == "error: 1 of 3 runs could not be measured, see above"
  assert "report: hold no run" in call("dn_jax", "evaluate", *[tmp_path / "report"] * 2).stderr
  done = call("dn_jax", "predict", tmp_path, "x.jpg")
  assert done.stderr == f"error: {tmp_path}: not a run's folder (it holds runs, such as a; give one of them)\n"


def test_a_word_that_is_no_run_is_named_and_the_runs_are_measured(three, tmp_path):
  (tmp_path / "notes.txt").touch()
  (tmp_path / "empty").mkdir()
  names = [tmp_path / name for name in ("notes.txt", "empty", "d")]
  done = call("dn_jax", "evaluate", names[0], three[0], *names[1:])
  assert (done.returncode, [row[0] for row in cells(done.stdout)]) == (2, [three[0]])
  assert done.stderr.splitlines() == [
    f"not measured: {names[0]}: not a run's folder",
    f"not measured: {names[1]}: holds no run",
    f"not measured: {names[2]}: there is no such run's folder or file of weights",
    "error: 3 of 4 runs could not be measured, see above",
  ]
  done = call("dn_jax", "evaluate", *names)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.splitlines()[-1] == f"error: {' '.join(map(str, names))}: hold no run"
  done = call("dn_jax", "evaluate", three[0], names[0], "--confusion", tmp_path / "x")
  assert (done.returncode, done.stdout) == (2, "")


def test_a_run_that_is_named_twice_is_measured_once(three, tmp_path):
  (tmp_path / "b" / "config.json").unlink()
  done = call("dn_jax", "evaluate", tmp_path, three[2], tmp_path / "b" / ".." / "a")
  assert (done.returncode, [row[0] for row in cells(done.stdout)]) == (0, [three[0], three[2]])
  done = call("dn_jax", "evaluate", three[0], three[0])
  assert (done.returncode, done.stdout.splitlines()[0]) == (0, "test, 400 images, network of epoch 2")


def test_several_runs_are_looked_at_before_one_is_measured(three, tmp_path):
  weights = tmp_path / "w.safetensors"
  weights.touch()
  for words, line in (
    ((three[0], weights), f"{weights}: a file of weights is measured alone"),
    ((three[0], "hf://some/net"), "hf://some/net: a file of weights is measured alone"),
    ((three[0], three[2], "--confusion", tmp_path / "x"), f"--confusion {tmp_path / 'x'}: is of one network"),
    ((three[0], "--size", "9"), f"{three[0]}: a run knows its network, images and sizes"),
  ):
    done = call("dn_jax", "evaluate", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {line}")


def test_a_report_of_one_run_is_of_that_run(three):
  done = call("dn_jax", "report", three[0], "--trail")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.count("(cell ") == 1
  assert three[0] in done.stdout
