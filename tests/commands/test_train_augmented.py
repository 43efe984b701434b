"""Training with mixed and partly hidden images, as a person runs it."""

import json

import jax
import numpy as np
import pytest
import traced_once
from conftest import call, metrics, small_run
from cut_off import cut_off
from photographs import halves

from dn_jax.inference import load

traced_once = traced_once.traced_once

MIXED = ("--data.mixup", "0.8", "--data.cutmix", "1")
ALL = (*MIXED, "--data.erasing", "0.25", "--data.cutout", "3")
# The last batch of an epoch has 17 images, of which one is its own partner.
SHORT = ("--epochs", "2", "--batch-size", "256", "--last-batch", "keep", "--model.blocks", "1", "--model.remat", "none")


def of_digits(out, *flags):
  return ("experiments/train.py", "--data.name", "digits", "--model.growth-rate", "4", *SHORT, "--out", out, *flags)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp("augmented") / "run"
  done = call(*of_digits(folder, *ALL))
  assert done.returncode == 0, done.stderr
  return folder, done


@pytest.mark.slow
def test_a_run_with_mixed_and_hidden_images_says_so_and_records_it(undisturbed, tmp_path):
  folder, done = undisturbed
  said = " ".join(done.stdout.split())
  assert "training images are mixed: their logged errors are of each image's own label alone" in said
  recorded = json.loads((folder / "config.json").read_text())["data"]
  flags = {name: recorded[name] for name in ("mixup", "cutmix", "erasing", "cutout")}
  assert flags == {"mixup": 0.8, "cutmix": 1.0, "erasing": 0.25, "cutout": 3}
  assert not recorded.keys() & {"rand_augment", "rand_augment_deviation"}
  found = metrics(folder)
  assert len(found) == 2
  plain = call(*of_digits(tmp_path / "plain"))
  assert plain.returncode == 0, plain.stderr
  assert "images are mixed" not in plain.stdout
  assert not json.loads((tmp_path / "plain" / "config.json").read_text())["data"].keys() & {*flags, "rand_augment"}
  assert found[0]["train_loss"] != metrics(tmp_path / "plain")[0]["train_loss"]


@pytest.mark.slow
def test_a_run_cut_off_within_an_epoch_mixes_and_hides_the_same_images_again(undisturbed, tmp_path):
  flags = of_digits(tmp_path / "run", *ALL, "--checkpoint.every-steps", "9")
  cut_off(lambda: call(*flags), 11)
  again = call(*flags)
  assert again.returncode == 0, again.stderr
  # An epoch has 6 steps.
  assert "going on after epoch 1 and 3 steps, from the checkpoint of step 9" in " ".join(again.stdout.split())
  folders = tmp_path / "run", undisturbed[0]
  ours, theirs = map(metrics, folders)
  assert ours == theirs
  found = [load.trained_by(folder, "last", pytest.fail) for folder in folders]
  for one, other in zip(*(jax.tree.leaves((each.params, each.batch_stats)) for each in found), strict=True):
    np.testing.assert_array_equal(one, other)


def streamed(images, out, *flags):
  network = ("--model.blocks", "1", "--model.growth-rate", "4", "--model.remat", "none")
  data = ("--data.name", "folder", "--data.dir", images, "--data.size", "16", "--data.augment")
  return ("experiments/train.py", *data, *network, "--epochs", "1", "--batch-size", "8", "--out", out, *flags)


@pytest.mark.slow
def test_images_of_a_folder_are_changed_by_random_operations(tmp_path):
  images, losses = halves(tmp_path / "images"), []
  for name, flags in (("plain", ()), ("changed", ("--data.rand-augment", "9", "--data.rand-augment-deviation", "0.5"))):
    done = call(*streamed(images, tmp_path / name, *flags))
    assert done.returncode == 0, done.stderr
    losses.append(metrics(tmp_path / name)[0]["train_loss"])
  assert np.isfinite(losses).all()
  assert losses[0] != losses[1]
  assert json.loads((tmp_path / "changed" / "config.json").read_text())["data"]["rand_augment"] == 9


@pytest.mark.slow
@pytest.mark.thorough
def test_a_streamed_run_with_changed_and_mixed_images_is_the_same_on_four_devices(tmp_path, eight_devices):
  images, losses = halves(tmp_path / "images", each=16), []
  flags = (*MIXED, "--data.erasing", "0.5", "--data.rand-augment", "9", "--statistics-groups", "2")
  for count, more in ((1, ()), (4, ()), (1, ("--accumulation", "2"))):
    out = tmp_path / f"{len(losses)}"
    done = eight_devices.call(*streamed(images, out, *flags, "--devices", str(count), *more))
    assert done.returncode == 0, done.stderr
    losses.append(metrics(out)[0]["train_loss"])
  assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-4)


@pytest.mark.parametrize(
  ("flags", "answer"),
  [
    (("--data.mixup", "-0.1"), "--data.mixup -0.1: at least 0, at most 1,000"),
    (("--data.mixup", "0.0001"), "--data.mixup 0.0001: at least 0.001; or 0, for none"),
    (("--data.cutmix", "1001"), "--data.cutmix 1001.0: at least 0, at most 1,000"),
    (("--data.erasing", "1.1"), "--data.erasing 1.1: at least 0, at most 1"),
    (("--data.cutout", "9"), "--data.cutout 9: the images have 8x8 pixels; at most 8"),
    (("--data.cutout", "-1"), "--data.cutout -1: must be at least 0"),
    (
      ("--data.rand-augment", "9"),
      "--data.rand-augment 9.0: changes pixels of 0 to 255, and those of digits are 0 to 16; leave this flag out",
    ),
    (("--data.rand-augment", "11"), "--data.rand-augment 11.0: at least 0, at most 10"),
    (
      ("--data.rand-augment-deviation", "0.5"),
      "--data.rand-augment-deviation 0.5: is of the magnitudes of --data.rand-augment; give that too",
    ),
    *(
      (
        (f"--data.{name}", "1", "--batch-size", "1"),
        f"--data.{name} 1.0: mixes images of one batch; needs --batch-size 2 or more",
      )
      for name in ("mixup", "cutmix")
    ),
  ],
)
def test_what_images_cannot_have_is_refused_in_one_line(flags, answer, tmp_path):
  done = call(*small_run(tmp_path / "run", *flags))
  assert done.returncode == 2
  assert done.stderr == f"error: {answer}\n"
  assert not (tmp_path / "run").exists()
