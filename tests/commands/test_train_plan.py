"""train --dry-run: what a run takes, before there is anything."""

import fabricated
import pytest
import untrained

from dn_jax.models import build
from dn_jax.sweep import memory


def test_a_dry_run_says_what_a_run_takes_and_starts_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(build, "build", lambda *_: pytest.fail("a network was built"))
  monkeypatch.setattr(memory, "ask", lambda *_: pytest.fail("a network was compiled"))
  words = ("--data.name", "svhn_cropped", "--data.dir", tmp_path, "--out", tmp_path / "run")
  untrained.script("train", *words, "--dry-run")
  printed = capsys.readouterr().out
  for said in (f"1 run, in {tmp_path}/run", "769,162", "575.9", "598,388 + 6,000", "26,032"):
    assert said in printed
  assert "published numbers of images stand in" in printed
  assert list(tmp_path.iterdir()) == []


def test_memory_is_asked_for_where_it_is_wanted(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(memory, "ask", lambda configs, *_: ([(2**21, "")], "1 x cpu"))
  words = ("--data.name", "digits", "--model.depth", 10, "--out", tmp_path / "run")
  untrained.script("train", *words, "--dry-run", "--memory")
  assert "2 MiB" in capsys.readouterr().out
  assert untrained.refused(capsys, "train", *words, "--memory") == "error: --memory True: goes with --dry-run"


def test_a_dry_run_refuses_a_folder_of_another_run(tmp_path, capsys):
  fabricated.begun(tmp_path / "run", fabricated.config(growth_rate=8))
  words = ("--data.name", "digits", "--model.depth", 10, "--model.growth-rate", 4, "--out", tmp_path / "run")
  with pytest.raises(SystemExit):
    untrained.script("train", *words, "--dry-run")
  assert "holds a run of another configuration" in capsys.readouterr().err
