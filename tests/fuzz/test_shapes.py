"""Names and shapes of a file's tensors: the network that they are of, or a refusal in one line."""

import functools
import pathlib

import numpy as np
import pytest
import safetensors.numpy
from conftest import FIXTURES
from hostile import COUNTS, cases, outcome
from variables import variables_of

from dn_jax import weights
from dn_jax.config import size
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.models import build
from dn_jax.weights import names, shapes

PATH = pathlib.Path("w.safetensors")
LENGTHS = (0, 1, 2, 3, 7, 8, 1000, 2**31, 2**40)


def densenet():
  network = build.build(complete_model(ModelConfig(blocks=(2, 1), growth_rate=4, stem="imagenet")), 10)
  return weights.to_pytorch(network, **variables_of(network, size=64))


STATES = {"densenet": densenet, "rdnet": lambda: safetensors.numpy.load_file(FIXTURES / "rdnet" / "timm.safetensors")}


def of_shape(shape):
  """Zeros that take no memory, and none where numpy has no such array."""
  try:
    return np.broadcast_to(np.float32(0), shape)
  except ValueError:
    return np.zeros(0, np.float32)


def mutated(state, rng):
  """A state dict in which tensors are missing, have other shapes or other names."""
  state = dict(state)
  for _ in range(rng.choice((1, 1, 2, 3))):
    name = rng.choice(list(state))
    value = state.pop(name)
    shape = list(value.shape)
    match rng.randrange(4):
      case 0:
        if shape:
          shape[rng.randrange(len(shape))] = rng.choice(LENGTHS)
        state[name] = of_shape(shape)
      case 1:
        state[name] = of_shape(rng.choice((shape[:-1], [*shape, 1], shape[::-1])))
      case 2:
        digits = rng.choice(("0", "1", "2", "9", "9999", "99999", "x", "", "\u0663"))
        place = rng.choice([n for n, letter in enumerate(name) if letter.isdigit()] or [0])
        state[name[:place] + digits + name[place + 1 :]] = value
  return state


def told(state, asked):
  """The network of a state dict, and whether it is refused for another."""
  state = names.translated(state, lambda _: None)
  assert shapes.channels_of(state) is None or shapes.channels_of(state) >= 0
  try:
    shapes.check(PATH, state, asked)
  finally:
    found = shapes.model_of(state)
    assert found is None or shapes.flags_of(found).startswith("--model.")
  return found


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("count", COUNTS)
def test_a_network_is_told_from_names_and_shapes_or_refused(kind, count):
  whole, taken = STATES[kind](), 0
  own = shapes.model_of(whole)
  for rng in cases(f"shapes of {kind}", count):
    state = mutated(whole, rng)
    case = {name: value.shape for name, value in state.items() if value is not whole.get(name)}
    for asked in (own, complete_model(ModelConfig())):
      found = outcome(functools.partial(told, state, asked), case)
      if found:
        taken += 1
        assert found == own, case
        assert 0 < size.parameters(found) <= 10**12
  assert 0 < taken < count
