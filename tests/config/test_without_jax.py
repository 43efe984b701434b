"""Flags are resolved by plain Python, so that a wrong one is answered at once."""

import subprocess
import sys

import pytest
from conftest import ROOT

from dn_jax import weights
from dn_jax.config.about import About
from dn_jax.config.schema import ModelConfig

# Whatever takes long to import.
HEAVY = {"jax", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"}

RESOLVED = """
import pathlib, pkgutil, sys
import dn_jax.config
for module in pkgutil.iter_modules(dn_jax.config.__path__):
  __import__(f"dn_jax.config.{module.name}")
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError

for config in (
  RunConfig(),
  RunConfig(DataConfig("digits", augment=True), ModelConfig(family="resnet", depth=20, survival=0.5)),
  RunConfig(DataConfig("imagenet2012"), ModelConfig(name="densenet-121")),
):
  resolve(config)
for config in (RunConfig(DataConfig("cifar11")), RunConfig(model=ModelConfig(depth=41)), RunConfig(epochs=0)):
  try:
    resolve(config)
  except ConfigurationError:
    continue
  sys.exit(f"{config} was taken")
if "numpy" in sys.modules:  # A file of weights is opened with it.
  sys.exit("numpy was imported")
last = resolve(RunConfig(weights=pathlib.Path(sys.argv[1]), freeze=("stem",)))
assert last.model.blocks == (2, 1), last
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.fixture
def weights_file(tmp_path):
  """A file that says what network it is of; its tensors are not looked at."""
  path = tmp_path / "some.safetensors"
  weights.write(path, {}, About(ModelConfig(blocks=(2, 1), growth_rate=4)))
  return path


def test_resolving_flags_imports_nothing_heavy(weights_file):
  command = [sys.executable, "-c", RESOLVED, str(weights_file)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert HEAVY & set(done.stdout.split()) == set()
