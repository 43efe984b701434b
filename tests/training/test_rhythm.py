"""When a run saves within an epoch."""

from dn_jax.training import rhythm
from dn_jax.training.rhythm import Rhythm


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
  monkeypatch.setattr(rhythm.time, "monotonic", lambda: now[0])
  found = Rhythm(None, 0.5, 0)
  now[0] += 29
  assert not found.due(1)
  now[0] += 2
  assert found.due(2)
  found.saved(2)
  now[0] += 29
  assert not found.due(3)
  assert not Rhythm(None, None, 0).due(10**6)
