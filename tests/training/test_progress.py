"""Which commands are recorded."""

import jax

from dn_jax.training.progress import Profile


def recorded(monkeypatch, folder, commands):
  """(event, commands before it) of a run of so many commands."""
  events, done = [], 0
  monkeypatch.setattr(jax.profiler, "start_trace", lambda path, **_: events.append(("start", path, done)))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append(("stop", done)))
  profile = Profile(folder)
  for number in range(commands):
    done = number + 1
    profile.after_command()
  profile.close()
  return events


def test_the_fourth_to_the_eighth_command_are_recorded(monkeypatch, tmp_path):
  assert recorded(monkeypatch, tmp_path, 30) == [("start", str(tmp_path), 3), ("stop", 8)]


def test_a_run_that_ends_sooner_ends_the_recording_and_a_shorter_one_has_none(monkeypatch, tmp_path):
  assert recorded(monkeypatch, tmp_path, 5) == [("start", str(tmp_path), 3), ("stop", 5)]
  assert recorded(monkeypatch, tmp_path, 2) == []
