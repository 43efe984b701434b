"""What a person sees of a run that is under way, and which commands are recorded."""

import dataclasses
import io
import re

import jax
import pytest
import rich.console

from dn_jax.runs.contents import EpochRecord
from dn_jax.training.loop import Plan
from dn_jax.training.progress import Profile, ProgressDisplay

# An epoch: 1000 images in 20 s, and an evaluation of 300 images in 4 s.
PLAN = Plan(
  epochs=10, batch_size=10, train_images=1009, keep_last_batch=False, steps_per_dispatch=1, evaluated_images=300
)
RECORD = EpochRecord(
  epoch=3,
  step=300,
  learning_rate=0.1,
  train_loss=0.5,
  train_error=0.25,
  valid_loss=0.5,
  valid_error=0.125,
  test_loss=0.5,
  test_error=0.54675,
  seconds=20.0,
  evaluation_seconds=4.0,
  images_per_second=50.0,
)


def shown(tell, records=(), terminal=False):
  """What is printed, without a terminal's control sequences."""
  console = rich.console.Console(file=io.StringIO(), force_terminal=terminal, width=200)
  with ProgressDisplay(console, PLAN, records) as display:
    tell(display)
  return re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", console.file.getvalue())


@pytest.mark.parametrize("terminal", [False, True])
def test_compiling_has_a_line_that_says_of_what_and_a_short_one_has_none(terminal):
  said = shown(lambda display: display.compiled("training step", 33.4), terminal=terminal)
  assert said.count("compiling: 33 s (training step)") == 1
  assert "compiling: " not in shown(lambda display: display.compiled("evaluation", 0.9))


def test_a_line_rounds_errors_as_every_table_does():
  # Half of a hundredth goes up; in binary it is a little less: Python's own rounding gives 54.67.
  assert f"{RECORD.test_error:.2%}" == "54.67%"
  assert "error 25.00%  valid 12.50%  test 54.68%" in shown(lambda display: display.epoch(RECORD))


def test_a_line_has_the_rate_of_its_epoch_and_the_time_of_the_epochs_and_evaluations_left():
  # Seven times 20 + 4 s.
  assert shown(lambda display: display.epoch(RECORD)).endswith("  50 images/s  left 0:02:48\n")
  waited = dataclasses.replace(RECORD, waiting_seconds=5.0)
  assert "  50 images/s (waiting for them 25%)  left 0:02:48\n" in shown(lambda display: display.epoch(waited))


@pytest.mark.parametrize(
  ("epochs", "tell", "words"),
  [
    # As the line of the epoch before it.
    (2, lambda display: display.epoch(RECORD), "epoch 4/10"),
    # At an epoch's end its own evaluation is to come: seven of them; at its middle half of its steps besides.
    (3, lambda display: display.progress(4, 1000, 20.0, 0.5, 0.25), "50 images/s  left 0:02:28"),
    (3, lambda display: display.progress(4, 500, 10.0, 0.5, 0.25), "50 images/s  left 0:02:38"),
    # Twice as fast as the epoch before it.
    (3, lambda display: display.progress(4, 500, 5.0, 0.5, 0.25), "100 images/s  left 0:01:33"),
    # Before any evaluation an image in it counts as a third of a training step's: 10 * 20 - 10 + 10 * 2 s.
    (0, lambda display: display.progress(1, 500, 10.0, 0.5, 0.25), "50 images/s  left 0:03:30"),
  ],
)
def test_the_bar_has_the_rate_of_the_epoch_so_far_and_the_time_left_of_the_lines(epochs, tell, words):
  assert words in shown(tell, [RECORD] * epochs, terminal=True)


def test_the_bar_after_an_epoch_says_what_its_line_says():
  _, bar = shown(lambda display: display.epoch(RECORD), terminal=True).rsplit("epoch 4/10", 1)
  assert "50 images/s  left 0:02:48" in bar


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
