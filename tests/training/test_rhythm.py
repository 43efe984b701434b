"""When a run saves within an epoch."""

import itertools

import jax
import pytest
from jax.experimental import multihost_utils

from dn_jax.training import checkpoint
from dn_jax.training.checkpoint import Rhythm


def test_multiples_are_due_or_the_first_point_after_one():
  found = Rhythm(5, None, 0)
  due = []
  for step in (*range(1, 12), 14, 17, 28):
    if found.due(step):
      due.append(step)
      found.saved(step)
  assert due == [5, 10, 17, 28]
  # A run that goes on keeps to the same multiples.
  found = Rhythm(5, None, 12)
  assert [step for step in range(13, 17) if found.due(step)] == [15, 16]


def test_minutes_count_from_the_last_checkpoint(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
  found = Rhythm(None, 0.5, 0)
  now[0] += 29
  assert not found.due(1)
  now[0] += 2
  assert found.due(2)
  found.saved(2)
  now[0] += 29
  assert not found.due(3)
  assert not Rhythm(None, None, 0).due(10**6)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 4.0, 25.0])
def test_of_several_processes_the_first_ones_clock_is_looked_at_about_every_ten_seconds(monkeypatch, seconds):
  now, looks, due = [0.0], [], {0: [], 1: []}
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
  commands = int(600 / seconds)

  def tell(value):
    looks.append((now[0], value))
    return value

  monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", tell)
  first = Rhythm(None, 2.0, 0)
  for step in range(1, commands + 1):
    now[0] += seconds
    if first.due(step):
      due[0].append((step, now[0]))
      first.saved(step)
  times = [0.0, *(time for time, _ in looks)]
  gaps = [after - before for before, after in itertools.pairwise(times)]
  assert max(gaps) <= max(10.5, seconds)
  assert len(looks) <= 600 / max(seconds, 10 - seconds) + 12  # It begins with few commands between two.
  saves = [0.0, *(time for _, time in due[0])]
  assert len(due[0]) >= 4
  assert all(120 <= after - before <= 120 + max(10.5, seconds) for before, after in itertools.pairwise(saves))

  # The other one's clock stands still, and it hears the same.
  now[0], heard = 0.0, iter([value for _, value in looks])
  monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda value: next(heard))
  second = Rhythm(None, 2.0, 0)
  for step in range(1, commands + 1):
    if second.due(step):
      due[1].append(step)
      second.saved(step)
  assert due[1] == [step for step, _ in due[0]]
  assert next(heard, None) is None
