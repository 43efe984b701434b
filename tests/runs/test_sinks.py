"""What W&B gets of a run, offline and without a network; and what becomes of a run that it refuses or leaves."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import time

import fabricated
import matplotlib.image
import numpy as np
import pytest
import wandb_files
import wandb_server

from dn_jax.config.check import from_json
from dn_jax.errors import ConfigurationError
from dn_jax.runs import records, sinks
from dn_jax.runs.contents import EpochRecord, Summary

wandb = pytest.importorskip("wandb", reason="needs W&B: pip install -e '.[wandb]'")

RECORDS = [from_json(EpochRecord, json.dumps(fabricated.record(n, n / 10))) for n in (1, 2, 3)]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
  """W&B of a person who has never logged in, and is offline."""
  for name in [name for name in os.environ if name.startswith("WANDB_")]:
    monkeypatch.delenv(name)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setenv("WANDB_MODE", "offline")
  yield
  wandb.teardown()


@pytest.fixture
def config(tmp_path):
  (tmp_path / "run").mkdir()
  return dataclasses.replace(fabricated.config(epochs=3), out=tmp_path / "run", wandb="dense nets")


@pytest.fixture
def summary(config):
  return from_json(Summary, json.dumps(fabricated.summary(config, 5.0)))


@pytest.fixture
def figure(tmp_path):
  path = tmp_path / "curves.png"
  matplotlib.image.imsave(path, np.zeros((4, 6, 3)))
  return path


def starts(config):
  """What each start has left for W&B, oldest first."""
  left = (config.out / "wandb").glob("offline-run-*")
  return [wandb_files.read(each) for each in sorted(left, key=lambda each: each.stat().st_mtime_ns)]


def test_a_run_that_goes_on_is_one_run_there_and_an_epoch_trained_twice_no_error(
  config, summary, figure, capfd, monkeypatch
):
  monkeypatch.chdir(config.out.parent)
  said = []
  with sinks.opened(config, said.append) as (sink,):
    sink.resume([])
    for record in RECORDS[:2]:
      sink.epoch(record)
  # The second epoch had no checkpoint.
  with sinks.opened(config, said.append) as (sink,):
    sink.resume(RECORDS[:1])
    for record in RECORDS[1:]:
      sink.epoch(record)
    sink.end(summary, figure)
  first, second = starts(config)
  assert first["id"] == second["id"] == (config.out / "wandb" / "id").read_text().strip()
  assert {each["project"] for each in (first, second)} == {"dense nets"}
  assert (first["name"], first["exit"], second["exit"]) == ("digits_densenet-bc-10-4_seed0", 1, 0)
  assert list(first["rows"]) == [10, 20]
  # The later start's folder has the whole run.
  assert [(step, row.get("epoch")) for step, row in second["rows"].items()] == [(10, 1), (20, 2), (30, 3), (31, None)]
  assert [second["rows"][step]["test_error"] for step in (10, 20, 30)] == [0.1, 0.2, 0.3]
  assert second["rows"][10]["learning_rate"] == 0.1
  assert second["config"]["model"]["growth_rate"] == 4
  assert second["config"]["optimizer"]["drops"] == [0.5, 0.75]
  assert second["summary"]["test_error_percent"] == 5.0
  assert second["summary"]["flops"] == 2_000_000
  (drawn,) = (config.out / "wandb").rglob("curves_*.png")
  assert drawn.read_bytes() == figure.read_bytes()
  # It prints nothing, and leaves a run's folder one that a run takes, and nothing elsewhere.
  assert capfd.readouterr() == ("", "")
  assert [line.startswith("W&B: offline; 'wandb sync ") for line in said] == [True, True]
  records.check_own(config.out)
  assert {path.name for path in config.out.parent.iterdir()} == {"run", "home", "curves.png"}


def test_a_run_that_goes_on_at_the_server_has_each_epoch_once(config, summary, figure, monkeypatch, capfd):
  said = []
  with wandb_server.serving() as server:
    for name, value in (("MODE", "online"), ("BASE_URL", server.address), ("API_KEY", 40 * "a")):
      monkeypatch.setenv(f"WANDB_{name}", value)
    with sinks.opened(config, said.append) as (sink,):
      for record in RECORDS[:2]:
        sink.epoch(record)
    assert [(row["_step"], row["epoch"]) for row in server.rows] == [(10, 1), (20, 2)]
    with sinks.opened(config, said.append) as (sink,):
      sink.resume(RECORDS[:1])
      for record in RECORDS[1:]:
        sink.epoch(record)
      sink.end(summary, figure)
  assert [(row["_step"], row.get("epoch")) for row in server.rows] == [(10, 1), (20, 2), (30, 3), (31, None)]
  assert server.rows[-1]["curves"]["_type"] == "image-file"
  assert said == 2 * [f"W&B: {server.address}/e/p/runs/{server.run}"]
  assert capfd.readouterr() == ("", "")


def test_a_server_that_goes_away_holds_neither_training_nor_its_end_up(config, summary, figure, monkeypatch):
  monkeypatch.setattr(sinks, "_UPLOAD", 1.0)
  said = []
  with contextlib.ExitStack() as stack:
    with wandb_server.serving() as server:
      for name, value in (("MODE", "online"), ("BASE_URL", server.address), ("API_KEY", 40 * "a")):
        monkeypatch.setenv(f"WANDB_{name}", value)
      (sink,) = stack.enter_context(sinks.opened(config, said.append))
    begin = time.monotonic()
    for record in RECORDS:
      sink.epoch(record)
    assert time.monotonic() - begin < 1
    sink.end(summary, figure)
  assert time.monotonic() - begin < 30
  assert len(said) == 2
  assert said[1].startswith("W&B: Timed out finishing run.; training does without it ('wandb sync ")


def test_what_befalls_w_and_b_in_the_middle_is_a_line_and_the_run_goes_on(config, summary, figure, capfd):
  said = []
  with sinks.opened(config, said.append) as (sink,):
    sink.epoch(RECORDS[0])
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
      words = path.read_bytes().split(b"\0")
      if words[0].endswith(b"wandb-core") and str(os.getpid()).encode() in words:
        os.kill(int(path.parent.name), signal.SIGKILL)
    for record in RECORDS[1:]:
      sink.epoch(record)
    sink.end(summary, figure)
  assert len(said) == 2
  assert re.match(r"W&B: .+; training does without it \('wandb sync ", said[1])
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
  ("environment", "project", "refused"),
  [
    ({"WANDB_MODE": "online"}, "p", "W&B refuses: No API key configured.*[^.]; WANDB_MODE=offline keeps it here$"),
    ({"WANDB_MODE": "online", "WANDB_API_KEY": "short"}, "p", "W&B refuses: WANDB_API_KEY invalid"),
    ({"WANDB_MODE": "online", "WANDB_API_KEY": 40 * "a"}, "p", "W&B cannot be reached, or .*connection refused; WANDB"),
    ({"WANDB_MODE": "nonsense"}, "p", "W&B refuses: mode: Input should be 'online', [^:]* or 'run'; WANDB_MODE="),
    ({}, "team/p", "^--wandb team/p: W&B refuses: Invalid project name"),
  ],
)
def test_a_refusal_at_the_start_is_a_line(config, environment, project, refused, monkeypatch, capfd):
  with socket.socket() as free:  # Nobody listens there.
    free.bind(("127.0.0.1", 0))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    config = dataclasses.replace(config, wandb=project)
    with pytest.raises(ConfigurationError, match=refused) as error, sinks.opened(config, print):
      pass
  assert str(error.value).startswith(f"--wandb {project}: ")
  assert "\n" not in str(error.value)
  assert capfd.readouterr() == ("", "")
