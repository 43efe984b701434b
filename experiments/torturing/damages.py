"""Faults of a stopped run's files: what they hold is damaged, or they are gone."""

import pathlib
import random
import shutil
import time
from collections.abc import Callable

from torturing.kills import Missed
from torturing.runs import Victim
from torturing.started import LOOK

from dn_jax.runs import records
from dn_jax.training.seal import steps_on_disk


def damaged(victim: Victim, harm: Callable[[pathlib.Path, random.Random], None]) -> str:
  """Kills a run that has two checkpoints and records, and damages its files."""
  started = victim.start()
  checkpoints = victim.seen / records.CHECKPOINTS
  while started.goes_on() and not (
    victim.trains(started) and victim.progress() and len(steps_on_disk(checkpoints)) > 1
  ):
    time.sleep(LOOK)
  there = started.goes_on()
  started.kill()
  if not there or victim.finished():
    raise Missed
  harm(victim.seen, victim.rng)
  return ""


def _newest(run: pathlib.Path) -> pathlib.Path:
  checkpoints = run / records.CHECKPOINTS
  return checkpoints / str(steps_on_disk(checkpoints)[0])


def _a_file(run: pathlib.Path, rng: random.Random) -> pathlib.Path:
  """A file of the newest checkpoint that holds something."""
  return rng.choice(sorted(path for path in _newest(run).rglob("*") if path.is_file() and path.stat().st_size))


def bit_flipped(run: pathlib.Path, rng: random.Random) -> None:
  content = bytearray((path := _a_file(run, rng)).read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def file_truncated(run: pathlib.Path, rng: random.Random) -> None:
  content = (path := _a_file(run, rng)).read_bytes()
  path.write_bytes(content[: rng.randrange(len(content))])


def file_removed(run: pathlib.Path, rng: random.Random) -> None:
  _a_file(run, rng).unlink()


def digests_missing(run: pathlib.Path, rng: random.Random) -> None:
  (_newest(run) / "digests.json").unlink(missing_ok=True)


def checkpoints_vanish(run: pathlib.Path, rng: random.Random) -> None:
  shutil.rmtree(run / records.CHECKPOINTS)


def records_cut_short(run: pathlib.Path, rng: random.Random) -> None:
  path = run / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-20])
