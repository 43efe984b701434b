"""What a file of weights says of its network, beside flags."""

import numpy as np
import pytest

from dn_jax import weights
from dn_jax.config import weights_file
from dn_jax.config.about import About
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError

SAID = ModelConfig(depth=10, growth_rate=4, epsilon=0.1)
NAMED = ModelConfig(depth=10, growth_rate=4)


@pytest.fixture
def file(tmp_path):
  weights.write(tmp_path / "net.safetensors", {"a": np.zeros(1)}, About(SAID))
  return tmp_path / "net.safetensors"


@pytest.mark.parametrize("asked", [ModelConfig(), NAMED, ModelConfig(epsilon=0.1), SAID])
def test_batch_norms_epsilon_is_the_files_whether_flags_name_the_network_or_not(file, asked):
  found = weights_file.model_of(file, asked)
  assert (found.depth, found.growth_rate, found.epsilon) == (10, 4, 0.1)


# The second is what a network has that no file is of.
@pytest.mark.parametrize("epsilon", [0.2, 1e-5])
@pytest.mark.parametrize("asked", [{}, {"depth": 10, "growth_rate": 4}])
def test_another_epsilon_than_the_files_is_refused(file, asked, epsilon):
  with pytest.raises(ConfigurationError, match=rf"--model.epsilon {epsilon}: .*net.safetensors says 0.1 of its batch"):
    weights_file.model_of(file, ModelConfig(**asked, epsilon=epsilon))


def test_a_file_that_does_not_say_leaves_epsilon_to_flags(tmp_path):
  weights.write(tmp_path / "net.safetensors", {"a": np.zeros(1)})
  for path in (tmp_path / "net.safetensors", None, tmp_path / "gone.keras"):
    assert complete_model(weights_file.model_of(path, NAMED)).epsilon == 1e-5  # Torch's.
    assert weights_file.model_of(path, SAID) == SAID
