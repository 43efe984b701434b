"""Batches of streamed images: Grain's threads or processes read, decode and crop ahead of time.

The order of an epoch and each crop depend on (seed, epoch, picture) alone. So a stream's only state is its position,
and a run that resumes within an epoch opens the stream at its next step.
"""

import dataclasses
import errno
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from dn_jax.config.schema import DataConfig
from dn_jax.data import image_files
from dn_jax.data.image_files import Reading
from dn_jax.data.sources import Source
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.system import child_processes, stderr

# Pictures to try, the drawn one included, before giving up.
_MOST_TRIES = 100
# Batches that each worker process, or all threads together, may finish ahead of time.
_AHEAD = 2
_MOST_THREADS = 16

Rows = dict[str, np.ndarray]


@functools.lru_cache(maxsize=2)
def order(seed: int, epoch: int, count: int) -> np.ndarray:
  """int [count]: the numbers of the pictures in the order of an epoch, counted from 0."""
  return np.random.default_rng([seed, epoch]).permutation(count)


@dataclasses.dataclass(frozen=True)
class Training:
  """The training images by step.

  source:     all training pictures
  seed:       of order and crops
  size:       side of a crop in pixels
  batch_size: images per step, over all processes
  rows:       this process's places in a batch, in the order in which it wants them
  augmented:  whether to crop at random; else centrally
  resize:     a picture's shorter side before the central crop
  how:        files are decoded and resized
  """

  source: Source
  seed: int
  size: int
  batch_size: int
  rows: tuple[int, ...]
  augmented: bool
  resize: int
  how: Reading = Reading()

  @property
  def steps_per_epoch(self) -> int:
    return len(self.source) // self.batch_size

  def picture(self, step: int, row: int) -> dict[str, Any]:
    """One row of a step's batch; the next picture in the data set replaces one that cannot be read.

    Returns:
      image: uint8 [size, size, channels]; label; number: of the picture; bad: the number of the replaced one, or -1.

    Raises:
      UserError: a hundred pictures in a row cannot be read.
    """
    epoch, step = divmod(step, self.steps_per_epoch)
    drawn = int(order(self.seed, epoch, len(self.source))[step * self.batch_size + row])
    for tried in range(_MOST_TRIES):
      number = (drawn + tried) % len(self.source)
      try:
        whole, label = _read(self.source, number, self.how)
      except (image_files.BadPictureError, OSError) as error:
        _refuse_of_machine(error)
        continue
      if self.augmented:
        rng = np.random.default_rng([self.seed, epoch, number, 1])
        image = image_files.random_area_crop(whole, self.size, rng, self.how.interpolation)
      else:
        whole = image_files.with_short_side(whole, self.resize, self.how.interpolation)
        image = image_files.centre_crop(whole, self.size)
      return {
        "image": image,
        "label": np.int32(label),
        "number": np.int32(number),
        "bad": np.int32(drawn if tried else -1),
      }
    raise UserError(f"{self.source.name_of(drawn)}, and {_MOST_TRIES - 1} images after it: cannot be read")

  def batches(self, first_step: int, steps: int, workers: int) -> Iterator[Rows]:
    """This process's rows of some steps, counted over all epochs; see `picture`. `close()` ends the workers."""
    return _ahead(grain.MapDataset.range(first_step, first_step + steps).map(self.batch), workers)

  def batch(self, step: int) -> Rows:
    """This process's rows of a step, counted over all epochs; see `picture`."""
    return _stacked([self.picture(step, row) for row in self.rows])


@dataclasses.dataclass(frozen=True)
class Testing:
  """The test images in the source's order.

  source:     all pictures
  size:       side of a crop in pixels
  resize:     a picture's shorter side before it is cropped
  crops:      1 (central) or 10
  batch_size: pictures per step, over all processes; the last step's batch is padded
  rows:       this process's places in a batch
  how:        files are decoded and resized
  """

  source: Source
  size: int
  resize: int
  crops: int
  batch_size: int
  rows: tuple[int, ...]
  how: Reading = Reading()

  @property
  def steps(self) -> int:
    return -(-len(self.source) // self.batch_size)

  def picture(self, number: int) -> dict[str, Any]:
    """One picture, or padding after the last one.

    Returns:
      image: uint8 [crops, size, size, channels]; label; weight: 1, or 0 for padding and unreadable pictures; bad: the
      number of an unreadable picture, else -1.
    """
    bad = -1
    if number < len(self.source):
      try:
        whole, label = _read(self.source, number, self.how)
        whole = image_files.with_short_side(whole, self.resize, self.how.interpolation)
        image = (
          image_files.ten_crops(whole, self.size)
          if self.crops == 10
          else image_files.centre_crop(whole, self.size)[None]
        )
        return {"image": image, "label": np.int32(label), "weight": np.float32(1), "bad": np.int32(-1)}
      except (image_files.BadPictureError, OSError) as error:
        _refuse_of_machine(error)
        bad = number
    nothing = np.zeros((self.crops, self.size, self.size, self.how.channels), np.uint8)
    return {"image": nothing, "label": np.int32(0), "weight": np.float32(0), "bad": np.int32(bad)}

  def batches(self, workers: int) -> Iterator[Rows]:
    """This process's rows of all steps; see `picture`. `close()` ends the workers."""
    return _ahead(grain.MapDataset.range(self.steps).map(self.batch), workers)

  def batch(self, step: int) -> Rows:
    """This process's rows of a step; after the last step padding alone."""
    return _stacked([self.picture(step * self.batch_size + row) for row in self.rows])


class Bad:
  """Names each unreadable picture once, and stops the run at more than a share of all.

  Args:
    source: of the pictures.
    share: of them that may be unreadable.
    say: called with a line for each.
    how: files are decoded.
  """

  def __init__(self, source: Source, share: float, say: Callable[[str], None], how: Reading = Reading()):
    self._source, self._share, self._say, self._how = source, share, say, how
    self._found: set[int] = set()

  def note(self, numbers: np.ndarray) -> None:
    """Takes a batch's column `bad`.

    Raises:
      UserError: too many are unreadable.
    """
    for number in sorted({int(number) for number in numbers if number >= 0} - self._found):
      self._found.add(number)
      name = self._source.name_of(number)
      self._say(f"skipped: {self._why(number, name)}")
      if len(self._found) > self._share * len(self._source):
        raise UserError(
          f"{len(self._found)} of {len(self._source)} images cannot be read, the last {name}; "
          f"--data.bad-share {self._share:g} allows fewer"
        )

  def _why(self, number: int, name: str) -> str:
    try:
      content, _ = self._source[number]
    except Exception:  # As it was when the image was wanted.
      content = b""
    try:
      image_files.check_size(content, name, self._how.max_pixels)
    except image_files.BadPictureError as error:
      return str(error)
    return f"{name}: no image that can be read"


def reading(data: DataConfig) -> Reading:
  """How a configuration's files are decoded and resized."""
  return Reading(data.max_pixels, data.bit_depth, data.channels or 3, data.interpolation or "bilinear")


def _refuse_of_machine(error: Exception) -> None:
  """Raises an error that says nothing of the picture: it would be replaced, and may be read the next time."""
  if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
    raise error


def _read(source: Source, number: int, how: Reading) -> tuple[np.ndarray, int]:
  content, label = source[number]
  return image_files.decode(content, source.name_of(number), how), label


def _stacked(rows: Sequence[dict[str, Any]]) -> Rows:
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _ahead(steps: grain.MapDataset, workers: int) -> Iterator[Rows]:
  """Batches by step, prepared ahead of time; an element is a whole batch, since each costs Grain time."""
  stderr.drop_lines()
  if not flags.FLAGS.is_parsed():  # Grain asks absl's flags, which nothing here parses.
    flags.FLAGS.mark_as_parsed()
  if not workers:
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    return iter(steps.to_iter_dataset(grain.ReadOptions(threads, threads + _AHEAD)))
  try:
    multiprocessing.Semaphore()
  except OSError as error:
    fits = f"they have no shared memory ({error.strerror}); make /dev/shm writable, or take 0"
    raise ConfigurationError("data.workers", workers, fits) from None
  # A worker has one thread. Batches come through a pipe: shared memory is no faster, and a container may have 64 MB.
  batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
  batches = grain.experimental.WithOptionsIterDataset(batches, grain.experimental.DatasetOptions(min_shm_size=2**40))
  processes = grain.MultiprocessingOptions(workers, per_worker_buffer_size=_AHEAD)
  ahead = iter(batches.mp_prefetch(processes, functools.partial(_begin_worker, os.getpid())))
  ahead.get_state()  # Makes what `start_prefetch` starts: a thread for each worker, which starts its process.
  # Ctrl-C and a scheduler's warning reach all processes of a run, but only the main one handles them. A process has the
  # mask of the thread that starts it, from its first moment on, and a thread that of the one that started it.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
  try:
    ahead.start_prefetch()
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
  return ahead


def _begin_worker(parent: int, index: int, workers: int) -> None:
  del index, workers
  child_processes.follow(parent)
  cv2.setNumThreads(0)  # The workers are parallel enough.
