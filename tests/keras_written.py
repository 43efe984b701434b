"""Files as Keras writes them, made without it."""

import h5py
import numpy as np
from variables import variables_of

from dn_jax import weights
from dn_jax.config.network import complete_model
from dn_jax.models import build


def write(path, model, classes=3):
  """Writes a network's variables as Keras 3 would, by the order of its layers; returns network and variables."""
  network = build.build(complete_model(model), classes)
  variables = variables_of(network, size=64)
  rest = iter(weights.to_keras(network, variables["params"], variables["batch_stats"]))
  numbers = dict.fromkeys(("conv2d", "batch_normalization", "dense"), 0)
  with h5py.File(path, "w") as file:
    for unit in weights.units(network):
      name, count = {"conv": ("conv2d", 1), "norm": ("batch_normalization", 4), "linear": ("dense", 2)}[unit.kind]
      label = f"layers/{name}" + (f"_{numbers[name]}" if numbers[name] else "")
      numbers[name] += 1
      for n in range(count):
        file[f"{label}/vars/{n}"] = next(rest)
    file["optimizer/vars/0"] = np.arange(3)
  return network, variables
