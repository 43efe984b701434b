"""What a run computes does not depend on the devices that carry it; virtual devices in a process of their own."""

import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, call, metrics, small_run, wait_for
from several_devices import environment
from test_processes import stopped

from dn_jax.distributed.layout import AXIS, Layout
from dn_jax.errors import ConfigurationError


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


@pytest.mark.parametrize(("groups", "count"), [(1, 1), (1, 8), (4, 8), (8, 4), (4, 6), (6, 4), (3, 2)])
def test_a_batch_backwards_is_that_of_one_device(groups, count):
  dealt, size = layout(groups, count), int(np.lcm(groups, count)) * 3
  both = lambda _: (own := dealt.own(jnp.arange(size)), dealt.backwards({"labels": own})["labels"])
  own, partners = map(np.asarray, jax.vmap(both, axis_name=AXIS)(jnp.arange(count)))
  np.testing.assert_array_equal(partners, size - 1 - own)


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


thorough = pytest.mark.thorough
POLICIES = ("none", "dense_layer", "bottleneck", "block", "layer_by_layer")
# Policy, statistics groups, devices; by what, in how many pieces, with the state cut. Of four groups on six devices
# each device has a part of two, and three share a group: everything that a layout has.
WHOLE = [
  ("layer_by_layer", 4, 6, "jit", 1, True),
  ("none", 4, 6, "pmap", 2),
]
MORE = [
  *((policy, 4, 8) for policy in POLICIES),
  *((policy, groups, 8) for policy in ("none", "layer_by_layer") for groups in (1, 8)),
  *(("layer_by_layer", groups, count) for groups, count in ((1, 1), (8, 2), (1, 3), (4, 6))),
  *(("layer_by_layer", groups, 8, "pmap") for groups in (1, 8)),
  ("none", 4, 6, "pmap"),
  ("layer_by_layer", 1, 8, "jit", 1, True),
  ("layer_by_layer", 8, 1, "jit", 8),
  ("dense_layer", 4, 1, "jit", 2),
  ("layer_by_layer", 8, 2, "pmap", 4),
  ("dense_layer", 4, 6, "jit", 2, True),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*WHOLE, *(pytest.param(case, marks=thorough) for case in MORE if case not in WHOLE)])
def test_ten_steps_on_several_devices_are_those_on_one(eight_devices, case):
  # The reference is G ordinary steps on one device, whose gradients and averages are averaged by numpy.
  assert eight_devices.case("steps", *case) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(
  "case", [(4, 6), *(pytest.param(each, marks=thorough) for each in ((1, 8), (4, 8, "pmap"), (4, 1, "jit", 2)))]
)
def test_weighted_classes_are_the_same_on_several_devices(eight_devices, case):
  assert eight_devices.case("weighted", *case) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(
  "case",
  [
    (4, 6, "jit", 2, True),
    *(pytest.param(each, marks=thorough) for each in ((1, 8), (1, 1), (4, 6, "pmap"), (8, 2, "pmap", 4))),
  ],
)
def test_images_and_losses_are_mixed_the_same_on_several_devices(eight_devices, case):
  # The reference mixes each whole batch by numpy.
  assert eight_devices.case("mixed", *case) < 1e-10


def test_a_confusion_matrix_over_devices_has_each_image_once(eight_devices):
  resident, streamed, expected = eight_devices.case("confused")
  assert resident == streamed == expected


@pytest.mark.thorough
@pytest.mark.parametrize(("policy", "groups"), [("none", 4), ("layer_by_layer", 4), ("layer_by_layer", 1)])
def test_one_step_in_float32_is_the_same_to_rounding(eight_devices, policy, groups):
  assert eight_devices.case("in_float32", policy, groups) < 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize(("groups", "before", "after"), [(1, 8, 1), (4, 2, 8), (4, 8, 6)])
def test_steps_gone_on_with_on_other_devices_from_a_checkpoint_are_the_same(eight_devices, groups, before, after):
  assert eight_devices.case("resumed", groups, before, after) < 1e-10


@pytest.mark.parametrize("count", [1, 8])
def test_an_rdnet_drops_the_same_layers_on_eight_devices(eight_devices, count):
  assert eight_devices.case("baseline", "rdnet", 1, count) < 1e-10


@pytest.mark.thorough
@pytest.mark.parametrize(("groups", "count"), [(4, 1), (4, 8), (1, 8)])
@pytest.mark.parametrize("name", ["stochastic depth", "wide"])
def test_baselines_too_are_the_same_on_eight_devices(eight_devices, name, groups, count):
  assert eight_devices.case("baseline", name, groups, count) < 1e-10


TPU = pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs the TPU compiler: pip install '.[tpu]'")


@pytest.mark.slow
@pytest.mark.parametrize(("where", "count"), [("here", 8), pytest.param("v5e:4x4", 16, marks=(TPU, thorough))])
@pytest.mark.parametrize(
  "policy", ["layer_by_layer", *(pytest.param(each, marks=thorough) for each in ("none", "dense_layer"))]
)
def test_a_group_a_device_exchanges_gradients_and_statistics_vectors_once_and_nothing_else(
  eight_devices, where, count, policy
):
  found = eight_devices.case("collectives", where, policy)
  once = 4 * (found["params"] + found["batch_stats"] + 4)  # float32 each, with four logged sums.
  channels = found["batch_stats"] // 2
  kinds = found[str(count)]
  assert kinds.keys() == {"all-reduce"}
  assert kinds["all-reduce"][1] == once
  # One batch-wide group adds the statistics of parts: no map crosses, whatever the policy.
  kinds = found["1"]
  assert kinds.keys() <= {"all-reduce", "all-gather", "reduce-scatter"}
  extra = sum(size for _, size in kinds.values()) - once
  # Two numbers a channel of each part: gathered, perhaps again when a map is made again, and their gradients summed
  # (as large where a sum stands for sum-and-scatter).
  assert 2 * 4 * channels * count <= extra <= 3 * 2 * 4 * channels * count


# Of these runs: a network of one convolution a layer, and the policy whose program is compiled fastest.
FLAGS = (
  *("--model.depth", "7", "--model.bottleneck", "False", "--model.remat", "none"),
  *("--epochs", "2", "--data.augment", "--model.dropout", "0.1"),
  *("--checkpoint.every-steps", "7"),
)


def trained(process, folder, *flags):
  done = process.call(*small_run(folder, *FLAGS, *flags))
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.fixture(scope="module")
def on_two_devices(eight_devices, tmp_path_factory):
  folder = tmp_path_factory.mktemp("two") / "run"
  assert "on 2 x cpu" in trained(eight_devices, folder, "--devices", "2")
  return metrics(folder)


def assert_losses_agree(ours, theirs, distance):
  """Programs for other devices round differently."""
  for mine, other in zip(ours, theirs, strict=True):
    for name in ("train_loss", "test_loss"):
      assert mine[name] == pytest.approx(other[name], rel=distance)


@pytest.mark.slow
def test_a_run_of_two_processes_that_is_asked_to_stop_goes_on_in_one_with_two_devices(
  eight_devices, on_two_devices, tmp_path
):
  stopped(tmp_path / "run", FLAGS, tmp_path)
  # The second process says nothing and writes nothing.
  assert "epoch" not in (tmp_path / "1.out").read_text()
  assert "from the checkpoint of step" in trained(eight_devices, tmp_path / "run", "--devices", "2")
  assert_losses_agree(metrics(tmp_path / "run"), on_two_devices, 1e-4)


@pytest.mark.slow
def test_a_run_of_adamw_is_the_same_where_its_state_is_cut_over_the_devices(eight_devices, tmp_path):
  flags = ("--protocol", "rdnet", "--epochs", "1", "--statistics-groups", "4", "--devices", "4")
  for name, more in (("whole", ()), ("cut", ("--shard-state",))):
    trained(eight_devices, tmp_path / name, *flags, *more)
  assert_losses_agree(metrics(tmp_path / "cut"), metrics(tmp_path / "whole"), 1e-4)


@pytest.mark.thorough
def test_a_run_is_the_same_on_eight_devices_by_pmap_in_pieces_and_no_other_than_its_groups_say(eight_devices, tmp_path):
  flags = ("--epochs", "1", "--statistics-groups", "4")
  runs = {
    "one": ("--devices", "1"),
    "pieces": ("--devices", "1", "--accumulation", "4"),
    "eight": (),
    "pmap": ("--parallel", "pmap"),
    "four of eight": ("--devices", "4"),
  }
  found = {}
  for name, more in runs.items():
    said = trained(eight_devices, tmp_path / name, *flags, *more)
    found[name] = metrics(tmp_path / name)[0]
    assert f"on {more[1] if '--devices' in more else 8} x cpu" in said
  for name in ("pieces", "eight", "pmap", "four of eight"):
    assert found[name]["train_loss"] == pytest.approx(found["one"]["train_loss"], rel=1e-4), name
  assert found["pmap"] == found["eight"]
  # Another number of groups is another run.
  trained(eight_devices, tmp_path / "other", "--epochs", "1", "--devices", "1")
  assert abs(metrics(tmp_path / "other")[0]["train_loss"] / found["one"]["train_loss"] - 1) > 1e-3
  done = call(*small_run(tmp_path / "one", *FLAGS, "--epochs", "1"))
  assert done.returncode == 2
  assert "--statistics-groups: 4 -> 1" in done.stderr
  # What eight devices trained is evaluated on one.
  evaluated = call("experiments/evaluate.py", tmp_path / "eight")
  assert f"top-1 error: {100 * found['eight']['test_error']:.2f} %" in evaluated.stdout


@pytest.mark.slow
@pytest.mark.thorough
def test_a_run_begun_on_eight_devices_with_its_state_cut_goes_on_on_one(tmp_path):
  folder = tmp_path / "run"
  flags = ("--epochs", "2", "--batch-size", "96", "--statistics-groups", "4", "--checkpoint.every-steps", "5")
  command = [sys.executable, *small_run(folder, *flags, "--shard-state")]
  process = subprocess.Popen(command, cwd=ROOT, env=environment(8), stdout=subprocess.DEVNULL)
  wait_for(folder / "checkpoints" / "15" / "digests.json", process)  # An epoch has 13 steps.
  process.kill()
  process.wait()
  begun = metrics(folder)
  done = call(*small_run(folder, *flags))
  assert done.returncode == 0, done.stderr
  assert "on 1 x cpu" in done.stdout
  assert "going on after epoch" in done.stdout
  assert metrics(folder)[: len(begun)] == begun
  alone = call(*small_run(tmp_path / "alone", *flags))
  assert alone.returncode == 0, alone.stderr
  for ours, theirs in zip(metrics(folder), metrics(tmp_path / "alone"), strict=True):
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=5e-3)


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (("--batch-size", "60"), "--batch-size 60: 8 devices do not divide it; the nearest that they do: 56 and 64"),
    (("--accumulation", "2"), "--accumulation 2: each device works on 1 of --statistics-groups 1"),
    (("--statistics-groups", "8", "--accumulation", "3", "--devices", "2"), "1, 2, 4 fit, or more groups"),
    (("--statistics-groups", "0"), "--statistics-groups 0: must be at least 1"),
    (
      ("--last-batch", "keep", "--statistics-groups", "4", "--devices", "1"),
      "--last-batch keep: the last batch has 17 images; 4 statistics groups do not divide it",
    ),
    (("--parallel", "xmap"), "xmap"),
    (("--devices", "9"), "--devices 9: this machine has 8; at most that"),
    (("--devices", "0"), "--devices 0: must be at least 1"),
    (("--parallel", "pmap", "--shard-state"), "--parallel pmap: every device holds the whole state under it"),
  ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(eight_devices, tmp_path, flags, words):
  done = eight_devices.call(*small_run(tmp_path / "run", *flags))
  assert done.returncode == 2
  assert words in done.stderr
  assert not (tmp_path / "run").exists()
