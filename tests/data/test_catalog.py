"""Data sets by name, and what is held out of them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from dn_jax.config import datasets
from dn_jax.config.schema import DataConfig
from dn_jax.data import catalog, sources
from dn_jax.data.catalog import Split
from dn_jax.errors import ConfigurationError


def test_digits_are_scikit_learns_split_evenly_and_without_overlap():
  from sklearn.datasets import load_digits

  data = catalog.load(DataConfig("digits"))
  assert (len(data.train.labels), len(data.test.labels), data.valid) == (1297, 500, None)
  published = load_digits()
  rows = {
    tuple(image.ravel()): label for image, label in zip(published.images.astype(int), published.target, strict=True)
  }
  seen = [tuple(image.ravel()) for split in (data.train, data.test) for image in split.images]
  assert set(seen) == set(rows)
  assert len(seen) == 1797
  for split in (data.train, data.test):
    assert all(rows[tuple(image.ravel())] == label for image, label in zip(split.images, split.labels, strict=True))
    counts = np.bincount(split.labels) / len(split.labels)
    assert np.abs(counts - np.bincount(published.target) / 1797).max() < 0.002


def test_digits_constants_are_those_of_its_training_pictures():
  info, train = datasets.info_of(DataConfig("digits")), catalog.load(DataConfig("digits")).train
  assert info.mean[0] == pytest.approx(train.images.mean(), abs=1e-3)
  assert info.std[0] == pytest.approx(train.images.std(), abs=1e-3)


def numbered(labels):
  return Split(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1), np.asarray(labels, np.int32))


def test_held_out_pictures_are_even_over_classes_and_gone_from_the_rest():
  split = numbered([n % 4 for n in range(102)])
  rest, held = catalog.hold_out(split, 21)
  assert sorted(np.concatenate([rest.images, held.images]).ravel()) == list(range(102))
  assert sorted(np.bincount(held.labels)) == [5, 5, 5, 6]
  assert np.array_equal(held.images.ravel() % 4, held.labels)
  again = catalog.hold_out(split, 21)[1]
  assert np.array_equal(held.images, again.images)


def in_memory(monkeypatch, name, published=(), **parts):
  """Has a data set of the catalog consist of labels; image n of a split is all n, of `extra` all 255."""

  def read(split):
    labels = np.asarray(parts[split])
    numbers = np.full(len(labels), 255) if split == "extra" else np.arange(len(labels))
    return np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (len(labels), 32, 32, 3)), labels

  opened = catalog.tfds.Opened(read, lambda split: len(parts[split]))
  monkeypatch.setattr(catalog.tfds, "opened", lambda name, folder: opened)
  monkeypatch.setitem(datasets.CATALOG, name, dataclasses.replace(datasets.CATALOG[name], published=published))


def numbers_of(split):
  return split.images[:, 0, 0, 0].tolist()


def test_a_long_tail_under_a_published_name_is_in_every_part(monkeypatch):
  long_tail = [label for label, size in enumerate((60, 40, 20, 10, 8, 5, 4, 3, 2, 1)) for _ in range(size)]
  in_memory(monkeypatch, "cifar10", train=long_tail, test=range(10))
  data = catalog.load(DataConfig("cifar10", validation=30))
  assert len(data.valid.labels) == 30
  held, kept = (np.bincount(split.labels, minlength=10) for split in (data.valid, data.train))
  # 1 of each of four rare classes; of the other 26, 26 / 138 of a class are 11.3, 7.5, 3.8, 1.9, 1.5.
  assert held.tolist() == [11, 8, 4, 2, 1, 1, 1, 1, 1, 0]
  assert (kept >= 1).all()
  assert data.said == (
    "classes: 10",
    "images: 123 for training (train), 30 for validation (held out of these), 10 for test (test)",
    "no validation image of 9",
  )
  assert catalog.fingerprint(data)["split_rule"] == 2
  for count in (9, 144):
    with pytest.raises(ConfigurationError, match=rf"{count}: cifar10 has 153 training images; 10 to 143: each of 10"):
      catalog.load(DataConfig("cifar10", validation=count))


def test_classes_without_images_are_named(monkeypatch):
  in_memory(monkeypatch, "cifar10", train=[1, 2, 3, 4, 5, 6, 7, 8, 9], test=[0, 1, 2, 3, 4, 5, 6])
  assert catalog.load(DataConfig("cifar10")).said[2:] == ("no train image of 0", "no test image of 7, 8, 9")


def test_the_published_validation_images_stay_what_they_were(monkeypatch):
  labels = np.random.default_rng(0).permutation(np.arange(200) % 10)
  in_memory(monkeypatch, "cifar10", published=(200,), train=labels, test=range(10))
  config = DataConfig("cifar10", validation=50)
  valid = catalog.load(config).valid
  # As the version before held them out: the first five of each class in one shuffled order of all.
  first, taken = np.random.RandomState(0).permutation(200), []
  for label in range(10):
    taken += [n for n in first if labels[n] == label][:5]
  assert numbers_of(valid) == sorted(taken)
  assert numbers_of(catalog.load(config, rule=1).valid) == sorted(taken)
  in_memory(monkeypatch, "cifar10", train=labels, test=range(10))
  assert numbers_of(catalog.load(config).valid) != sorted(taken)


def test_of_two_parts_of_other_sizes_than_published_each_class_gives_its_share_of_both(monkeypatch):
  # The first part has no 9, and a single 8.
  train, extra = [*range(9), *range(8), *range(8)], np.arange(200) % 10
  in_memory(monkeypatch, "svhn_cropped", train=train, extra=extra, test=range(10))
  for count in (0, 10, 21, 85, 215):
    data = catalog.load(DataConfig("svhn_cropped", validation=count))
    held = np.bincount(data.valid.labels, minlength=10) if count else np.zeros(10, int)
    kept = np.bincount(data.train.labels, minlength=10)
    assert (held + kept).tolist() == [23] * 8 + [21, 20]
    assert held.sum() == count
    # As equal as whole images can be: 215 leaves each class its last.
    assert np.ptp(held / (held + kept)) <= 1 / 20
    assert held.min() >= min(count, 1)
    assert kept.min() >= 1


def test_two_small_parts_hold_out_whatever_fits_both_together(monkeypatch):
  in_memory(monkeypatch, "svhn_cropped", train=range(10), extra=range(10), test=range(10))
  data = catalog.load(DataConfig("svhn_cropped", validation=10))
  assert sorted(data.valid.labels) == sorted(data.train.labels) == list(range(10))


def test_images_are_counted_for_runs_of_either_rule(monkeypatch):
  config = DataConfig("digits", validation=5)
  assert catalog.count(config) == (1292, 5, 500)
  assert len(catalog.load(config, rule=1).valid.labels) == 5
  with pytest.raises(ConfigurationError, match=r"--data.validation 1297: digits has 1297 training images"):
    catalog.count(dataclasses.replace(config, validation=1297))


def test_svhn_holds_out_400_a_class_of_train_and_200_of_extra(monkeypatch):
  parts = {"train": 5000, "extra": 6000, "test": 100}
  images = lambda split: np.full((parts[split], 32, 32, 3), 1 if split == "train" else 2, np.uint8)
  opened = catalog.tfds.Opened(lambda split: (images(split), np.arange(parts[split]) % 10), parts.get)
  monkeypatch.setattr(catalog.tfds, "opened", lambda name, folder: opened)
  info = dataclasses.replace(datasets.CATALOG["svhn_cropped"], published=(5000, 6000))
  monkeypatch.setitem(datasets.CATALOG, "svhn_cropped", info)
  config = DataConfig("svhn_cropped", validation=6000)
  data = catalog.load(config)
  assert catalog.count(config) == tuple(len(split.labels) for split in (data.train, data.valid, data.test))
  assert len(data.train.labels) == 5000
  source = data.valid.images[:, 0, 0, 0]
  assert list(np.bincount(data.valid.labels[source == 1])) == [400] * 10
  assert list(np.bincount(data.valid.labels[source == 2])) == [200] * 10


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (DataConfig("cifar1O"), "--data.name cifar1O: did you mean cifar10"),
    (DataConfig("imagenet"), "--data.name imagenet: "),
    (DataConfig("digits", validation=1297), "--data.validation 1297: digits has 1297 training images"),
  ],
)
def test_what_cannot_be_loaded_is_refused_by_flag(config, message):
  with pytest.raises(ConfigurationError, match=message):
    catalog.load(config)


@pytest.mark.parametrize(
  ("images", "labels", "message"),
  [
    (np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, int), "has no images"),
    (np.zeros((4, 28, 28, 3), np.uint8), np.zeros(4, int), r"images are uint8 \(28, 28, 3\)"),
    (np.zeros((4, 32, 32, 3), np.float32), np.zeros(4, int), "images are float32"),
    (np.zeros((4, 32, 32, 3), np.uint8), np.array([0, 1, 2, 10]), "labels run from 0 to 10; they should be 0 to 9"),
    (np.zeros((4, 32, 32, 3), np.uint8), np.array([0, 1, 2, -1]), "labels run from -1 to 2"),
  ],
)
def test_a_split_that_is_not_what_its_name_says_is_refused(images, labels, message):
  with pytest.raises(ConfigurationError, match=message):
    catalog.check(datasets.info_of(DataConfig("cifar10")), "train", images, labels)


def test_class_weights_are_scikit_learns_and_one_on_average(tmp_path):
  data = catalog.load(DataConfig("digits", validation=100))
  labels = data.train.labels
  expected = compute_class_weight("balanced", classes=np.arange(10), y=labels)
  found = catalog.class_weights(data)
  np.testing.assert_allclose(found, expected, rtol=1e-14)
  assert found[labels].mean() == pytest.approx(1, rel=1e-14)
  # Of a folder, after the test images are held out; a class with none left is no part of the mean.
  for name, count in (("a", 20), ("b", 50), ("c", 1)):
    (tmp_path / name).mkdir()
    for n in range(count):
      (tmp_path / name / f"{n}.png").write_bytes(b"")
  data = catalog.load(DataConfig("folder", tmp_path, class_weights="balanced"))
  labels = data.train.known_labels()
  assert np.bincount(labels).tolist() == [18, 45, 1]
  np.testing.assert_allclose(
    catalog.class_weights(data), compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-14
  )
  assert data.said[-1] == "class weights: from 0.474 (b) to 21.3 (c)"
  lacking = data._replace(train=sources.Part(data.train, np.flatnonzero(labels < 2)))
  assert catalog.class_weights(lacking).tolist() == pytest.approx([63 / 36, 63 / 90, 0])


def test_classes_whose_labels_are_unknown_cannot_be_weighted(monkeypatch):
  monkeypatch.setattr(sources, "class_sizes", lambda source: None)
  data = catalog.Dataset(datasets.info_of(DataConfig("own")), None, None, None)
  with pytest.raises(ConfigurationError, match=r"--data.class-weights balanced: labels of own are known only once"):
    catalog.class_weights(data)


def test_colour_images_turn_grey_for_a_network_of_one_channel(monkeypatch):
  colours = np.random.RandomState(0).randint(0, 256, (50, 32, 32, 3)).astype(np.uint8)
  opened = catalog.tfds.Opened(lambda split: (colours, np.arange(50) % 10), lambda split: 50)
  monkeypatch.setattr(catalog.tfds, "opened", lambda name, folder: opened)
  monkeypatch.setattr(catalog, "_CHUNK", 20)
  data = catalog.load(DataConfig("cifar10", channels=1))
  assert data.info.image_shape == data.train.images.shape[1:] == (32, 32, 1)
  expected = np.stack([np.asarray(Image.fromarray(each).convert("L")) for each in colours])
  assert np.abs(data.train.images[..., 0].astype(int) - expected).max() <= 1
  assert np.abs(data.test.images[..., 0].astype(int) - expected).mean() < 0.01  # Of equal remainders alone.
  mean, std = catalog.normalisation(data, "channel")
  assert mean == pytest.approx(0.299 * 125.3 + 0.587 * 123.0 + 0.114 * 113.9, abs=1e-3)
  assert std == pytest.approx(0.299 * 63.0 + 0.587 * 62.1 + 0.114 * 66.7, abs=1e-3)
  assert data.said[-1] == (
    "images are turned to grey: 0.299 R + 0.587 G + 0.114 B; mean 122.65 and deviation 62.893 are these sums of the "
    "published ones"
  )
  mean, _ = catalog.normalisation(data, "mean")
  np.testing.assert_allclose(mean[..., 0], data.train.images[..., 0].mean(axis=0))
  assert catalog.load(DataConfig("cifar10", channels=1, normalise="mean")).said[-1].endswith("the mean grey image")
  assert "grey" not in " ".join(catalog.load(DataConfig("cifar10")).said)


def test_a_mean_picture_and_one_deviation_are_those_of_the_training_pictures():
  data = catalog.load(DataConfig("digits"))
  pictures = data.train.images.astype(np.float64)
  mean, std = catalog.normalisation(data, "pixel")
  # As cifar-dataset.lua of the stochastic-depth code has it: self.data:mean(1), self.data:std(), then subtracted.
  assert np.abs((pictures - mean).mean(axis=0)).max() < 1e-12
  assert std == pytest.approx(pictures.std(), rel=1e-12)
  mean, std = catalog.normalisation(data, "mean")
  assert np.abs((pictures - mean).mean(axis=0)).max() < 1e-12
  assert np.all(std == 1)
  with pytest.raises(ValueError, match="normalise None: channel, pixel or mean"):
    catalog.normalisation(data, None)


# The authors' Torch code, datasets/cifar10.lua and cifar100.lua; SVHN: paper, section 4.1.
@pytest.mark.parametrize(
  ("name", "mean", "std", "classes", "mirror", "pad"),
  [
    ("cifar10", (125.3, 123.0, 113.9), (63.0, 62.1, 66.7), 10, True, 4),
    ("cifar100", (129.3, 124.1, 112.4), (68.2, 65.4, 70.4), 100, True, 4),
    ("svhn_cropped", (0, 0, 0), (255, 255, 255), 10, False, 4),
  ],
)
def test_published_constants(name, mean, std, classes, mirror, pad):
  info = datasets.info_of(DataConfig(name))
  assert (info.mean, info.std, info.num_classes, info.mirror, info.pad) == (mean, std, classes, mirror, pad)


def test_other_pictures_of_the_same_name_have_another_fingerprint():
  labels = np.arange(6, dtype=np.int32) % 3
  split = Split(np.zeros((6, 1, 1, 1), np.uint8), labels)
  base = catalog.fingerprint(catalog.Dataset(None, split, None, split))
  fewer = Split(split.images[:5], labels[:5])
  turned = Split(split.images, labels[::-1])
  for other in (fewer, turned):
    assert catalog.fingerprint(catalog.Dataset(None, other, None, split)) != base
  assert base["pictures"] == {"train": 6, "test": 6}
