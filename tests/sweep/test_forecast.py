"""The plan of a sweep, and the process that it is made in."""

import io
import os
import subprocess
import sys
import time

import fabricated
import pytest
import questions
import rich.console
from conftest import ROOT, run

from dn_jax.errors import ConfigurationError
from dn_jax.runs import collection
from dn_jax.sweep import forecast
from dn_jax.sweep.cells import cells_of
from dn_jax.sweep.child import Child, Refused


def printed(rows, names=("model.growth-rate",), title="the plan"):
  console = rich.console.Console(file=io.StringIO(), width=250)
  console.print(forecast.table(rows, names, title))
  return console.file.getvalue()


def rows_of(words, there, seeds=2, network="--model.depth 10", **options):
  cells = cells_of(["--data.name", "digits", *network.split(), "--epochs", "2", *words.split()], seeds)
  console = rich.console.Console(file=io.StringIO())
  return forecast.look(cells, collection.read(there), **({"memory": False, "measure": 0} | options), console=console)


def line_of(text, start):
  (line,) = [line for line in text.splitlines() if line.startswith(f"│ {start} ")]
  return [word.strip() for word in line.strip("│").split("│")]


@pytest.mark.slow
def test_the_plan_counts_what_is_done_and_takes_times_from_it(tmp_path):
  done = fabricated.config(growth_rate=4)
  fabricated.finished(tmp_path / "a", done)  # 2 epochs of 2 s, and 0.5 s of evaluation each.
  fabricated.failed(tmp_path / "b", fabricated.config(growth_rate=8))
  rows = rows_of("--model.growth-rate 4,8", tmp_path)
  four, eight = rows
  assert (four.seconds, four.source) == (5.0, "runs")
  assert eight.source == "FLOPs"
  assert eight.seconds == pytest.approx(5.0 * eight.size.total / four.size.total)
  # A training picture counts three forward passes, a tested one one. Digits has 1297 and 500; the rest of a batch is
  # left out.
  assert four.size.total == four.size.flops * 2 * (3 * (1297 // 64 * 64) + 500)
  text = printed(rows)
  assert line_of(text, "4")[3:6] == ["2", "1", ""]
  assert line_of(text, "8")[3:6] == ["2", "0", "1"]
  assert line_of(text, "all")[3:6] == ["4", "1", "1"]
  assert "without starting and compiling" in text


def test_the_time_of_a_run_has_its_start_in_it():
  cells = cells_of(["--data.name", "digits", "--model.depth", "10", "--epochs", "2"], 3)
  row = forecast.Row(cells, 1, 0, forecast.Size(1, 1, 1, 1), seconds=20.0, source="steps", start=10.0)
  assert forecast.seconds_left([row]) == 60.0
  text = printed([row], ())
  assert "60 s" in text
  assert "with 10 s a run to start and compile" in text


def test_a_step_that_was_killed_or_refused_does_not_fit_and_the_others_are_asked_still(tmp_path, monkeypatch):
  class Asked(Child):
    def ask(self, question, config):
      # What comes of either is told below: `test_the_process_that_is_asked_comes_again_where_it_was_killed`.
      if config.model.growth_rate < 12:
        raise Refused("killed" if config.model.growth_rate == 4 else "does not fit")
      return 2**20

  monkeypatch.setattr(forecast, "Child", Asked)
  rows = rows_of("--model.growth-rate 4,8,12", tmp_path, memory=True)
  assert [(bool(row.refused), row.memory) for row in rows] == [(True, None), (True, None), (False, 2**20)]


@pytest.mark.thorough
def test_a_plan_is_of_the_devices_that_a_run_takes():
  code = (
    f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}]\n"
    "import dataclasses, fabricated\nfrom dn_jax.config.schema import ConfigurationError\n"
    "from dn_jax.sweep.forecast import step_memory\n"
    "of = lambda devices: dataclasses.replace(fabricated.config(), devices=devices)\n"
    "print(step_memory(of(1)), step_memory(of(4)), step_memory(of(None)))\n"
    "try: step_memory(of(5))\nexcept ConfigurationError as error: print(error)"
  )
  flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
  done = run("-c", code, **flags)
  numbers, refusal = done.stdout.splitlines()
  one, four, everything = map(int, numbers.split())
  assert one > four == everything
  assert refusal == "--devices 5: this machine has 4; at most that"


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_asked(tmp_path):
  with pytest.raises(ConfigurationError, match="--batch-size 2000: there are 1297 training pictures; at most that"):
    rows_of("--batch-size 2000", tmp_path)


def test_what_the_compiler_refuses_does_not_fit():
  cells = cells_of(["--data.name", "digits", "--model.depth", "10", "--epochs", "2"], 1)
  size = forecast.Size(1, 1, 1, 1)
  text = printed(
    [forecast.Row(cells, 0, 0, size, refused="too much"), forecast.Row(cells, 0, 0, size, memory=2**21)], ()
  )
  assert text.count("does not fit here: too much") == 1
  assert "2 MiB" in text


def test_names_with_square_brackets_are_printed_as_they_are():
  cells = cells_of(["--data.name", "digits", "--model.depth", "10", "--data.dir", "/data/[/b]"], 1)
  text = printed([forecast.Row(cells, 0, 0, forecast.Size(1, 1, 1, 1))], ["data.dir"], "1 runs, in runs/[/b]")
  assert "1 runs, in runs/[/b]" in text
  assert "/data/[/b]" in text


@pytest.mark.thorough
def test_the_process_that_is_asked_comes_again_where_it_was_killed():
  config = fabricated.config()
  with Child() as child:
    with pytest.raises(Refused, match="-9"):
      child.ask(questions.killed, config)
    answer, pid = child.ask(questions.number, config)
    assert answer == 7
    assert child.start > 0
    with pytest.raises(Refused, match="--batch-size 1: does not fit"):
      child.ask(questions.refused, config)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
      child.ask(questions.broken, config)
    assert child.ask(questions.number, config) == (7, pid)
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)


@pytest.mark.thorough
def test_the_process_that_is_asked_ends_with_a_killed_sweep():
  code = (
    f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'sweep')!r})\n"
    "import questions\nfrom dn_jax.sweep.child import Child\n"
    "with Child() as child: child.ask(questions.sleeps, None)"
  )
  sweep = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
  pid = int(sweep.stdout.readline())
  sweep.kill()
  sweep.wait()
  deadline = time.monotonic() + 60
  while os.path.exists(f"/proc/{pid}/stat"):
    with open(f"/proc/{pid}/stat") as file:
      if file.read().split()[2] == "Z":
        break
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.thorough
def test_memory_and_time_are_asked_of_the_compiler_and_the_clock(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # For the process that is asked.
  (row,) = rows_of("--model.growth-rate 4", tmp_path, network="--model.blocks 1", memory=True, measure=1)
  assert row.memory > 4 * 2 * row.size.parameters  # Weights and momentum, float32.
  assert row.source == "steps"
  assert row.seconds > 0
  assert row.start > 0.5  # Importing JAX alone takes that.
  assert not row.refused


@pytest.mark.parametrize(
  ("seconds", "words"),
  [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_durations_are_said_as_a_person_does(seconds, words):
  assert forecast.duration(seconds) == words
