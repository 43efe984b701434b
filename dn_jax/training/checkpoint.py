"""Checkpoints through Orbax: saving and restoring a run, when one is due, and whether one on disk is whole.

A run uses the newest whole one (`dn_jax.training.seal`) and sets the others aside.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from dn_jax.distributed import processes
from dn_jax.errors import UserError, in_a_line, reason
from dn_jax.runs.records import EpochRecord
from dn_jax.system import folders, traces
from dn_jax.training import position
from dn_jax.training.loop import Begun
from dn_jax.training.position import Position
from dn_jax.training.seal import Names, fault, foreign_in, is_checkpoint, seal, steps_on_disk
from dn_jax.training.step import Totals, TrainState

# Ends the name of an old checkpoint until the new one of its step is sealed.
_REPLACED = ".replaced"
# Seconds, about, between two looks at the first process's clock, which cost an exchange.
_LOOK_EVERY = 10.0
# Seconds after which a checkpoint's writing counts as hanging.
_HANGS = 86_400
# Files and folders that are free before a checkpoint is written.
_FILES = 128
# How often a folder that was made anew is looked for, and the seconds between.
_LOOKS, _BETWEEN = 10, 0.1


def made_with() -> str:
  """The versions that a run's last digits depend on, besides its configuration and devices."""
  return f"jax {metadata.version('jax')}, jaxlib {metadata.version('jaxlib')}"


def _digest_of_shapes(state: TrainState) -> str:
  leaves = jax.tree.leaves_with_path(state)
  lines = [f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}\n" for path, leaf in leaves]
  return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()


def _rank(metrics: Any) -> tuple[float, float]:
  """The best checkpoint's is the highest; metrics that somebody else wrote may make no sense, and are the lowest."""
  try:
    return -metrics["valid_error"], -metrics["epoch"]
  except (TypeError, LookupError):
    return -math.inf, 0.0


class _Manager(ocp.CheckpointManager):
  """Orbax's manager without JAX's preemption service.

  Orbax would ask the service about its own step numbers in between the run's polls (`dn_jax.system.signals`). A stop
  that processes agree on for a number between the two counts would reach neither.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


@contextlib.contextmanager
def written_to(folder: pathlib.Path) -> Iterator[None]:
  """Turns an OSError of a run's folder, or of another place, into one line, a UserError."""
  try:
    yield
  except OSError as error:
    where = pathlib.Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else folder
    if error.errno in (errno.EMFILE, errno.ENFILE) or not where.absolute().is_relative_to(folders.absolute(folder)):
      raise UserError(f"{in_a_line(error) or error}; once it is mended, the same command goes on") from None
    raise UserError(f"{folder}: cannot be written ({reason(error)}); once it can, the same command goes on") from None


# What TensorStore's and Orbax's errors say, which are ValueErrors, where the file system refused something.
_REFUSALS = {
  "Read-only file system": errno.EROFS,  # TensorStore says PERMISSION_DENIED of it too.
  "RESOURCE_EXHAUSTED": errno.ENOSPC,
  "PERMISSION_DENIED": errno.EACCES,
  "Too many open files": errno.EMFILE,
  "NOT_FOUND": errno.ENOENT,
}


@contextlib.contextmanager
def _refused_by_disk(check: Callable[[], None]) -> Iterator[None]:
  """Turns an error of TensorStore's or Orbax's that comes from the file system into an OSError.

  Args:
    check: raises an OSError where the folder is not what it was.
  """
  try:
    yield
  except OSError:
    raise
  except Exception as error:
    check()
    for words, number in _REFUSALS.items():
      if isinstance(error, ValueError) and words in str(error):
        raise OSError(number, os.strerror(number)) from error
    raise


class Rhythm:
  """When a checkpoint within an epoch is due: after so many steps, or so many minutes.

  Args:
    every_steps: a checkpoint is due at multiples of this, or at the first point after one where a run can be saved.
    every_minutes: since the last checkpoint, by the clock of the first process.
    step: at which the run begins or goes on.
  """

  def __init__(self, every_steps: int | None, every_minutes: float | None, step: int):
    self._every_steps = every_steps
    self._every_minutes = every_minutes
    # Commands to the device between two looks at the clock, those since the last look, and its time.
    self._between, self._commands, self._looked = 1, 0, time.monotonic()
    self.saved(step)

  def saved(self, step: int) -> None:
    """Notes that a checkpoint was taken at this step."""
    self._step, self._time = step, time.monotonic()

  def due(self, step: int) -> bool:
    """Whether to save now. All processes ask after each command, and get the same answer."""
    if self._every_steps and step // self._every_steps > self._step // self._every_steps:
      return True
    if not self._every_minutes:
      return False
    late = time.monotonic() - self._time >= 60 * self._every_minutes
    if jax.process_count() == 1:
      return late
    self._commands += 1
    if self._commands < self._between:
      return False
    from jax.experimental import multihost_utils

    fitting = int(self._between * _LOOK_EVERY / max(1e-9, time.monotonic() - self._looked))
    # At most twice as many: commands are under way when they are counted.
    own = np.asarray([late, min(max(1, fitting), 2 * self._between)], np.int32)
    with jax.transfer_guard("allow"):  # Within the loop's guard.
      late, self._between = map(int, multihost_utils.broadcast_one_to_all(own))
    self._commands, self._looked = 0, time.monotonic()
    return bool(late)


class Checkpoints:
  """A run's checkpoints: the newest few, and the best on validation.

  Each holds the train state, the records of all epochs before it and the totals of the epoch under way.
  Saving returns when the state is copied to the host; writing and sealing go on in the background.

  Args:
    folder: `checkpoints` of a run.
    keep: how many of the newest stay.
    say: receives a line for each checkpoint that is not used.
    read_only: change nothing; otherwise the folder is made, and damaged checkpoints are set aside.
  """

  def __init__(self, folder: pathlib.Path, keep: int, say: Callable[[str], None], *, read_only: bool = False):
    traces.hush()  # Orbax logs every file; whatever matters here is said or raised.
    self._run, self._folder, self._read_only = folder.parent, folders.absolute(folder), read_only
    self._damaged = set(processes.by_first(lambda: self._find_damaged(say, set_aside=not read_only)))
    # Of equally good checkpoints the first is the best, as in `best_record`.
    best = preservation_policy.BestN(
      n=1,
      get_metric_fn=_rank,
      keep_checkpoints_without_metrics=False,
    )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(keep), best]),
      # Without it Orbax keeps no metrics on disk, and the policy forgets the best at the next start.
      best_fn=lambda metrics: _rank(metrics)[0],
      step_name_format=Names(),
      create=not read_only,
      read_only=read_only,
      cleanup_tmp_directories=not read_only,
      # By the wall clock, which somebody may set; the default is 20 minutes.
      async_options=ocp.AsyncOptions(timeout_secs=_HANGS),
    )
    with position.read(self._folder, "the damaged one in it"):
      self._manager = _Manager(self._folder, options=options)
    self._place = self._identity()
    self._sealer = concurrent.futures.ThreadPoolExecutor(1)
    self._sealing: concurrent.futures.Future[None] | None = None
    self._latest: int | None = None  # The step of the save under way, or done last.

  def _identity(self) -> tuple[int, ...] | None:
    """Tells the folder from another that has its name later; None in a bucket, and where there is none."""
    if folders.is_bucket(self._folder) or not self._folder.exists():
      return None
    found = self._folder.stat()
    return found.st_dev, found.st_ino, (self._run / "config.json").exists()

  def check_there(self) -> None:
    """Refuses, by an `OSError`, a folder that was removed or renamed: TensorStore would make it anew."""
    if self._identity() != self._place:
      raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))

  def _find_damaged(self, say: Callable[[str], None], *, set_aside: bool) -> list[int]:
    """Steps whose checkpoints are not whole; perhaps after setting these aside."""
    if set_aside:
      self._put_back()
    elif any(self._replaced()):
      say("a save was cut off; the run, started again, puts the checkpoint back that it was to take the place of")
    for path in foreign_in(self._folder):
      say(f"{path} is no checkpoint of this program, and is left alone")
    found = {step: why for step in steps_on_disk(self._folder) if (why := fault(self._folder / str(step)))}
    for step, why in found.items():
      say(f"checkpoint of step {step} is not used: {why}")
      if set_aside:
        self._set_aside(step)
    return list(found)

  def _replaced(self) -> list[pathlib.Path]:
    """Checkpoints whose place another was taking when the run was cut off."""
    return [old for old in self._folder.glob(f"*{_REPLACED}") if old.stem.isdecimal() and is_checkpoint(old)]

  def _put_back(self) -> None:
    """Finishes or rolls back a save that was interrupted while it replaced another of its step."""
    for old in self._replaced():
      new = old.with_suffix("")
      if fault(new) is None:
        folders.remove(old)
        continue
      if is_checkpoint(new):
        self._set_aside(int(new.name))
      folders.move(old, new)

  def _set_aside(self, step: int) -> None:
    aside = self._folder.parent / "set-aside"
    folders.make_own(aside)
    target = next(path for n in range(1000) if not (path := aside / f"checkpoint-{step}-{n}").exists())
    folders.move(self._folder / str(step), target)

  def steps(self) -> list[int]:
    """Steps of the whole checkpoints, newest first."""
    return processes.by_first(lambda: [step for step in steps_on_disk(self._folder) if step not in self._damaged])

  @jax.transfer_guard("allow")  # Within the loop's guard; Orbax copies arrays in its own way.
  def save(
    self,
    step: int,
    state: TrainState,
    history: Sequence[EpochRecord],
    begun: Begun = Begun(),
    totals: Totals | None = None,
  ) -> None:
    """Writes a checkpoint. An old one of the same step stays until the new one is sealed.

    Args:
      step: steps that led to the state.
      state: of the run.
      history: the records of all whole epochs.
      begun, totals: the epoch under way; by default none is.

    Raises:
      UserError: the disk has no room for it.
      OSError: this one or the one before could not be written.
    """
    self._finish()
    self._latest = step
    self._damaged.discard(step)
    measured = not begun.steps and history and history[-1].valid_error is not None
    metrics = {"valid_error": history[-1].valid_error, "epoch": history[-1].epoch} if measured else None
    here = dataclasses.asdict(Position(tuple(history), begun, made_with(), _digest_of_shapes(state)))
    arrays = {"state": state, "totals": Totals.zero_beside(state.step) if totals is None else totals}
    what = ocp.args.Composite(state=ocp.args.StandardSave(arrays), position=ocp.args.JsonSave(here))
    processes.by_first(lambda: self._check_room(step, arrays, len(history)))
    if step in self._manager.all_steps():
      # Saved when the run was stopped before the epoch's evaluation; this time the evaluation is done.
      where = self._folder / str(step)
      processes.by_first(lambda: folders.move(where, where.with_name(f"{step}{_REPLACED}")))
      self._manager.reload()
    with _refused_by_disk(self.check_there):
      self._manager.save(step, args=what, metrics=metrics)
    self._sealing = self._sealer.submit(self._wait_and_seal, step)

  def _check_room(self, step: int, arrays: Any, records: int) -> None:
    """Refuses a checkpoint whose place is taken, or that the disk cannot hold, where TensorStore ends in tracebacks.

    A leaf takes its bytes and less than 2 KiB, a record less than 1 KiB, the rest less than 64 KiB. Ten leaves take
    23 files and folders, a thousand 44.
    """
    with written_to(self._run):
      self.check_there()
    if (place := self._folder / str(step)) in foreign_in(self._folder):
      raise UserError(f"{place}: is no checkpoint of this program; move it elsewhere, and the same command goes on")
    if folders.is_bucket(self._folder):
      return
    leaves = jax.tree.leaves(arrays)
    with written_to(self._run):
      needed = sum(leaf.nbytes + 2048 for leaf in leaves) + 1024 * records + 65536
      there = os.statvfs(self._folder)
      # Some file systems do not count their files.
      if shutil.disk_usage(self._folder).free < needed or (there.f_files and there.f_favail < _FILES):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  def _wait_and_seal(self, step: int) -> None:
    self._manager.wait_until_finished()
    if processes.is_first():
      self.check_there()  # Orbax may have committed what TensorStore made anew.
      seal(self._folder / str(step))
      if is_checkpoint(old := self._folder / f"{step}{_REPLACED}"):
        folders.remove(old)

  def _finish(self) -> None:
    if self._sealing:
      sealing, self._sealing = self._sealing, None
      with _refused_by_disk(self.check_there):
        sealing.result()

  def restore(
    self, template: TrainState, step: int | None = None, *, any_version: bool = True
  ) -> tuple[TrainState, list[EpochRecord], Begun, Totals]:
    """A saved state, the records of the epochs before it, and the epoch under way with its totals.

    Args:
      template: a state of the same shapes, whose placement the arrays get.
      step: by default the newest.
      any_version: accept one that another JAX wrote; results may then differ in the last digits.

    Raises:
      UserError: there is none, or none of that step; it holds another network, or another JAX wrote it.
    """
    steps = self.steps()
    if not steps or (step is not None and step not in steps):
      have = f"there are those of steps {', '.join(map(str, steps))}" if steps else "there is none"
      wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
      raise UserError(f"no whole {wanted} in {self._folder}: {have}")
    step = steps[0] if step is None else step
    where = self._folder / str(step)
    if not (where / "position").is_dir():
      raise UserError(f"{where}: an older version of this program wrote it; take another --out")
    with position.read(where), _refused_by_disk(self.check_there):
      record = self._manager.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore()))["position"]
      there = position.of_record(record)
    if there.network != _digest_of_shapes(template):
      raise UserError(f"{where}: holds another network; nothing is changed, take another --out")
    if there.made_with != made_with() and not any_version:
      raise UserError(
        f"{where}: {there.made_with} wrote it and this is {made_with()}, whose last digits may differ; install "
        "that one, or go on regardless with --checkpoint.any-version"
      )
    totals = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=template.step.sharding), Totals.zero()
    )
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"state": template, "totals": totals})
    with position.read(where), _refused_by_disk(self.check_there):
      arrays = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]
    return arrays["state"], list(there.history), there.begun, arrays["totals"]

  def close(self) -> None:
    """Waits until all is written and sealed."""
    try:
      self._finish()
    finally:
      self._sealer.shutdown()
      try:
        with _refused_by_disk(self.check_there):
          self._manager.close()
      finally:
        self._remove_made_anew()

  def _remove_made_anew(self) -> None:
    """Removes what a save under way wrote once its run was removed: TensorStore makes a file's folders.

    Its threads may write on after their save has failed, so the look is repeated.
    """
    away = self._place and self._identity() != self._place
    if not away or self._read_only or (self._run / "config.json").exists():
      return
    for _ in range(_LOOKS):
      with contextlib.suppress(OSError):
        for begun in (self._folder / str(self._latest), *self._folder.glob(f"{self._latest}.*")):
          folders.remove(begun)
        self._folder.rmdir()
        self._run.rmdir()
      time.sleep(_BETWEEN)

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()
