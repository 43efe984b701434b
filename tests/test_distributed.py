"""What a run computes does not depend on the devices that carry it; virtual devices in processes of their own."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, metrics, run, small_run

from dn_jax.configuration import ConfigurationError
from dn_jax.distributed import AXIS, Layout

CASES = pathlib.Path(__file__).parent / "distributed_cases.py"


def devices(count: int) -> dict[str, str]:
  """Environment of a process that has so many."""
  return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "PYTHONPATH": str(ROOT)}


def cases(count: int, *arguments: str, timeout: float = 900) -> dict:
  """What distributed_cases.py prints."""
  done = run(CASES, *arguments, timeout=timeout, **devices(count))
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def layout(groups: int, count: int) -> Layout:
  return Layout(tuple(jax.devices()[:1]) * count, groups)


@pytest.mark.parametrize(("groups", "count"), [(1, 1), (1, 8), (4, 8), (8, 8), (8, 4), (4, 6), (6, 4), (3, 2)])
def test_a_layout_deals_every_picture_to_one_device_and_no_group_to_two_rows(groups, count):
  dealt, size = layout(groups, count), int(np.lcm(groups, count)) * 2
  per_group = size // groups

  def on_device(_):
    return dealt.own(jnp.arange(size)), dealt.group_numbers()

  own, numbers = map(np.asarray, jax.vmap(on_device, axis_name=AXIS)(jnp.arange(count)))
  assert sorted(own.reshape(-1)) == list(range(size))
  for device in range(count):
    # Group by group, in the order of its numbers, and within one in the order of the parts.
    for pictures, group in zip(own[device].reshape(dealt.groups_of_device, -1), numbers[device], strict=True):
      first = group * per_group + device % dealt.parts * len(pictures)
      assert pictures.tolist() == list(range(first, first + len(pictures)))
  for group in range(groups):
    holders = [device for device in range(count) if group in numbers[device]]
    assert len(holders) == dealt.parts
    assert len({device // dealt.parts for device in holders}) == 1


@pytest.mark.parametrize(
  ("groups", "count", "batch", "nearest"),
  [
    (1, 8, 60, "8 devices do not divide it; the nearest that they do: 56 and 64"),
    (4, 1, 66, "4 statistics groups do not divide it; the nearest that they do: 64 and 68"),
    (4, 6, 64, "4 statistics groups over 6 devices do not divide it; the nearest that they do: 60 and 72"),
    (8, 1, 4, "8 statistics groups do not divide it; the nearest that they do: 8"),
  ],
)
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do(groups, count, batch, nearest):
  with pytest.raises(ConfigurationError, match=f"--batch-size {batch}: {nearest}$"):
    layout(groups, count).check("batch-size", batch)
  layout(groups, count).check("batch-size", int(np.lcm(groups, count)))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_ten_steps_on_eight_devices_are_those_on_one(groups):
  found = cases(8, "steps", str(groups))
  assert {case.split()[0] for case in found} == {"none", "dense_layer", "bottleneck", "block", "layer_by_layer"}
  assert len(found) >= 8
  # The reference is G ordinary steps on one device, whose gradients and averages are averaged by numpy.
  assert {case: distance for case, distance in found.items() if not distance < 1e-10} == {}


@pytest.mark.slow
def test_one_step_in_float32_is_the_same_to_rounding():
  found = cases(8, "float32")
  assert {case: distance for case, distance in found.items() if not distance < 1e-5} == {}


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 6])
def test_groups_and_devices_need_not_divide_each_other(count):
  found = cases(count, "uneven")
  assert {case: distance for case, distance in found.items() if not distance < 1e-10} == {}


@pytest.mark.slow
def test_steps_gone_on_with_on_other_devices_from_a_checkpoint_are_the_same():
  found = cases(8, "resumed")
  assert len(found) == 3
  assert {case: distance for case, distance in found.items() if not distance < 1e-10} == {}


@pytest.mark.slow
def test_baselines_too_are_the_same_on_eight_devices():
  found = cases(8, "resnet")
  assert {case: distance for case, distance in found.items() if not distance < 1e-10} == {}


TPU = pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs the TPU compiler: pip install '.[tpu]'")


@pytest.mark.slow
@pytest.mark.parametrize(("where", "count"), [("here", 8), pytest.param("v5e:4x4", 16, marks=TPU)])
def test_a_group_a_device_exchanges_gradients_and_statistics_vectors_once_and_nothing_else(where, count):
  found = cases(count, "collectives", where, timeout=1800)
  once = 4 * (found["params"] + found["batch_stats"] + 4)  # float32 each, with four logged sums.
  channels = found["batch_stats"] // 2
  for policy in ("none", "dense_layer", "layer_by_layer"):
    kinds = found[f"{policy} {count}"]
    assert kinds.keys() == {"all-reduce"}, policy
    assert kinds["all-reduce"][1] == once, policy
    # One batch-wide group adds the statistics of parts: no map crosses, whatever the policy.
    kinds = found[f"{policy} 1"]
    assert kinds.keys() <= {"all-reduce", "all-gather", "reduce-scatter"}, policy
    extra = sum(size for _, size in kinds.values()) - once
    # Two numbers a channel of each part: gathered, perhaps again when a map is made again, and their gradients summed
    # (as large where a sum stands for sum-and-scatter).
    assert 2 * 4 * channels * count <= extra <= 3 * 2 * 4 * channels * count, policy


@pytest.mark.slow
def test_a_run_is_the_same_on_one_device_and_eight_and_by_pmap(tmp_path):
  flags = ("--epochs", "1", "--data.augment", "--model.dropout", "0.2", "--statistics-groups", "4")
  runs = {
    "one": ((), 1),
    "pieces": (("--accumulation", "4"), 1),
    "eight": ((), 8),
    "pmap": (("--parallel", "pmap"), 8),
    "four of eight": (("--devices", "4"), 8),
  }
  found = {}
  for name, (more, count) in runs.items():
    done = run(*small_run(tmp_path / name, *flags, *more), **devices(count))
    assert done.returncode == 0, done.stderr
    found[name] = metrics(tmp_path / name)[0]
    assert f"on {1 if count == 1 else 4 if '--devices' in more else 8} x cpu" in done.stdout
  for name in ("pieces", "eight", "pmap", "four of eight"):
    assert found[name]["train_loss"] == pytest.approx(found["one"]["train_loss"], rel=1e-4), name
  assert found["pmap"] == found["eight"]
  # Another number of groups is another run.
  done = run(*small_run(tmp_path / "other", *flags[:-1], "1"))
  assert done.returncode == 0, done.stderr
  assert abs(metrics(tmp_path / "other")[0]["train_loss"] / found["one"]["train_loss"] - 1) > 1e-3
  done = run(*small_run(tmp_path / "one", *flags[:-1], "1"))
  assert done.returncode == 2
  assert "--statistics-groups: 4 -> 1" in done.stderr


@pytest.mark.slow
def test_a_run_of_eight_devices_is_evaluated_on_one(tmp_path):
  folder = tmp_path / "run"
  first = run(*small_run(folder, "--epochs", "2"), **devices(8))
  assert first.returncode == 0, first.stderr
  assert "on 8 x cpu" in first.stdout
  evaluated = run("experiments/evaluate.py", folder)
  assert f"top-1 error: {100 * metrics(folder)[-1]['test_error']:.2f} %" in evaluated.stdout


@pytest.mark.slow
def test_a_run_begun_on_eight_devices_with_its_state_cut_goes_on_on_one(tmp_path):
  folder = tmp_path / "run"
  flags = ("--epochs", "3", "--batch-size", "96", "--statistics-groups", "4", "--checkpoint.every-steps", "5")
  command = [sys.executable, *small_run(folder, *flags, "--shard-state")]
  process = subprocess.Popen(command, cwd=ROOT, env=os.environ | devices(8), stdout=subprocess.DEVNULL)
  while not (folder / "checkpoints" / "15" / "digests.json").exists():  # An epoch has 13 steps.
    assert process.poll() is None
    time.sleep(0.01)
  process.kill()
  process.wait()
  begun = metrics(folder)
  done = run(*small_run(folder, *flags))
  assert done.returncode == 0, done.stderr
  assert "on 1 x cpu" in done.stdout
  assert "going on after epoch" in done.stdout
  assert metrics(folder)[: len(begun)] == begun
  alone = run(*small_run(tmp_path / "alone", *flags))
  assert alone.returncode == 0, alone.stderr
  for ours, theirs in zip(metrics(folder), metrics(tmp_path / "alone"), strict=True):
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flags", "count", "words"),
  [
    (("--batch-size", "60"), 8, "--batch-size 60: 8 devices do not divide it; the nearest that they do: 56 and 64"),
    (("--accumulation", "2"), 1, "--accumulation 2: each device works on 1 of --statistics-groups 1"),
    (("--statistics-groups", "8", "--accumulation", "3"), 2, "1, 2, 4 fit, or more groups"),
    (("--statistics-groups", "0"), 1, "--statistics-groups 0: must be at least 1"),
    (
      ("--last-batch", "keep", "--statistics-groups", "4"),
      1,
      "--last-batch keep: the last batch has 17 pictures; 4 statistics groups do not divide it",
    ),
    (("--parallel", "xmap"), 1, "xmap"),
    (("--devices", "9"), 2, "--devices 9: this machine has 2; at most that"),
    (("--devices", "0"), 1, "--devices 0: must be at least 1"),
    (("--parallel", "pmap", "--shard-state"), 2, "--parallel pmap: every device holds the whole state under it"),
  ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(tmp_path, flags, count, words):
  done = run(*small_run(tmp_path / "run", *flags), **devices(count))
  assert done.returncode == 2
  assert words in done.stderr
  assert not (tmp_path / "run").exists()
