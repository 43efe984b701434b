"""Runs' folders as a trained run leaves them, made without training."""

import dataclasses
import json
import pathlib

from dn_jax.config.check import to_dict
from dn_jax.config.network import policy_of
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig

DATA = {"pictures": {"train": 10, "test": 5}, "labels": "00"}
VERSIONS = {"dn_jax": "0.1.0", "jax": "0.12.0", "flax": "0.12.12"}


def config(seed: int = 0, epochs: int = 2, **model) -> RunConfig:
  """A resolved run on digits."""
  model = {"depth": 10, "growth_rate": 4} | model
  return resolve(RunConfig(DataConfig("digits"), ModelConfig(**model), epochs=epochs, seed=seed))


def record(epoch: int, test_error: float) -> dict:
  """A line of metrics.jsonl."""
  return {
    "epoch": epoch,
    "step": 10 * epoch,
    "learning_rate": 0.1,
    "train_loss": 1.5,
    "train_error": 0.4,
    "valid_loss": None,
    "valid_error": None,
    "test_loss": 1.4,
    "test_error": test_error,
    "test_top5_error": 0.1,
    "seconds": 2.0,
    "evaluation_seconds": 0.5,
    "images_per_second": 100.0,
  }


def summary(run: RunConfig, test_error: float) -> dict:
  """A summary.json; `test_error` in percent."""
  return {
    "test_error_percent": test_error,
    "test_top5_error_percent": 1.0,
    "reported": run.report,
    "reported_epoch": run.epochs,
    "valid_error_percent": None,
    "parameters": 1000 * run.model.growth_rate,
    "flops": 2_000_000,
    "epochs": run.epochs,
    "seconds": 2.0 * run.epochs,
    "evaluation_seconds": 0.5 * run.epochs,
    "images_per_second": 100.0,
    "network": "densenet",
    "data": "digits",
    "seed": run.seed,
    "remat": policy_of(run.model),
    "devices": "1 x cpu",
    "python": "3.12.1",
    "versions": VERSIONS,
    "commit": None,
  }


def begun(
  folder: pathlib.Path, run: RunConfig | None = None, epochs: int = 1, test_error: float = 30.0
) -> pathlib.Path:
  """A run with some epochs behind it."""
  run = run or config()
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(to_dict(dataclasses.replace(run, out=folder))))
  (folder / "data.json").write_text(json.dumps(DATA))
  (folder / "metrics.jsonl").write_text(
    "".join(json.dumps(record(n + 1, test_error / 100)) + "\n" for n in range(epochs))
  )
  return folder


def finished(folder: pathlib.Path, run: RunConfig | None = None, test_error: float = 5.0) -> pathlib.Path:
  """A run at its end."""
  run = run or config()
  begun(folder, run, run.epochs, test_error)
  (folder / "summary.json").write_text(json.dumps(summary(run, test_error)))
  return folder


def failed(folder: pathlib.Path, run: RunConfig | None = None, error: str = "no luck") -> pathlib.Path:
  """A run that failed in its second epoch."""
  begun(folder, run)
  record = {"error": error, "exit_code": 1, "at": "2026-01-01T00:00:00+00:00"}
  (folder / "failure.json").write_text(json.dumps(record))
  return folder
