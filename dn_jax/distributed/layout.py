"""One global batch over all devices: where each image lies, and what a step exchanges.

Every device holds the whole state and runs the same program on its own part of the batch (`jax.shard_map` under
`jax.jit`, or `jax.pmap`). The exchanges stand here and in `dn_jax.models.batch_stats`: the means of gradients and
running averages, the logged sums and, where the images of a group lie on several devices, the statistics of its parts.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dn_jax.distributed import processes
from dn_jax.errors import ConfigurationError
from dn_jax.models.batch_stats import BatchCut
from dn_jax.system import compilation, kept_programs

AXIS = "data"
Parallel = Literal["jit", "pmap"]


@dataclasses.dataclass(frozen=True)
class Layout:
  """How the groups of a global batch lie on devices.

  A batch is G equal groups of neighbouring images, each normalised by itself. The results of a run depend on G and not
  on the D devices. These form gcd(G, D) rows. Each row takes an equal share of the groups, and each device of a row
  holds the same part of every group of its share.

  devices:  those that share the batch, of every process
  groups:   G, the statistics groups
  parallel: runs the program on every device
  shard:    cut parameters and momentum over the devices too, each holding a part between steps
  """

  devices: tuple[jax.Device, ...]
  groups: int = 1
  parallel: Parallel = "jit"
  shard: bool = False

  @property
  def rows(self) -> int:
    return math.gcd(self.groups, len(self.devices))

  @property
  def groups_of_device(self) -> int:
    """Groups that a device has a part of."""
    return self.groups // self.rows

  @property
  def parts(self) -> int:
    """Devices that share a group."""
    return len(self.devices) // self.rows

  @property
  def cut(self) -> BatchCut | None:
    """How the devices share a group, for the network; None where no group lies on several devices."""
    return BatchCut(AXIS, len(self.devices), self.parts) if self.parts > 1 else None

  @property
  def mesh(self) -> Mesh:
    """All devices in a line."""
    return Mesh(np.asarray(self.devices), (AXIS,))

  def check(self, flag: str, batch_size: int) -> None:
    """Refuses a batch that groups and devices do not divide.

    Raises:
      ConfigurationError: with the nearest sizes that fit.
    """
    unit = math.lcm(self.groups, len(self.devices))
    if batch_size % unit:
      below = batch_size - batch_size % unit
      nearest = f"{below} and {below + unit}" if below else str(unit)
      who = f"{len(self.devices)} devices" if len(self.devices) > 1 else ""
      groups = f"{self.groups} statistics groups" if self.groups > 1 else ""
      who = f"{groups} over {who}" if who and groups else who or groups
      raise ConfigurationError(flag, batch_size, f"{who} do not divide it; the nearest that they do: {nearest}")

  def check_accumulation(self, pieces: int) -> None:
    """Refuses a number of pieces that does not divide a device's groups.

    Raises:
      ConfigurationError: with the numbers that do.
    """
    own = self.groups_of_device
    if own % pieces:
      fitting = ", ".join(str(number) for number in range(1, own + 1) if own % number == 0)
      raise ConfigurationError(
        "accumulation",
        pieces,
        f"each device works on {own} of --statistics-groups {self.groups} at a time, and batch norm must see a group "
        f"whole; {fitting} fit, or more groups",
      )

  def own(self, images: jax.Array) -> jax.Array:
    """This device's part [groups_of_device * n] of a batch's images [batch], group by group; inside the program."""
    if len(self.devices) == 1:
      return images
    row, part = jnp.divmod(jax.lax.axis_index(AXIS), self.parts)
    return images.reshape(self.rows, self.groups_of_device, self.parts, -1)[row, :, part].reshape(-1)

  def backwards[Tree](self, parts: Tree) -> Tree:
    """This device's part of a batch in reverse: its row for image i of n is image n - 1 - i; inside the program.

    Reversing all rows of the batch reverses the devices, and on each the order of its own rows.
    """
    parts = jax.tree.map(lambda part: part[::-1], parts)
    if (count := len(self.devices)) == 1:
      return parts
    return jax.lax.ppermute(parts, AXIS, [(device, count - 1 - device) for device in range(count)])

  def group_numbers(self) -> jax.Array:
    """The numbers of this device's groups, int32 [groups_of_device]; inside the program."""
    own = jnp.arange(self.groups_of_device, dtype=jnp.int32)
    if len(self.devices) == 1:
      return own
    return jax.lax.axis_index(AXIS) // self.parts * self.groups_of_device + own

  def specs[Tree](self, shapes: Tree) -> Tree:
    """How arrays of a state lie: whole everywhere, or cut along the longest axis that the devices divide."""

    def spec(leaf: Any) -> PartitionSpec:
      axes = [axis for axis, size in enumerate(leaf.shape) if size % len(self.devices) == 0]
      if not self.shard or len(self.devices) == 1 or not axes:
        return PartitionSpec()
      longest = max(axes, key=lambda axis: leaf.shape[axis])
      return PartitionSpec(*(None,) * longest, AXIS)

    return jax.tree.map(spec, shapes)

  def whole[Tree](self, parts: Tree, specs: Tree) -> Tree:
    """Gathers whole arrays from the devices' parts; inside the program."""

    def gather(part: jax.Array, spec: PartitionSpec) -> jax.Array:
      return jax.lax.all_gather(part, AXIS, axis=len(spec) - 1, tiled=True) if spec else part

    return jax.tree.map(gather, parts, specs)

  def reduce[Tree](self, gradients: Tree, specs: Tree, means: Any, sums: Any) -> tuple[Tree, Any, Any]:
    """Averages gradients and `means` over all devices, and adds up `sums`; inside the program.

    Each device keeps the part of the gradients that its specs give it.
    """
    if len(self.devices) == 1:
      return gradients, means, sums

    def scatter(gradient: jax.Array, spec: PartitionSpec) -> jax.Array:
      return jax.lax.psum_scatter(gradient, AXIS, scatter_dimension=len(spec) - 1, tiled=True)

    leaves, tree = jax.tree.flatten(gradients)
    spec_of = tree.flatten_up_to(specs)
    kept, means, sums = jax.lax.psum(
      ([leaf for leaf, spec in zip(leaves, spec_of, strict=True) if not spec], means, sums), AXIS
    )
    kept = iter(kept)
    leaves = [scatter(leaf, spec) if spec else next(kept) for leaf, spec in zip(leaves, spec_of, strict=True)]
    gradients, means = jax.tree.map(lambda total: total / len(self.devices), (tree.unflatten(leaves), means))
    return gradients, means, sums

  def connect(self) -> None:
    """Makes the connections between processes that a step needs; each calls it as soon as they have joined.

    Gloo, of the CPU back end, wants processes to reach the first exchange of some devices within 30 s of each other. A
    step's first exchange may be minutes of loading and compiling away. Later ones wait for as long as it takes.
    """

    def exchange(x: jax.Array) -> jax.Array:
      x = jax.lax.psum(x, AXIS)
      return self.cut.sum(x) if self.cut else x

    jax.block_until_ready(self.everywhere(exchange)(replicate(np.float32(0), self.mesh)))

  def everywhere(
    self,
    function: Callable[..., Any],
    donate: Sequence[int] = (),
    in_specs: Any = PartitionSpec(),
    out_specs: Any = PartitionSpec(),
  ) -> Callable[..., Any]:
    """Compiles a program that every device runs.

    Args:
      function: of each device's part of the arguments.
      donate: places of arguments whose memory the results may take.
      in_specs, out_specs: how arguments and results lie, by default whole and the same on all devices; pmap knows
        no other way.

    Returns:
      The same function of arrays as `replicate` and `place` place them.
    """
    if self.parallel == "pmap":
      return self._everywhere_by_pmap(function, donate)
    return jax.jit(self.mapped(function, in_specs, out_specs), donate_argnums=tuple(donate))

  def compiled(
    self,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    like: Any,
    donate: Sequence[int] = (),
    in_specs: Any = PartitionSpec(),
    out_specs: Any = PartitionSpec(),
  ) -> Callable[..., Any]:
    """A program as of `everywhere`, compiled for arguments like these, or as an earlier start kept it.

    The memory of tracing is given back before compiling, and that of compiling or loading after it. Of several
    processes each has the program kept, or all compile it. By pmap, and under --debug-nans, none is kept.

    Args:
      function, donate, in_specs, out_specs: see `everywhere`.
      arguments: placed on the devices.
      like: a tree like that of the results, with anything for leaves.
    """
    program = self.everywhere(function, donate, in_specs, out_specs)
    if self.parallel == "pmap":
      program.compile(*arguments)
      return program
    if jax.config.jax_debug_nans:
      return compilation.ahead(program, *arguments)
    kept = kept_programs.Program((function, self, in_specs, out_specs), arguments, like, tuple(donate), self.mesh)
    compiled = kept.find()
    of_several = len({device.process_index for device in self.devices}) > 1
    if not (processes.everyone(compiled is not None) if of_several else compiled):
      lowered = program.lower(*arguments)
      compilation.give_back()
      compiled = kept.compile(lowered)
      del lowered
    compilation.give_back()
    return compiled

  def mapped(self, function: Callable[..., Any], in_specs: Any, out_specs: Any = PartitionSpec()) -> Callable[..., Any]:
    """One program over all devices, from that of each device."""
    if len(self.devices) == 1:
      return function
    # Without checking what varies over the devices: then a sum's gradient is the sum of gradients, as in pmap.
    return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

  def _everywhere_by_pmap(self, function: Callable[..., Any], donate: Sequence[int]) -> compilation.Compilable:
    here = [device for device in self.devices if device.process_index == jax.process_index()]

    @functools.cache
    def mapped(arguments: int) -> Callable[..., Any]:
      return jax.pmap(
        lambda number, *rest: function(*rest),
        AXIS,
        in_axes=(0, *(None,) * arguments),
        out_axes=None,
        devices=self.devices,
        donate_argnums=tuple(place + 1 for place in donate),
      )

    # pmap needs an argument to map over, and places arguments itself. It returns to each process arrays on that
    # process's devices alone.
    @jax.transfer_guard("allow")
    def call(*arguments: Any) -> Any:
      return _rewrapped(mapped(len(arguments))(np.arange(len(here)), *arguments), self.mesh)

    def compile(*arguments: Any) -> None:
      mapped(len(arguments)).lower(np.arange(len(here)), *arguments).compile()

    return compilation.Compilable(call, compile)


def make_layout(
  groups: int = 1, parallel: Parallel = "jit", *, shard: bool = False, devices: int | None = None
) -> Layout:
  """A layout over the first `devices` devices, by default all.

  Raises:
    ConfigurationError: there are fewer; or several processes would leave some out.
  """
  found = jax.devices()
  if devices is not None and not 1 <= devices <= len(found):
    raise ConfigurationError("devices", devices, f"this machine has {len(found)}; at most that")
  if devices not in (None, len(found)) and jax.process_count() > 1:
    raise ConfigurationError("devices", devices, f"several processes take all of theirs, {len(found)}")
  return Layout(tuple(found[:devices]), groups, parallel, shard)


def make_layout_of_one() -> Layout:
  """One device with the whole batch."""
  return Layout(tuple(jax.devices()[:1]))


def replicate[Tree](tree: Tree, mesh: Mesh) -> Tree:
  """Puts whole arrays on every device; every process passes the same."""
  return place(tree, NamedSharding(mesh, PartitionSpec()))


def place_state[Tree](state: Tree, specs: Tree, mesh: Mesh) -> Tree:
  """Places a state, the same in every process, by its specs."""
  return jax.tree.map(lambda leaf, spec: place(leaf, NamedSharding(mesh, spec)), state, specs)


def place[Tree](tree: Tree, sharding: jax.sharding.Sharding) -> Tree:
  """Places arrays, the same in every process, by a sharding."""
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def put(value: np.ndarray) -> jax.Array:
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)

  with jax.transfer_guard("allow"):  # JAX counts this as an implicit transfer.
    return jax.tree.map(put, jax.tree.map(np.asarray, jax.device_get(tree)))


def _rewrapped[Tree](tree: Tree, mesh: Mesh) -> Tree:
  """Makes arrays of the mesh from the replicated arrays that pmap returns to a process; copies nothing."""
  if jax.process_count() == 1:
    return tree
  sharding = NamedSharding(mesh, PartitionSpec())

  def rewrap(leaf: jax.Array) -> jax.Array:
    pieces = [shard.data for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, pieces)

  return jax.tree.map(rewrap, tree)


def placed[Tree](shapes: Tree, specs: Tree | PartitionSpec, mesh: Mesh) -> Tree:
  """Shapes of arrays with their placement, from specs or from one spec for all."""
  if isinstance(specs, PartitionSpec):
    specs = jax.tree.map(lambda _, one=specs: one, shapes)

  def shape(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

  return jax.tree.map(shape, shapes, specs)


def gathered[Tree](tree: Tree, mesh: Mesh) -> Tree:
  """Inside a compiled function: every device gets the whole."""
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def cut[Tree](batch: Tree, mesh: Mesh) -> Tree:
  """Inside a compiled function: every device gets its part of the batch."""
  return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(AXIS)))
