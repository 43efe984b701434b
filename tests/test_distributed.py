"""One batch over many devices is the same function; virtual devices in a process of their own."""

import subprocess
import sys

import pytest
from conftest import ROOT, metrics, run, small_run

CODE = """
import jax, jax.numpy as jnp, numpy as np, functools
jax.config.update("jax_enable_x64", True)
from dn_jax import distributed
from dn_jax.configuration import OptimizerConfig
from dn_jax.models.densenet import DenseNet
from dn_jax.training import optimizer, step

assert len(jax.devices()) == 8
network = DenseNet((1, 1), 4, 5, 8, dropout_rate=0.2, dtype=jnp.float64, param_dtype=jnp.float64)
config = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 0.1)
sgd = optimizer.sgd(config, optimizer.learning_rate(config, 1, 1))
rng = np.random.RandomState(0)
images, labels = rng.randn(3, 16, 8, 8, 3), rng.randint(0, 5, (3, 16))

def train(devices):
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:devices]), ("data",))
  inner = step.make_train_step(network, sgd)
  train_step = jax.jit(lambda state, batch, key: inner(state, distributed.cut(batch, mesh), key))
  state = distributed.replicate(step.create_state(network, sgd, jax.random.key(0), (8, 8, 3)), mesh)
  for n in range(3):
    batch = distributed.replicate(step.Batch(jnp.asarray(images[n]), jnp.asarray(labels[n]), jnp.ones(16)), mesh)
    state, totals = train_step(state, batch, jax.random.fold_in(jax.random.key(1), n))
  return jax.tree.leaves((state, totals))

for devices in (2, 8):
  worst = max(float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1)) for a, b in zip(
      map(np.asarray, train(devices)), map(np.asarray, train(1)), strict=True))
  assert worst < 1e-10, (devices, worst)
"""

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


@pytest.mark.slow
def test_steps_on_many_devices_equal_those_on_one_in_float64_dropout_included():
  import os

  done = subprocess.run(
    [sys.executable, "-c", CODE], cwd=ROOT, env=os.environ | EIGHT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_of_eight_devices_is_evaluated_on_one(tmp_path):
  folder = tmp_path / "run"
  first = run(*small_run(folder, "--epochs", "2"), **EIGHT)
  assert first.returncode == 0, first.stderr
  assert "on 8 x cpu" in first.stdout
  evaluated = run("experiments/evaluate.py", folder)
  assert f"top-1 error: {100 * metrics(folder)[-1]['test_error']:.2f} %" in evaluated.stdout


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide_is_refused_with_the_nearest(tmp_path):
  done = run(*small_run(tmp_path / "run", "--batch-size", "60"), **EIGHT)
  assert done.returncode == 2
  assert "--batch-size 60: 8 devices do not divide it; the nearest that they do: 56 and 64" in done.stderr
