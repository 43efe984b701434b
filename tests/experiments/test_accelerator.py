"""The command for an accelerator: its flags, what it runs, and its steps on a bare machine."""

import json
import os
import stat
import subprocess
import sys

import accelerator
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, call
from measuring import parts
from measuring.record import Record

from dn_jax.config.schema import OptimizerConfig
from dn_jax.training import optimizer

# What a bare machine lacks; importing it fails.
LACKED = {
  *("tyro", "pydantic", "pydantic_core", "annotated_types", "grain", "array_record", "tensorflow"),
  *("tensorflow_datasets", "orbax", "matplotlib", "cv2", "PIL", "safetensors", "sklearn"),
}
HIDE = f"""
import sys

class Hide:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in {LACKED!r}:
      raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


@pytest.fixture
def bare(tmp_path, monkeypatch):
  """Processes of ours find none of the packages that a bare machine lacks."""
  (tmp_path / "hide").mkdir()
  (tmp_path / "hide" / "sitecustomize.py").write_text(HIDE)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hide"))
  hidden = subprocess.run([sys.executable, "-c", "import pydantic"], capture_output=True, text=True, check=False)
  assert "No module named 'pydantic'" in hidden.stderr


def images_in(path, **changes):
  """A file of 64 images to train and 20 to test, whose brightness tells their label."""
  arrays = {}
  for split, count in (("train", 64), ("test", 20)):
    labels = np.arange(count) % 10
    arrays[f"{split}_images"] = np.broadcast_to(25 * labels[:, None, None, None], (count, 32, 32, 3)).astype(np.uint8)
    arrays[f"{split}_labels"] = labels
  arrays |= changes
  np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
  return path


# Answers as each program of a measurement does on a machine with a GPU. Another cache gives other bits.
PYTHON = """#!/bin/sh
case "$1" in
  -c) echo '{"device": "a chip", "cuda": true, "versions": {"python": "3.11", "torch": "2.13"}}' ;;
  */jax_device.py)
    echo '{"backend": "gpu", "device": "a chip", "devices": 1, "versions": {"jax": "0.11", "chex": null}}' ;;
  */worker.py)
    case "$2" in *block*) echo 'XlaRuntimeError: RESOURCE_EXHAUSTED' >&2; exit 1 ;; esac
    echo '{"parameters": 7, "device": "a chip", "versions": {}}'
    cache=$(basename "$JAX_COMPILATION_CACHE_DIR"); echo $cache >> "$(dirname "$0")/caches-$2-$5"
    while read n; do
      echo '{"seconds": 0.0625, "device_peak": 100.0, "peak": 50.0, "temporaries": 5.0, "digest": "'$cache'"}'
      echo $n >> "$(dirname "$0")/steps-$2-$5"
    done ;;
  */bare_training.py)
    echo "$2" > "$(dirname "$0")/question"
    echo '{"epochs": 20, "published_epochs": 300, "drops": [10, 15], "steps_per_epoch": 10, "steps_per_command": 32}'
    echo '{"epoch": 1, "test_error": 0.5, "seconds": 0.106}'
    echo '{"epoch": 20, "test_error": 0.25, "seconds": 0.106}' ;;
esac
"""


def test_a_command_takes_every_part_and_writes_a_record_and_a_table(tmp_path, monkeypatch):
  python = tmp_path / "python"
  python.write_text(PYTHON)
  python.chmod(python.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setattr(sys, "executable", str(python))
  data = images_in(tmp_path / "cifar10.npz")
  done = call(
    *("experiments/accelerator.py", "--out", tmp_path / "new" / "out", "--data", data),
    *("--policies", "none", "block", "--batch-sizes", "64", "128", "--minutes", "30"),
  )
  assert (done.returncode, done.stderr) == (0, "")
  found = json.loads((tmp_path / "new" / "out" / "accelerator.json").read_text())
  entries = {entry["part"]: entry for entry in found["parts"]}
  assert {name: entry["state"] for name, entry in entries.items() if entry["state"] != "done"} == {
    "dn_jax block, batch 64": "failed"
  }
  assert entries["dn_jax block, batch 64"]["why"] == "XlaRuntimeError: RESOURCE_EXHAUSTED"
  assert len(entries) == 11
  assert entries["dn_jax none, batch 128"]["rounds_ms"] == [62.5] * 5
  # The first step, nine more, and five rounds of about a second.
  assert (tmp_path / "steps-bare+none+bfloat16-128").read_text().split() == ["8", "1", *["16"] * 5]
  again = entries["second compilation"]["again"]
  assert {how: each["same_bits"] for how, each in again.items()} == {"loaded": True, "compiled again": False}
  first, loaded, anew = (tmp_path / "caches-bare+none+bfloat16-64").read_text().split()
  assert first == loaded != anew
  question = json.loads((tmp_path / "question").read_text())
  assert question.pop("until") > 0
  assert question == {
    **{"policy": "none", "batch_size": 64, "data": str(data), "depth": 100, "growth_rate": 12, "epochs": 300}
  }
  assert [epoch["epoch"] for epoch in entries["training"]["trained"]] == [1, 20]
  assert "| PyTorch compiled, batch 128 | 62.50 (62.50 to 62.50) | 2,048 | 2.00 | 0 | 5 | 100 |" in done.stdout
  assert "  training: test error 25.00 % after epoch 20 of 20, 10.60 ms a step in commands of 32\n" in done.stdout
  assert "jax 0.11, chex missing; PyTorch: 2.13 on a chip" in done.stdout
  again = call("experiments/accelerator.py", "--out", tmp_path / "new" / "out")
  assert (again.returncode, again.stderr.count("\n")) == (2, 1)
  assert "has an accelerator.json already" in again.stderr


def test_pytorch_is_left_out_where_it_is_missing_or_would_run_beside_the_accelerator(tmp_path):
  flags = parts.Flags(1.0, None, tmp_path, 10, 2, (8,), ("none",), 1, "/nowhere/python")
  record = Record(tmp_path, began="", minutes=1.0, network={"depth": 10, "growth_rate": 2, "dtype": ""})
  torch = next(part for part in parts.Parts(flags, record, tmp_path) if part.name == "PyTorch, batch 8")
  device = record.add(part="versions and device", state="done")
  device |= {"backend": "tpu", "torch": {"cuda": False}}
  with pytest.raises(parts.LeftOut, match="PyTorch sees no GPU"):
    torch.take({}, 60)
  device["torch"] = {"failed": "No module named 'torch'"}
  with pytest.raises(parts.LeftOut, match="no PyTorch in /nowhere/python: No module named 'torch'"):
    torch.take({}, 60)


@pytest.mark.slow
def test_a_bare_machine_takes_our_steps_and_trains(bare, tmp_path):
  """Without what the package needs besides JAX, Flax, optax, chex and numpy."""
  (tmp_path / "logs").mkdir()
  data = images_in(tmp_path / "cifar10.npz")
  flags = parts.Flags(60.0, data, tmp_path, 10, 2, (4,), ("none",), 2, sys.executable)
  record = Record(tmp_path, began="", minutes=60.0, network={"depth": 10, "growth_rate": 2, "dtype": "bfloat16"})
  wanted = {"versions and device", "dn_jax none, batch 4", "training"}
  some = [part for part in parts.Parts(flags, record, tmp_path / "caches") if part.name in wanted]
  parts.measure(some, record, parts.Budget(3600))
  device, ours, training = record.content["parts"]
  assert [entry.get("why") for entry in record.content["parts"]] == [None] * 3
  assert (device["backend"], device["versions"]["jax"]) == ("cpu", jax.__version__)
  assert len(ours["rounds_ms"]) == 5
  assert (training["epochs"], training["drops"]) == (2, [1, 2])
  assert [epoch["epoch"] for epoch in training["trained"]] == [1, 2]
  assert [epoch["rate"] for epoch in training["trained"]] == pytest.approx([0.1, 0.01])
  # 20 test images, whole ones of which are wrong.
  assert all(
    20 * epoch["test_error"] == pytest.approx(round(20 * epoch["test_error"])) for epoch in training["trained"]
  )


def test_the_command_itself_starts_on_a_bare_machine(bare):
  command = [sys.executable, "experiments/accelerator.py", "--minutes", "0"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)
  assert (done.returncode, done.stderr) == (2, "error: --minutes 0: must be a number above 0\n")


@pytest.mark.slow
def test_the_bare_step_is_the_step_of_a_run():
  import bare_peer
  import dn_jax_peer

  ours, parameters, tell = bare_peer.start(10, 4, 8, "none")
  theirs, same, *_ = dn_jax_peer.start(10, 4, 8, "none")
  assert parameters == same
  first = tell()["digest"]
  assert [float(ours()) for _ in range(3)] == pytest.approx([float(theirs()) for _ in range(3)], rel=1e-6)
  assert tell()["digest"] != first


def test_a_schedule_that_is_shortened_drops_where_a_run_of_its_length_does():
  import bare_training

  published = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (0.5, 0.75), 0.1)
  for epochs in (*range(1, 50), 300):
    assert bare_training.drops_of(epochs) == optimizer.drop_epochs(published, epochs)


def test_as_many_epochs_as_fit_are_planned():
  import bare_training

  assert bare_training.epochs_within(450, 8, 300) == 54  # 97 % of the time.
  assert bare_training.epochs_within(450, 8, 20) == 20
  assert bare_training.epochs_within(450, 451, 300) == 0
  assert bare_training.epochs_within(-3, 8, 300) == 0


def test_an_optimizer_whose_rate_is_set_from_outside_is_the_published_one():
  import bare_peer

  params = {"w": jnp.asarray([1.0, -2.0, 3.0])}
  config = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (0.5, 0.75), 0.1, 0)
  published = optimizer.make(config, optimizer.learning_rate(config, epochs=4, steps_per_epoch=1))
  ours = optax.inject_hyperparams(bare_peer.sgd)(rate=0.1)
  a, b, states = params, params, [published.init(params), ours.init(params)]
  for rate in (0.1, 0.1, 0.01, 0.001):
    gradients = {"w": jnp.sin(a["w"])}
    updates, states[0] = published.update(gradients, states[0], a)
    a = optax.apply_updates(a, updates)
    states[1] = states[1]._replace(hyperparams={"rate": jnp.float32(rate)})
    updates, states[1] = ours.update(gradients, states[1], b)
    b = optax.apply_updates(b, updates)
    np.testing.assert_allclose(b["w"], a["w"], rtol=1e-6)


@pytest.mark.slow
def test_the_lines_that_make_the_file_of_images_make_one_that_is_taken(prepared, tmp_path, monkeypatch):
  before, _, lines = accelerator.__doc__.partition('python -c "')
  assert before
  code = "\n".join(line.strip() for line in lines.rpartition('"')[0].splitlines())
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
  exec(code, {})
  accelerator.check_data(tmp_path / "cifar10.npz", 64)
  with np.load(tmp_path / "cifar10.npz") as file:
    assert {name: len(file[name]) for name in file.files} == {
      **{"train_images": 120, "train_labels": 120, "test_images": 40, "test_labels": 40}
    }


@pytest.mark.parametrize(
  ("flags", "answer"),
  [
    (["--minutes", "soon"], "--minutes soon: must be a number above 0"),
    (["--minutes", "inf"], "--minutes inf: must be a number above 0"),
    (["--policies", "none", "blok"], "--policies blok: did you mean block?"),
    (["--policies", "none", "none"], "--policies none none: each once"),
    (["--policies"], "--policies: expected at least one argument"),
    (["--batch-sizes", "64", "0"], "--batch-sizes 0: must be a whole number, at least 1"),
    (["--depth", "41"], "--depth 41: 3 equal blocks with bottlenecks need depth = 4 + 6 * n"),
    (["--growth-rate", "-1"], "--growth-rate"),
    (["--epochs", "1.5"], "--epochs 1.5: must be a whole number, at least 1"),
    (["--torch-python", "/nowhere/python"], "--torch-python /nowhere/python: there is no such program"),
    (["--data", "/nowhere/c.npz"], "--data /nowhere/c.npz: there is no such file"),
    (["--out", "/dev/null/out"], "--out /dev/null/out: cannot be written (Not a directory)"),
  ],
)
def test_mistakes_are_one_line_before_anything_starts(flags, answer, tmp_path):
  done = call("experiments/accelerator.py", *([] if "--out" in flags else ["--out", tmp_path / "out"]), *flags)
  assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
  assert done.stderr.startswith(f"error: {answer}")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("changes", "answer"),
  [
    ({"test_labels": None, "train_labels": None}, "lacks train_labels, test_labels"),
    ({"train_images": np.zeros((64, 32, 32, 3), np.float32)}, "train_images is float32 [64, 32, 32, 3]; it should be"),
    ({"test_images": np.zeros((20, 3, 32, 32), np.uint8)}, "test_images is uint8 [20, 3, 32, 32]; it should be"),
    ({"train_labels": np.zeros(63, int)}, "train_labels is int64 [63]; it should be whole numbers [64]"),
    ({"train_labels": np.zeros(64)}, "train_labels is float64 [64]; it should be whole numbers [64]"),
    ({"test_labels": np.arange(20)}, "test_labels run from 0 to 19, not 0 to 9"),
    ({"test_labels": np.array([object()] * 20)}, "is no npz file, or a damaged one"),
  ],
)
def test_a_file_of_other_images_is_refused_in_one_line(changes, answer, tmp_path):
  data = images_in(tmp_path / "cifar10.npz", **changes)
  done = call("experiments/accelerator.py", "--out", tmp_path / "out", "--data", data)
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert done.stderr.startswith(f"error: --data {data}: {answer}")


def test_a_file_that_is_damaged_or_too_small_is_refused_in_one_line(tmp_path):
  data = images_in(tmp_path / "cifar10.npz")
  done = call("experiments/accelerator.py", "--data", data, "--batch-sizes", "65")
  assert done.stderr == "error: --batch-sizes 65: there are 64 training images\n"
  whole = data.read_bytes()
  for content in (b"", whole[: len(whole) // 2], b"no zip"):
    data.write_bytes(content)
    done = call("experiments/accelerator.py", "--data", data)
    assert (done.returncode, done.stderr) == (2, f"error: --data {data}: is no npz file, or a damaged one\n")
  np.save(tmp_path / "one.npy", np.zeros(3))
  done = call("experiments/accelerator.py", "--data", tmp_path / "one.npy")
  assert done.stderr.endswith("is no npz file, or a damaged one\n")


def test_an_older_python_is_told_so(monkeypatch):
  monkeypatch.setattr(sys, "version_info", (3, 11, 7))
  done = call("experiments/accelerator.py")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert done.stderr.endswith("; 3.12 or newer is needed\n")
