"""Faults that end a run's processes: at random moments, and while a checkpoint is written and sealed."""

import signal
import time

from torturing.runs import EXPERIMENTS, Victim
from torturing.started import LOOK, asked_to_end

# Allowed exit codes of a process that was sent a signal, and of those beside it: done before, saved, killed.
ENDS = {
  signal.SIGKILL: (0, -signal.SIGKILL),
  signal.SIGTERM: (0, 75, -signal.SIGTERM),
  signal.SIGINT: (0, 75, 130, -signal.SIGINT),
}
# Of the process that stays when another is killed, see `dn_jax.distributed.processes`.
_LOST = 76
# Seconds within which a start is killed before it trains.
_START = 6.0
# What a process is about to do when it kills itself: an audit event, and words of its file.
_AT_SEAL = (("open", "digests.json."), ("os.rename", "digests.json."), ("os.rename", ".orbax-checkpoint-tmp"))


class Missed(Exception):
  """The run had ended before its fault came."""


def by_signal(victim: Victim, number: signal.Signals) -> str:
  """Sends a signal to one of a run's processes; one time in five before it trains. Returns when that was."""
  before = victim.whole()
  started = victim.start()
  # Processes that wait for each other to come would wait for minutes.
  early = victim.kind.processes == 1 and victim.rng.random() < 0.2
  if early:
    end = time.monotonic() + victim.rng.uniform(0, _START)
    while started.goes_on() and time.monotonic() < end:
      time.sleep(LOOK)
    there = started.goes_on()
  else:
    there = victim.wait_for_moment(started)
    before = victim.whole() if there else before
  asked_to_end(victim.rng.choice(started.processes), number)
  lost = (_LOST,) if number == signal.SIGKILL and victim.kind.processes > 1 else ()
  codes = started.end(*ENDS[number], *lost)
  victim.check_kept(before)
  if not there or set(codes) == {0}:
    raise Missed
  return "in training" if victim.trains(started) else "at the start"


def at_seal(victim: Victim) -> str:
  """Has a run kill itself while a checkpoint is committed and sealed."""
  before = victim.whole()
  event, words = victim.rng.choice(_AT_SEAL)
  times = str(victim.rng.randint(1, 6))
  started = victim.start(str(EXPERIMENTS / "torturing" / "killed_at.py"), event, words, times)
  codes = started.end(0, -signal.SIGKILL)
  victim.check_kept(before)
  if codes == [0]:
    raise Missed
  return f"before {event} of {words}"
