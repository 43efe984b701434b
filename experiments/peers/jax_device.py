"""Shared by the peers on JAX: the device, its memory, a batch."""

from importlib import metadata

import jax
import numpy as np


def device():
  return jax.devices()[0].device_kind


def device_peak():
  """Peak memory of the device so far, MiB; None if it is the host's."""
  statistics = jax.devices()[0].memory_stats() or {}
  return statistics["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in statistics else None


def versions(*names):
  return {name: metadata.version(name) for name in ("jax", "jaxlib", *names)}


def batch(batch_size):
  """Images [batch, 32, 32, 3] of noise, normalised, and labels [batch]."""
  images = np.random.RandomState(0).randn(batch_size, 32, 32, 3).astype(np.float32)
  return images, (np.arange(batch_size) % 10).astype(np.int32)
