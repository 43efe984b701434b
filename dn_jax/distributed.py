"""One global batch over all devices: the mesh, and what lies where on it."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dn_jax.configuration import ConfigurationError


def make_mesh() -> Mesh:
  """All devices in a line, along which a batch is cut."""
  return Mesh(np.asarray(jax.devices()), ("data",))


def check_divides(flag: str, batch_size: int, mesh: Mesh) -> None:
  """Refuses a batch that the devices do not divide.

  Raises:
    ConfigurationError: with the nearest sizes that they do.
  """
  devices = mesh.size
  if batch_size % devices:
    below = batch_size - batch_size % devices
    fits = f"{below} and {below + devices}" if below else str(devices)
    raise ConfigurationError(flag, batch_size, f"{devices} devices do not divide it; the nearest that they do: {fits}")


def replicate[Tree](tree: Tree, mesh: Mesh) -> Tree:
  """Every device gets the whole."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def placed_everywhere[Tree](shapes: Tree, mesh: Mesh) -> Tree:
  """Shapes of arrays, with the placement that `replicate` gives them."""
  sharding = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def placed_in_parts[Tree](shapes: Tree, mesh: Mesh) -> Tree:
  """Shapes of arrays whose first axis is cut over the devices."""
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def cut[Tree](batch: Tree, mesh: Mesh) -> Tree:
  """Inside a compiled function: every device gets its part of the batch."""
  return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("data")))
