"""A run's folder is one process's alone, and leads nowhere else."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import fabricated
import pytest
from conftest import ROOT, call, small_run

from dn_jax.errors import ConfigurationError
from dn_jax.runs import place, records
from dn_jax.system import lock

CONFIG = fabricated.config()
# What a run, a sweep and the programs beside them leave in a run's folder; folders have a slash.
PARTS = (
  *(
    "config.json",
    "data.json",
    "metrics.jsonl",
    "results.csv",
    "summary.json",
    "curves.png",
    "failure.json",
    "log.txt",
  ),
  *("run.lock", "sweep.lock", "checkpoints/", "set-aside/", "profile/", "tensorboard/", "wandb/", "wandb/id"),
  *("checkpoints/20/", "checkpoints/20/state/d/0a", "metrics.jsonl.tmp", "anything"),
)


def listed(folder: pathlib.Path) -> dict[str, bytes | None]:
  return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_a_link_is_refused_in_a_line_and_not_written_through(tmp_path, part):
  folder, elsewhere = fabricated.begun(tmp_path / "run"), tmp_path / "elsewhere"
  inside = elsewhere / "7" if part.endswith("/") else elsewhere
  inside.parent.mkdir(exist_ok=True)
  inside.write_text("mine")
  name = folder / part.rstrip("/")
  name.parent.mkdir(parents=True, exist_ok=True)
  name.unlink(missing_ok=True)
  name.symlink_to(elsewhere)
  before = listed(tmp_path)
  done = call(*small_run(folder, "--epochs", "2"))
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert re.search(rf"{re.escape(part.rstrip('/'))}( in it|: cannot be read) \(?is a link\b", done.stderr)
  assert listed(tmp_path) == before


def test_the_folder_itself_may_be_a_link(tmp_path):
  fabricated.begun(tmp_path / "run")
  (tmp_path / "link").symlink_to(tmp_path / "run")
  with place.held(tmp_path / "link", CONFIG):
    assert lock.holder(tmp_path / "run", lock.RUN)


READERS = {
  "config.json": records.read_config,
  "metrics.jsonl": records.read_records,
  "summary.json": records.read_summary,
  "data.json": records.read_data,
  "failure.json": records.read_failure,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_place_of_a_record_is_refused_and_not_waited_for(tmp_path, name):
  folder = fabricated.begun(tmp_path / "run")
  (folder / name).unlink(missing_ok=True)
  os.mkfifo(folder / name)
  with pytest.raises(records.RunError, match=rf"{name}: cannot be read \(is not a file"):
    READERS[name](folder)


@pytest.mark.parametrize("there", ["nothing", "folder", "a killed run's lock"])
def test_of_a_run_that_does_not_begin_nothing_stays(tmp_path, there):
  folder = tmp_path / "runs" / "one"
  if there != "nothing":
    folder.mkdir(parents=True)
  if there == "a killed run's lock":
    (folder / lock.RUN).write_text("host 7\n")
  with place.held(folder, CONFIG):
    assert (folder / lock.RUN).read_text() == f"{socket.gethostname()} {os.getpid()}\n"
  assert listed(tmp_path) == ({} if there == "nothing" else {"runs": None, "runs/one": None})


def test_of_a_run_that_begins_the_lock_stays_and_names_nobody(tmp_path):
  with place.held(tmp_path / "run", CONFIG):
    records.create(tmp_path / "run", CONFIG, records.Data(**fabricated.DATA))
  assert (tmp_path / "run" / lock.RUN).read_bytes() == b""


@pytest.mark.parametrize(
  ("name", "words"),
  [
    (".", "is not a run's folder, and not empty"),
    ("letter", "is not a run's folder"),
    ("letter/run", r"cannot be written \(Not a directory; a part of the path is no folder"),
    ("n" * 300, r"cannot be written \(File name too long; take a shorter name\)"),
  ],
)
def test_a_folder_of_something_else_is_not_touched(tmp_path, name, words):
  (tmp_path / "letter").write_text("mine")
  with pytest.raises(ConfigurationError, match=words), place.held(tmp_path / name, CONFIG):
    pass
  assert listed(tmp_path) == {"letter": b"mine"}


def test_a_run_that_another_process_trains_is_refused_before_data_is_loaded_and_not_touched(tmp_path, monkeypatch):
  monkeypatch.setattr("dn_jax.data.catalog.load", None)
  with lock.held(fabricated.begun(tmp_path / "run", CONFIG), lock.RUN):
    before = listed(tmp_path)
    with pytest.raises(lock.TakenError), place.held(tmp_path / "run", CONFIG):
      pass
    assert listed(tmp_path) == before


@pytest.mark.slow
def test_of_four_that_are_started_at_once_one_trains_and_the_others_say_who(tmp_path):
  command = [sys.executable, *small_run(tmp_path / "run", "--model.depth", "7", "--model.bottleneck", "False")]
  begun = [
    subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(4)
  ]
  said = {process.pid: (process.communicate()[1], process.returncode) for process in begun}
  (first,) = (number for number, (_, code) in said.items() if code == 0)
  words = f"error: --out {re.escape(str(tmp_path / 'run'))}: process {first} on {re.escape(socket.gethostname())} is at"
  for number in said.keys() - {first}:
    assert said[number][1] == 2
    assert re.fullmatch(f"{words} work on this run; .*\n", said[number][0])
  assert len(records.read_records(tmp_path / "run")) == 4
  assert records.read_summary(tmp_path / "run")
