"""The plan of a sweep, and the process that it is made in."""

import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import fabricated
import pytest
import questions
import rich.console
from conftest import ROOT, run
from photographs import class_folders

from dn_jax.data import splits
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.runs import collection
from dn_jax.sweep import forecast, images, memory
from dn_jax.sweep.cells import cells_of


def printed(rows, names=("model.growth-rate",), title="the plan", **options):
  console = rich.console.Console(file=io.StringIO(), width=250)
  console.print(forecast.table(rows, names, title, **options))
  return console.file.getvalue()


def rows_of(words, there, seeds=2, network="--model.depth 10", **options):
  cells = cells_of(["--data.name", "digits", *network.split(), "--epochs", "2", *words.split()], seeds)
  console = rich.console.Console(file=io.StringIO())
  return forecast.look(cells, collection.read(there), forecast.Asked(**options), console)


def line_of(text, start):
  (line,) = [line for line in text.splitlines() if line.startswith(f"│ {start} ")]
  return [word.strip() for word in line.strip("│").split("│")]


DIGITS = images.count(fabricated.config().data, splits.RULE)


def test_a_training_image_counts_three_forward_passes_and_a_tested_one_one():
  # Digits has 1297 and 500; the rest of a batch is left out.
  size = forecast.size_of(fabricated.config(epochs=2), DIGITS)
  assert size.total == size.flops * 2 * (3 * (1297 // 64 * 64) + 500)


def test_a_run_begun_by_the_first_rule_is_planned_by_it(tmp_path):
  class_folders(tmp_path / "photos", ("a", "b"), each=10)
  words = f"--data.name folder --data.dir {tmp_path}/photos --data.size 16 --batch-size 4 --data.validation 1"
  tokens = ["--model.blocks", "1", "--model.growth-rate", "4", "--epochs", "2", *words.split()]
  (cell,) = cells_of(tokens)
  look = lambda: forecast.look([cell], collection.read(tmp_path / "runs"), forecast.Asked(), rich.console.Console())
  with pytest.raises(ConfigurationError, match=r"--data.validation 1: there are 18 training images"):
    look()
  fabricated.begun(tmp_path / "runs" / "a", cell.config)  # Its data.json has no rule.
  (row,) = look()
  # By that rule one of twenty images validates, and two test.
  assert (row.size.pictures, row.size.tested) == (2 * 16, 2 * (1 + 2))
  assert memory.answer(cell.config, row.images)[1] == ""


def test_the_plan_counts_what_is_done_and_takes_times_from_runs_that_are_there(tmp_path, monkeypatch):
  fabricated.finished(tmp_path / "a", fabricated.config(growth_rate=4))  # 2 epochs of 2 s, and 0.5 s of evaluation.
  fabricated.failed(tmp_path / "b", fabricated.config(growth_rate=8))  # In its second epoch.
  rows = rows_of("--model.growth-rate 4,8,12", tmp_path)
  four, eight, twelve = rows
  assert four.seconds_left == 2 * 2.5
  assert eight.seconds_left == 3 * 2.5
  assert twelve.seconds_left is None
  text = printed(rows)
  assert line_of(text, "4")[6:9] == ["2", "1", ""]
  assert line_of(text, "8")[6:9] == ["2", "0", "1"]
  assert line_of(text, "all")[6:9] == ["6", "1", "1"]
  assert [line_of(text, name)[-1] for name in ("4", "8", "12", "all")] == ["5 s", "8 s", "", "unknown"]
  assert "by the epochs of such runs that are there, on 1 x cpu" in " ".join(text.split())
  assert "time unknown: no run of that kind" in text
  text = printed(rows[:2])
  assert line_of(text, "all")[-1] == "12 s"
  assert "unknown" not in text


def test_runs_at_once_share_the_time_of_all_as_far_as_whole_runs_do(tmp_path, monkeypatch):
  fabricated.finished(tmp_path / "a", fabricated.config())  # 2 epochs of 2 s, and 0.5 s of evaluation.
  rows = rows_of("--model.growth-rate 4", tmp_path, seeds=6)
  # Five runs of 5 s each.
  for at_once, seconds in ((1, 25), (2, 15), (4, 10), (8, 5)):
    text = printed(rows, at_once=at_once)
    assert (line_of(text, "4")[-1], line_of(text, "all")[-1]) == ("25 s", f"{seconds} s")
    assert (f"time of all: {at_once} runs at once" in text) == (at_once > 1)


def test_an_epoch_on_other_devices_says_nothing_of_these(tmp_path, monkeypatch):
  fabricated.finished(tmp_path / "a", fabricated.config())
  other = fabricated.finished(tmp_path / "b", fabricated.config(seed=1)) / "summary.json"
  other.write_text(other.read_text().replace("1 x cpu", "4 x TPU v4"))
  for line in (lines := tmp_path / "b" / "metrics.jsonl").read_text().splitlines()[:1]:
    lines.write_text(2 * (line.replace('"seconds": 2.0', '"seconds": 0.2') + "\n"))
  for devices, epoch in (("4 x TPU v4", 0.7), ("1 x cpu", 2.5), ("8 x TPU v4", None)):
    monkeypatch.setattr(memory, "ask", lambda *_, devices=devices: ([(2**20, "")], devices))
    (row,) = rows_of("--model.growth-rate 4", tmp_path, seeds=3, memory=True)
    assert (row.epoch, row.epochs) == (epoch, 2)
    assert row.devices == ({devices} if epoch else set())
    # Where runs go to other machines, this one's devices do not matter.
    (row,) = rows_of("--model.growth-rate 4", tmp_path, seeds=3, memory=True, elsewhere=True)
    assert (row.epoch, row.devices) == (1.6, {"1 x cpu", "4 x TPU v4"})


def test_a_step_that_was_killed_or_refused_does_not_fit_and_the_others_are_asked_still(tmp_path, monkeypatch):
  def step_memory(config, found):
    match config.model.growth_rate:
      case 4:
        raise BrokenProcessPool("as the executor says it")
      case 8:
        raise ConfigurationError("batch-size", 64, "does not fit")
    return 2**20

  # Threads in place of processes, which take seconds to start: see `test_a_process_that_dies_...`.
  monkeypatch.setattr(memory, "_pool", lambda: ThreadPoolExecutor(1))
  monkeypatch.setattr(memory, "step_memory", step_memory)
  rows = rows_of("--model.growth-rate 4,8,12", tmp_path, memory=True)
  assert [row.memory for row in rows] == [None, None, 2**20]
  assert [row.refused for row in rows] == [
    "the process that was asked died (out of memory?)",
    "--batch-size 64: does not fit",
    "",
  ]


@pytest.mark.thorough
def test_a_plan_is_of_the_devices_that_a_run_takes():
  code = (
    f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}]\n"
    "import dataclasses, fabricated\nfrom dn_jax.errors import ConfigurationError\n"
    "from dn_jax.sweep import images, memory\n"
    "of = lambda devices: memory.step_memory(dataclasses.replace(fabricated.config(), devices=devices), "
    "images.count(fabricated.config().data, 2))\n"
    "print(of(1), of(4), of(None))\n"
    "try: of(5)\nexcept ConfigurationError as error: print(error)"
  )
  flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
  done = run("-c", code, **flags)
  numbers, refusal = done.stdout.splitlines()
  one, four, everything = map(int, numbers.split())
  assert one > four == everything
  assert refusal == "--devices 5: this machine has 4; at most that"


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_asked(tmp_path):
  with pytest.raises(ConfigurationError, match="--batch-size 2000: there are 1297 training images; at most that"):
    rows_of("--batch-size 2000", tmp_path)


def test_what_the_compiler_refuses_does_not_fit():
  cells = cells_of(["--data.name", "digits", "--model.depth", "10", "--epochs", "2"], 1)
  size = forecast.Size(1, 1, 1, 1)
  text = printed(
    [
      forecast.Row(cells, 0, 0, size, DIGITS, refused="too much"),
      forecast.Row(cells, 0, 0, size, DIGITS, memory=2**21),
    ],
    (),
  )
  assert text.count("does not fit here: too much") == 1
  assert "2 MiB" in text


def test_names_with_square_brackets_are_printed_as_they_are():
  cells = cells_of(["--data.name", "digits", "--model.depth", "10", "--data.dir", "/data/[/b]"], 1)
  text = printed([forecast.Row(cells, 0, 0, forecast.Size(1, 1, 1, 1), DIGITS)], ["data.dir"], "1 runs, in runs/[/b]")
  assert "1 runs, in runs/[/b]" in text
  assert "/data/[/b]" in text


@pytest.mark.slow
@pytest.mark.thorough
def test_a_process_that_dies_has_refused_and_none_is_left(monkeypatch):
  monkeypatch.setattr(memory, "answer", questions.answer)
  configs = [fabricated.config(growth_rate=rate) for rate in (4, 8, 12)]
  answers, devices = memory.ask(configs, [DIGITS] * len(configs), rich.console.Console(file=io.StringIO()))
  assert answers[0] == (None, "the process that was asked died (out of memory?)")
  assert devices == "1 x cpu"
  (second, worker), (third, same) = answers[1:]
  assert (second, third) == (8, 12)
  assert worker == same
  with pytest.raises(ProcessLookupError):
    os.kill(int(worker), 0)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_asked_ends_with_its_sweep(number):
  code = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # For a background.
    f"sys.path[:0] = [{str(ROOT / 'tests' / 'sweep')!r}, {str(ROOT / 'tests')!r}]\n"
    "import fabricated, questions, rich.console\nfrom dn_jax.sweep import memory\n"
    "memory.answer = questions.sleeps\n"
    "memory.ask([fabricated.config()], [None], rich.console.Console(stderr=True))"
  )
  sweep = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
  pid = int(sweep.stdout.readline())
  sweep.send_signal(number)
  assert sweep.wait(60) == -number
  deadline = time.monotonic() + 60
  while os.path.exists(f"/proc/{pid}/stat"):
    with open(f"/proc/{pid}/stat") as file:
      if file.read().split()[2] == "Z":
        break
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.thorough
def test_no_process_to_ask_is_a_line(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "tpu")  # Which is not there.
  with pytest.raises(UserError, match=r"could not start \(.*tpu.*\); leave --memory out"):
    memory.ask([fabricated.config()], [DIGITS], rich.console.Console(file=io.StringIO()))


@pytest.mark.thorough
def test_memory_is_asked_of_the_compiler(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # For the process that is asked.
  (row,) = rows_of("--model.growth-rate 4", tmp_path, network="--model.blocks 1", memory=True)
  assert row.memory > 4 * 2 * row.size.parameters  # Weights and momentum, float32.
  assert not row.refused


@pytest.mark.parametrize(
  ("seconds", "words"),
  [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_durations_are_said_as_a_person_does(seconds, words):
  assert forecast.duration(seconds) == words
