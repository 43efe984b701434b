"""Chooses the images that are held out of a training set: always the same ones, whatever the seed.

Rule 2: each class gives its share, at least one image where it has two or more, and never its last. Which images of a
class go depends on that class alone: on their names, or on their places among the class's images.

Rule 1 held out as evenly over the classes as possible, and could take all of a rare class. Runs that were begun under
it keep it. So do the published sets CIFAR and SVHN, whose classes then keep their last image too.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from dn_jax.errors import ConfigurationError

RULE = 2
# Where there is no test part, one image in so many of each class is for testing.
ONE_IN = 10


def by_name(labels: np.ndarray, names: Iterable[str]) -> np.ndarray:
  """int [n]: each image's rank within its class, by a digest of its name; the lowest are held out first."""
  digests = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
  return _ranks(labels, np.frombuffer(b"".join(digests), ">u8"))


def by_place(labels: np.ndarray) -> np.ndarray:
  """int [n]: each image's rank within its class, drawn from the class's size alone."""
  ranks = np.empty(len(labels), np.int64)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    ranks[members] = np.random.RandomState(0).permutation(len(members))
  return ranks


def _ranks(labels: np.ndarray, keys: np.ndarray) -> np.ndarray:
  order = np.lexsort((keys, labels))
  starts = np.searchsorted(labels[order], labels[order])
  ranks = np.empty(len(labels), np.int64)
  ranks[order] = np.arange(len(labels)) - starts
  return ranks


def tenths(sizes: np.ndarray) -> np.ndarray:
  """int [classes]: a tenth of each class, at least one image where it has two or more."""
  return np.where(sizes >= 2, np.maximum((sizes + ONE_IN // 2) // ONE_IN, 1), 0)


def shares(sizes: np.ndarray, count: int) -> np.ndarray:
  """int [classes], of sum `count`: each class's share, at least 1 and at most its size - 1 where its size is 2 or more.

  Args:
    sizes: int [classes], images of each.
    count: from the number of classes of two or more images to the sum of their sizes less one each.
  """
  low, high = (sizes >= 2).astype(np.int64), np.maximum(sizes - 1, 0)
  if not low.sum() <= count <= high.sum():
    raise ValueError(f"{count} images cannot be held out of classes of {sizes.tolist()}")
  # The common share for which the clipped parts have the right sum; it grows with the share, so bisection finds it.
  below, above = 0.0, 1.0
  for _ in range(60):
    share = (below + above) / 2
    below, above = (share, above) if np.clip(sizes * share, low, high).sum() < count else (below, share)
  exact = np.clip(sizes * above, low, high)
  found = np.floor(exact + 1e-6).astype(np.int64)
  # The rest by the largest remainders; of equal ones, from the first class on.
  order = np.argsort(np.round(found - exact, 6), kind="stable")
  open_ = order[found[order] < high[order]]
  found[open_[: count - found.sum()]] += 1
  return found


def held(labels: np.ndarray, ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """bool [n]: the images of the lowest ranks, so many of each class; none with a negative label, which is unknown."""
  return (labels >= 0) & (ranks < counts[labels.clip(0)])


def evenly(labels: np.ndarray, count: int, keep: int = 0) -> np.ndarray:
  """bool [n]: `count` images by rule 1, of which each class keeps at least `keep`."""
  rank, left = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
  shuffled = np.random.RandomState(0).permutation(len(labels))
  for label in np.unique(labels):
    members = shuffled[labels[shuffled] == label]
    rank[members] = np.arange(len(members))
    left[members] = len(members) - rank[members]
  # The first of every class, then the second of every class, and so on.
  order = shuffled[np.argsort(rank[shuffled], kind="stable")]
  chosen = order[left[order] > keep][:count]
  result = np.zeros(len(labels), bool)
  result[chosen] = True
  return result


def check_count(count: int, sizes: np.ndarray, whose: str = "there are") -> None:
  """Refuses a number of validation images that some class could not give, or that takes its last training image.

  Args:
    count: of images, as `--data.validation` has it; 0 is always right.
    sizes: int [classes], training images of each.
    whose: begins the message, such as "digits has".

  Raises:
    ConfigurationError: names the flag and the bounds.
  """
  low, high = len(sizes), int(np.maximum(sizes - 1, 0).sum())
  if not count or low <= count <= high:
    return
  bounds = f"{low:,} to {high:,}" if low < high else f"{low:,}" if low == high else "0 alone"
  fits = f"{whose} {int(sizes.sum())} training images; {bounds}: each of {low} classes gives one and keeps one"
  raise ConfigurationError("data.validation", count, fits)
