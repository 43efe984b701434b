"""Shared by the peers on JAX: the device, its memory, a batch. As a program it prints the device as a line of JSON."""

import json
import platform
from importlib import metadata

import jax
import numpy as np


def device():
  return jax.devices()[0].device_kind


def device_peak():
  """Peak memory of the device so far, MiB; None if it is the host's."""
  statistics = jax.devices()[0].memory_stats() or {}
  return statistics["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in statistics else None


def temporaries(compiled):
  """What a compiled program needs besides its arguments and results, MiB; None where the compiler does not say."""
  analysis = compiled.memory_analysis()
  return None if analysis is None else analysis.temp_size_in_bytes / 2**20


def versions(*names):
  return {name: metadata.version(name) for name in ("jax", "jaxlib", *names)}


def batch(batch_size):
  """Images [batch, 32, 32, 3] of noise, normalised, and labels [batch]."""
  images = np.random.RandomState(0).randn(batch_size, 32, 32, 3).astype(np.float32)
  return images, (np.arange(batch_size) % 10).astype(np.int32)


def _told():
  """The device, and the version of each package that a step needs; None where a package is missing."""
  packages = {"python": platform.python_version()}
  for name in ("jax", "jaxlib", "flax", "optax", "chex", "numpy"):
    try:
      packages[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      packages[name] = None
  first = jax.devices()[0]
  return {
    "backend": jax.default_backend(),
    "device": first.device_kind,
    "devices": len(jax.devices()),
    "device_memory": (first.memory_stats() or {}).get("bytes_limit"),
    "driver": first.client.platform_version,
    "versions": packages,
  }


if __name__ == "__main__":
  print(json.dumps(_told()))
