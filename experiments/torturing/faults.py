"""All faults, by name, and the kinds of runs that suffer them."""

import dataclasses
import functools
import signal
from collections.abc import Callable

from torturing import damages, kills, places
from torturing.runs import KINDS, Victim

_ALL, _ALONE = tuple(KINDS), ("run", "streamed")


@dataclasses.dataclass(frozen=True)
class Fault:
  """A fault.

  happens: disturbs a run, waits for its end and checks that; returns words to be told apart by
  kinds: of runs
  is_kill: whether `--kills` counts it
  """

  happens: Callable[[Victim], str]
  kinds: tuple[str, ...] = _ALONE
  is_kill: bool = False


def _signal(number: signal.Signals) -> Fault:
  return Fault(functools.partial(kills.by_signal, number=number), _ALL, is_kill=True)


def _damage(harm: Callable) -> Fault:
  return Fault(functools.partial(damages.damaged, harm=harm))


def _folder(harm: Callable) -> Fault:
  return Fault(lambda victim: places.meanwhile(victim, harm, 2))


def _disk(harm: Callable) -> Fault:
  return Fault(functools.partial(places.on_a_disk, harm=harm))


FAULTS = {
  "SIGKILL": _signal(signal.SIGKILL),
  "SIGTERM": _signal(signal.SIGTERM),
  "SIGINT": _signal(signal.SIGINT),
  "killed-at-seal": Fault(kills.at_seal),
  "bit-flipped": _damage(damages.bit_flipped),
  "file-truncated": _damage(damages.file_truncated),
  "file-removed": _damage(damages.file_removed),
  "digests-missing": _damage(damages.digests_missing),
  "checkpoints-vanish": _damage(damages.checkpoints_vanish),
  "records-cut-short": _damage(damages.records_cut_short),
  "folder-deleted": _folder(places.deleted),
  "folder-renamed": _folder(places.renamed),
  "second-run": Fault(places.second),
  "two-at-once": Fault(places.two_at_once),
  "disk-full": _disk(places.full),
  "no-inodes": _disk(places.without_inodes),
  "read-only": _disk(places.read_only),
}
