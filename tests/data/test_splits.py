"""Which images are held out."""

import numpy as np
import pytest

from dn_jax.data import splits
from dn_jax.errors import ConfigurationError


def sizes_and_counts():
  """Long tails and others, with every kind of count."""
  rng = np.random.default_rng(0)
  for _ in range(300):
    sizes = rng.integers(0, rng.integers(2, 300), rng.integers(1, 30)).astype(np.int64)
    low, high = (sizes >= 2).sum(), np.maximum(sizes - 1, 0).sum()
    for count in {int(low), int(high), int(rng.integers(low, high + 1))}:
      yield sizes, count


def test_a_number_is_taken_exactly_and_starves_no_class():
  for sizes, count in sizes_and_counts():
    found = splits.shares(sizes, count)
    assert found.sum() == count
    assert (found <= np.maximum(sizes - 1, 0)).all()
    assert (found >= (sizes >= 2)).all()


def test_every_class_gives_its_share_to_within_an_image_where_none_is_rare():
  rng = np.random.default_rng(1)
  for _ in range(100):
    sizes = rng.integers(100, 5000, 12).astype(np.int64)
    count = int(rng.integers(len(sizes) * 50, sizes.sum() // 2))
    assert (np.abs(splits.shares(sizes, count) - sizes * count / sizes.sum()) < 1).all()
  assert splits.shares(np.array([190, 10]), 20).tolist() == [19, 1]
  # The rare classes' whole images are of all the others' shares.
  assert splits.shares(np.array([1000, 2, 2, 2]), 103).tolist() == [100, 1, 1, 1]


def test_a_tenth_is_at_least_one_image_and_never_the_last():
  sizes = np.array([0, 1, 2, 9, 10, 14, 15, 100, 190, 999])
  assert splits.tenths(sizes).tolist() == [0, 0, 1, 1, 1, 1, 2, 10, 19, 100]


def test_which_images_of_a_class_go_depends_on_their_names_alone():
  names = [f"{n}.jpg" for n in range(40)]
  alone = splits.by_name(np.zeros(40, int), names)
  assert sorted(alone) == list(range(40))
  # In another order, beside another class whose images have other names.
  others = [f"x{n}.jpg" for n in range(25)]
  labels = np.array([1] * 40 + [0] * 25)
  mixed = np.random.default_rng(2).permutation(65)
  ranks = splits.by_name(labels[mixed], [[*names, *others][n] for n in mixed])
  assert {names[n]: rank for n, rank in zip(mixed, ranks, strict=True) if n < 40} == dict(
    zip(names, alone, strict=True)
  )
  # One image more moves none of the others past each other.
  more = splits.by_name(np.zeros(41, int), [*names, "new.jpg"])[:40]
  assert (np.argsort(more) == np.argsort(alone)).all()
  assert splits.by_name(np.zeros(2, int), ["caf\udce9.jpg", "b.jpg"]).tolist() in ([0, 1], [1, 0])


def test_where_there_are_no_names_it_depends_on_places_within_the_class():
  alone = splits.by_place(np.zeros(30, int))
  assert sorted(alone) == list(range(30))
  labels = np.random.default_rng(3).permutation([0] * 30 + [1] * 50)
  assert splits.by_place(labels)[labels == 0].tolist() == alone.tolist()


def test_an_image_of_unknown_label_is_never_held_out():
  labels = np.array([0, -(2**62), 1, 1])
  assert splits.held(labels, np.zeros(4, int), np.array([1, 1])).tolist() == [True, False, True, True]


def test_the_published_way_is_even_over_classes_and_keeps_what_it_is_told_to():
  labels = np.array([0] * 50 + [1] * 3)
  assert np.bincount(labels[splits.evenly(labels, 20)]).tolist() == [17, 3]
  assert np.bincount(labels[splits.evenly(labels, 20, keep=1)]).tolist() == [18, 2]


@pytest.mark.parametrize(
  ("count", "sizes", "answer"),
  [
    (1, [180, 9], "there are 189 training images; 2 to 187: each of 2 classes gives one and keeps one"),
    (188, [180, 9], "there are 189 training images; 2 to 187"),
    (3, [2, 2], "there are 4 training images; 2: each"),
    (1, [1, 1], "there are 2 training images; 0 alone: each"),
  ],
)
def test_a_number_that_does_not_fit_is_refused_with_those_that_do(count, sizes, answer):
  with pytest.raises(ConfigurationError) as refused:
    splits.check_count(count, np.array(sizes))
  assert str(refused.value).startswith(f"--data.validation {count}: {answer}")
  splits.check_count(0, np.array(sizes))
