"""Disturbs small runs in every way that a machine allows: does each end like an undisturbed one?

  python experiments/torture.py --kills 100 --seed 1
  python experiments/torture.py --kills 0 --runs streamed \\
    --faults no-inodes read-only

Runs are killed, damaged, moved, started twice, and lose their disk (experiments/torturing/). After each fault the same
command goes on. At its end a run is compared with an undisturbed one: parameters, running averages and momentum bit
for bit, and the records without their times. A fault that the machine does not allow is left out, and counted as that.
"""

import collections
import json
import logging
import os
import pathlib
import random
import shutil
import sys
import tempfile
from typing import Annotated

import rich.console
import rich.table
import tyro
from torturing import runs
from torturing.faults import FAULTS
from torturing.kills import Missed
from torturing.places import LeftOut
from torturing.started import Mistake

from dn_jax.commands import command_line
from dn_jax.config.schema import NOT_WRITTEN, Unset, Whole
from dn_jax.errors import ConfigurationError, near
from dn_jax.system import folders

# After so many faults a run is taken to its end, so that many runs are compared.
MOST = 4
# A run that has ended before its fault came is compared, and the fault comes to the next one, so many times.
TRIES = 5


class Tally:
  """Faults by name and kind of run, those left out, and the runs that did not survive."""

  def __init__(self, console: rich.console.Console):
    self.faults: collections.Counter[tuple[str, str]] = collections.Counter()
    self.left_out: dict[tuple[str, str], str] = {}
    self.lost: list[str] = []
    self.compared = 0
    self._console = console

  def say(self, line: str) -> None:
    self._console.print(line, highlight=False, markup=False)

  def fault(self, kind: str, name: str, when: str) -> None:
    self.faults[name, kind] += 1
    self.say(f"{self.faults.total():>4}  {kind}: {name} {when}".rstrip())

  def leave_out(self, kind: str, name: str, why: str) -> None:
    self.left_out[name, kind] = why
    self.say(f"      {kind}: {name} is left out: {why}")

  def verdict(self, victim: runs.Victim, wrong: str | None) -> None:
    self.compared += 1
    if wrong:
      self.lost.append(f"{victim.place}: {wrong}")
    self.say(f"      {victim.place.name}: {wrong or 'ended as the undisturbed run'}")

  def show(self) -> None:
    kinds = sorted({kind for _, kind in (*self.faults, *self.left_out)}, key=list(runs.KINDS).index)
    table = rich.table.Table("fault", *kinds, title="Faults")
    for name in FAULTS:
      cells = ["left out" if (name, kind) in self.left_out else str(self.faults[name, kind] or "") for kind in kinds]
      if any(cells):
        table.add_row(name, *cells)
    self._console.print(table)
    for line in self.lost:
      self.say(f"lost: {line}")
    left_out = f", left out: {len(self.left_out)}" if self.left_out else ""
    print(f"faults tried: {self.faults.total()}{left_out}, runs compared: {self.compared}, runs lost: {len(self.lost)}")


def drawn(kills: int, times: int, names: tuple[str, ...], kinds: tuple[str, ...], rng: random.Random) -> dict:
  """The names of the faults of each kind of run, in the order in which they come."""
  suffered = [(name, kind) for name in names for kind in FAULTS[name].kinds if kind in kinds]
  by_kill = [pair for pair in suffered if FAULTS[pair[0]].is_kill]
  others = [pair for pair in suffered if not FAULTS[pair[0]].is_kill] * times
  # Of several processes and of sweeps each takes its time.
  weights = [4 if FAULTS["bit-flipped"].kinds.count(kind) else 1 for _, kind in by_kill]
  pairs = others + (rng.choices(by_kill, weights, k=kills) if by_kill else [])
  rng.shuffle(pairs)
  return {kind: [name for name, other in pairs if other == kind] for kind in kinds}


def suffer(victim: runs.Victim, kind: str, left: list[str], tally: Tally) -> None:
  """Has a run suffer the last few of the faults that are left, which are taken from the list.

  Raises:
    Mistake: it did not end as it must.
  """
  for _ in range(MOST):
    if not left or victim.finished():
      break
    name = left.pop()
    try:
      tally.fault(kind, name, FAULTS[name].happens(victim))
    except LeftOut as reason:
      tally.leave_out(kind, name, str(reason))
      left[:] = [other for other in left if other != name]
    except Missed:
      left.append(name)
      break
    except Mistake:
      tally.fault(kind, name, "")
      raise


def tortured(victim: runs.Victim, kind: str, left: list[str], undisturbed: runs.Victim, tally: Tally) -> None:
  """Has a run suffer some faults, takes it to its end and compares it."""
  wrong = None
  try:
    suffer(victim, kind, left, tally)
    runs.finish(victim)
    runs.compare(victim, undisturbed)
  except Mistake as mistake:
    wrong = str(mistake)
  tally.verdict(victim, wrong)


def torture(
  kills: Whole = 20,
  times: Whole = 1,
  faults: tuple[str, ...] = tuple(FAULTS),
  runs_: Annotated[tuple[str, ...], tyro.conf.arg(name="runs")] = tuple(runs.KINDS),
  seed: Whole = 0,
  json_path: Annotated[pathlib.Path | None, tyro.conf.arg(name="json"), NOT_WRITTEN] = None,
  keep: Annotated[pathlib.Path | None, Unset("deleted, unless one was lost")] = None,
) -> None:
  """Disturbs small runs, and counts those lost.

  Args:
    kills: send so many signals, at random moments, to runs of all kinds.
    times: have each other fault come so many times to each kind of run.
    faults: try these faults.
    runs_: disturb these kinds of runs: run, streamed (its images are read one by one), two (processes), sweep.
    seed: draw the moments and the damage from this number.
    json_path: write the counts into this file.
    keep: keep the runs in this folder, a new one.
  """
  for flag, given, known in (("faults", faults, FAULTS), ("runs", runs_, runs.KINDS)):
    for name in given:
      if name not in known:
        raise ConfigurationError(flag, name, near(name, known))
  if keep and keep.exists():
    raise ConfigurationError("keep", keep, "is there already; take another")
  command_line.check_file("json", json_path)
  logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax remarks on reading alone.
  rng, tally = random.Random(seed), Tally(rich.console.Console())
  root = (keep or pathlib.Path(tempfile.mkdtemp(prefix="torture-"))).absolute()
  try:
    for kind, left in drawn(kills, times, faults, runs_, rng).items():
      if left:
        of_kind(kind, left, root, rng, tally)
  finally:  # Also where a person stops it.
    tally.show()
  if json_path:
    counts = {f"{name}, {kind}": count for (name, kind), count in tally.faults.items()}
    left_out = {f"{name}, {kind}": why for (name, kind), why in tally.left_out.items()}
    found = {"faults": counts, "left_out": left_out, "compared": tally.compared, "lost": tally.lost, "seed": seed}
    folders.write_whole(json_path, json.dumps(found, indent=2) + "\n")
  if not keep and not tally.lost:
    shutil.rmtree(root)
  sys.exit(1 if tally.lost else 0)


def of_kind(kind: str, left: list[str], root: pathlib.Path, rng: random.Random, tally: Tally) -> None:
  """Tortures runs of a kind until no fault is left.

  Raises:
    ConfigurationError: the undisturbed run failed.
  """
  what = runs.with_images(runs.KINDS[kind], root / "images")
  try:
    undisturbed = runs.undisturbed(what, root / f"{kind}-undisturbed")
  except Mistake as mistake:
    raise ConfigurationError("keep", root, f"the undisturbed run failed ({mistake})") from None
  number, since = 0, 0
  while left and since < TRIES:
    before, number = len(left), number + 1
    victim = runs.Victim(what, root / f"{kind}-{number}", rng, undisturbed.epochs, undisturbed.epoch_seconds)
    tortured(victim, kind, left, undisturbed, tally)
    since = since + 1 if len(left) == before else 0
  for name in left:
    tally.leave_out(kind, name, f"{TRIES} runs ended before it came")


if __name__ == "__main__":
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  command_line.program(torture, __doc__)()
