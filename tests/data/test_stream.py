"""Batches of pictures that are read one by one."""

import errno
import itertools
import os
import signal
from multiprocessing import util

import numpy as np
import pytest
from photographs import class_folders, halves, jpeg, photograph

from dn_jax.config.schema import DataConfig
from dn_jax.data import image_files, sources, stream
from dn_jax.errors import ConfigurationError, UserError


def training(folder, **changes):
  source = sources.opened(DataConfig("folder", folder)).train
  return stream.Training(
    **{"source": source, "seed": 3, "size": 24, "batch_size": 4, "rows": (0, 1, 2, 3), "augmented": True, "resize": 28}
    | changes
  )


def same(a, b):
  return all(np.array_equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


def test_every_epoch_takes_every_picture_once_in_an_order_of_its_own(tmp_path):
  halves(tmp_path)
  epochs = [list(training(tmp_path).batches(first, 6, 0)) for first in (0, 6)]
  orders = [np.concatenate([batch["number"] for batch in epoch]).tolist() for epoch in epochs]
  assert sorted(orders[0]) == sorted(orders[1]) == list(range(24))
  assert orders[0] != orders[1]
  for batch in epochs[0]:
    assert batch["image"].shape == (4, 24, 24, 3)
    assert batch["image"].dtype == np.uint8
    assert (batch["label"] == batch["number"] // 8).all()


def test_a_stream_opened_in_mid_epoch_goes_on_with_the_next_picture(tmp_path):
  whole = list(training(halves(tmp_path)).batches(0, 14, 0))
  assert same(whole[9:], list(training(tmp_path).batches(9, 5, 0)))


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_give_the_same_batches(tmp_path, workers):
  stream_of = training(halves(tmp_path))
  assert same(list(stream_of.batches(2, 7, 0)), list(stream_of.batches(2, 7, workers)))


def test_processes_share_a_batch(tmp_path):
  whole = list(training(halves(tmp_path)).batches(0, 8, 0))
  for rows in ((0, 1), (3, 2)):
    for batch, part in zip(whole, training(tmp_path, rows=rows).batches(0, 8, 0), strict=True):
      assert np.array_equal(batch["image"][list(rows)], part["image"])
      assert np.array_equal(batch["number"][list(rows)], part["number"])


def test_crops_are_of_seed_epoch_and_picture(tmp_path):
  halves(tmp_path)

  def crops(**changes):
    batches = training(tmp_path, **changes).batches(0, 12, 0)
    return [
      {int(n): image for batch in epoch for n, image in zip(batch["number"], batch["image"], strict=True)}
      for epoch in itertools.batched(batches, 6)
    ]

  first, second = crops()
  assert not any(np.array_equal(first[n], second[n]) for n in range(24))
  other = crops(batch_size=4, seed=4)[0]
  assert not any(np.array_equal(first[n], other[n]) for n in range(24))
  middle, again = crops(augmented=False)
  assert all(np.array_equal(middle[n], again[n]) for n in range(24))
  whole = image_files.read(tmp_path / "train" / "dog" / "2.jpg")
  assert np.array_equal(middle[10], image_files.centre_crop(image_files.with_short_side(whole, 28), 24))


def test_the_filter_of_a_configuration_resizes_crops_and_test_images(tmp_path):
  halves(tmp_path)
  bicubic = stream.reading(DataConfig("folder", interpolation="bicubic"))
  assert stream.reading(DataConfig("folder")) == stream.reading(DataConfig("folder", interpolation="bilinear"))
  path, number = tmp_path / "train" / "dog" / "2.jpg", 10
  whole = image_files.read(path)
  by_number = lambda batches: {
    int(n): image for each in batches for n, image in zip(each["number"], each["image"], strict=True)
  }
  crop = by_number(training(tmp_path, how=bicubic).batches(0, 6, 0))[number]
  rng = np.random.default_rng([3, 0, number, 1])
  assert np.array_equal(crop, image_files.random_area_crop(whole, 24, rng, "bicubic"))
  middle = by_number(training(tmp_path, how=bicubic, augmented=False).batches(0, 6, 0))[number]
  resized = image_files.with_short_side(whole, 28, "bicubic")
  assert np.array_equal(middle, image_files.centre_crop(resized, 24))
  source = sources.opened(DataConfig("folder", tmp_path)).train
  tested = stream.Testing(source, 24, 28, 1, 4, (0, 1, 2, 3), bicubic).picture(number)["image"]
  assert np.array_equal(tested[0], image_files.centre_crop(resized, 24))


def test_a_bad_picture_is_passed_over_for_the_next_and_named_once(tmp_path):
  halves(tmp_path)
  (tmp_path / "train" / "cat" / "5.jpg").write_text("a text file")
  said, found = [], []
  source = training(tmp_path).source
  bad = stream.Bad(source, 0.05, said.append)
  for batch in training(tmp_path).batches(0, 12, 0):
    bad.note(batch["bad"])
    found += batch["number"].tolist()
  assert 5 not in found
  assert found.count(6) == 4
  assert said == [f"skipped: {tmp_path}/train/cat/5.jpg: no image that can be read"]


def test_more_bad_pictures_than_a_share_stop_it():
  source = [None] * 100
  source = type("Source", (), {"__len__": lambda self: 100, "name_of": lambda self, n: f"image {n}"})()
  bad = stream.Bad(source, 0.01, lambda line: None)
  bad.note(np.array([-1, 7, 7, -1]))
  with pytest.raises(UserError, match=r"2 of 100 images cannot be read, the last image 9; --data.bad-share 0.01"):
    bad.note(np.array([9, 7]))


def test_a_source_of_bad_pictures_alone_is_an_error(tmp_path):
  class_folders(tmp_path)
  for path in tmp_path.rglob("*.jpg"):
    path.write_text("")
  with pytest.raises(UserError, match=r"\.jpg, and 99 images after it: cannot be read"):
    next(training(tmp_path, batch_size=2, rows=(0, 1)).batches(0, 2, 0))


@pytest.mark.parametrize("crops", [1, 10])
def test_a_test_sees_every_picture_once_and_fills_the_last_batch_up(tmp_path, crops):
  source = sources.opened(DataConfig("folder", halves(tmp_path))).test
  (tmp_path / "val" / "dog" / "1.jpg").write_text("")
  batches = list(stream.Testing(source, 24, 28, crops, 4, (0, 1, 2, 3)).batches(0))
  columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
  assert columns["image"].shape == (12, crops, 24, 24, 3)
  assert columns["weight"].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0]
  assert columns["bad"].tolist() == [-1] * 4 + [4] + [-1] * 7
  assert columns["label"][columns["weight"] > 0].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
  whole = image_files.with_short_side(image_files.read(tmp_path / "val" / "owl" / "2.jpg"), 28)
  expected = image_files.ten_crops(whole, 24) if crops == 10 else image_files.centre_crop(whole, 24)[None]
  assert np.array_equal(columns["image"][8], expected)


def test_an_image_over_the_limit_is_named_with_its_size(tmp_path):
  halves(tmp_path)
  (tmp_path / "val" / "cat" / "1.jpg").write_bytes(jpeg(photograph(0, 90, 100)))
  source, how, said = sources.opened(DataConfig("folder", tmp_path)).test, image_files.Reading(60 * 80), []
  bad = stream.Bad(source, 0.5, said.append, how)
  for columns in stream.Testing(source, 24, 28, 1, 4, (0, 1, 2, 3), how).batches(0):
    bad.note(columns["bad"])
  assert said == [f"skipped: {tmp_path}/val/cat/1.jpg: has 100 x 90 pixels; --data.max-pixels 4800 allows fewer"]


def test_a_machine_that_opens_no_more_files_ends_a_run_and_replaces_no_image(tmp_path, monkeypatch):
  halves(tmp_path)
  source = sources.opened(DataConfig("folder", tmp_path)).train
  testing = stream.Testing(source, 24, 28, 1, 4, (0, 1, 2, 3))

  def refuse(*_):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.jpg")

  monkeypatch.setattr(stream, "_read", refuse)
  for read in (lambda: training(tmp_path).picture(0, 0), lambda: testing.picture(0)):
    with pytest.raises(OSError, match="Too many open files"):
      read()


@pytest.mark.slow
def test_a_signal_to_the_whole_group_meets_no_worker_even_while_it_starts_and_is_not_kept_from_the_run(
  tmp_path, monkeypatch, capfd
):
  spawned, spawn = [], util.spawnv_passfds

  def signalled(*arguments):
    spawned.append(spawn(*arguments))
    for number in (signal.SIGTERM, signal.SIGINT):
      os.kill(spawned[-1], number)
    return spawned[-1]

  monkeypatch.setattr(util, "spawnv_passfds", signalled)
  halves(tmp_path)
  stream_of = training(tmp_path)
  before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
  batches = stream_of.batches(0, 4, 2)
  assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
  assert same(list(stream_of.batches(0, 4, 0)), [next(batches) for _ in range(4)])
  assert len(spawned) >= 2
  batches.close()
  assert "Traceback" not in capfd.readouterr().err


def test_workers_without_shared_memory_are_refused_by_their_flag(tmp_path, monkeypatch):
  halves(tmp_path)

  def refuse():
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(stream.multiprocessing, "Semaphore", refuse)
  with pytest.raises(
    ConfigurationError, match=r"--data.workers 2: they have no shared memory \(Read-only file system\)"
  ):
    training(tmp_path).batches(0, 2, workers=2)
