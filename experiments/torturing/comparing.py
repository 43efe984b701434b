"""Whether a finished run is the undisturbed one, bit for bit, and which of its checkpoints is whole."""

import dataclasses
import pathlib

import numpy as np

from dn_jax.runs import records
from dn_jax.training.seal import fault, steps_on_disk

TIMES = ("seconds", "evaluation_seconds", "images_per_second", "waiting_seconds", "compile_seconds")


def newest_whole(folder: pathlib.Path) -> int | None:
  """The step of a run's newest whole checkpoint; None where there is none."""
  checkpoints = folder / records.CHECKPOINTS
  try:
    return next((step for step in steps_on_disk(checkpoints) if fault(checkpoints / str(step)) is None), None)
  except FileNotFoundError:  # Removed while it was read.
    return None


def arrays(folder: pathlib.Path) -> list[np.ndarray]:
  """Arrays of the newest checkpoint: parameters, running averages, momentum, counts."""
  import jax
  import orbax.checkpoint as ocp

  state = folder.absolute() / records.CHECKPOINTS / str(steps_on_disk(folder / records.CHECKPOINTS)[0]) / "state"
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    # As numpy's: several processes' devices are not here.
    as_numpy = lambda _: ocp.RestoreArgs(restore_type=np.ndarray)
    kinds = jax.tree.map(as_numpy, checkpointer.metadata(state).item_metadata.tree)
    restored = checkpointer.restore(state, args=ocp.args.PyTreeRestore(restore_args=kinds))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(restored)]


def difference(folder: pathlib.Path, undisturbed: pathlib.Path) -> str | None:
  """The first difference of a finished run from the undisturbed one, or None."""
  ours, theirs = (
    [{k: v for k, v in dataclasses.asdict(r).items() if k not in TIMES} for r in records.read_records(each)]
    for each in (folder, undisturbed)
  )
  if ours != theirs:
    return f"records: {len(ours)} of {len(theirs)}, or other numbers"
  if (folder / "results.csv").read_text() != (undisturbed / "results.csv").read_text():
    return "results.csv"
  ours, theirs = arrays(folder), arrays(undisturbed)
  if len(ours) != len(theirs):
    return f"{len(ours)} arrays, not {len(theirs)}"
  if unequal := sum(not np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
    return f"{unequal} of {len(ours)} arrays"
  return None
