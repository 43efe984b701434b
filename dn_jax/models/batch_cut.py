"""A batch of which each device holds a part, as the modules that look across pictures see it."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class BatchCut:
  """Neighbouring devices along a mapped axis (`jax.shard_map`, `jax.pmap`) that hold one batch together.

  axis_name: of the mapped axis
  devices:   along it, in all
  parts:     how many neighbours share a batch; divides `devices`
  """

  axis_name: str
  devices: int
  parts: int

  @property
  def neighbours(self) -> list[list[int]]:
    """The devices of each batch, by their place along the axis."""
    return [list(range(first, first + self.parts)) for first in range(0, self.devices, self.parts)]

  def part(self) -> jax.Array:
    """Which part of its batch this device holds, counted from 0."""
    return jax.lax.axis_index(self.axis_name) % self.parts

  def gather(self, x: jax.Array) -> jax.Array:
    """What each of the parts has, [parts, ...]."""
    return jax.lax.all_gather(x, self.axis_name, axis_index_groups=self.neighbours)

  def sum(self, x: jax.Array) -> jax.Array:
    """The sum over the parts."""
    return jax.lax.psum(x, self.axis_name, axis_index_groups=self.neighbours)
