"""The devices that a training step can be compiled for: this machine's, or chips that are not there."""

import dataclasses
import importlib.util
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from dn_jax.errors import ConfigurationError

if TYPE_CHECKING:
  import jax  # Which takes seconds, and names are looked at before.

# The name of this process's own devices.
HERE = "here"

_GB = 10**9
_GIB = 2**30
_TERA = 10**12


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device of a kind, as its maker publishes it (dense, without sparsity).

  memory:        bytes
  bandwidth:     bytes a second, between memory and the cores
  peak:          FLOPs a second of matrix products, by `--model.precision` for float32 numbers, and under `bfloat16`
  topology:      the smallest one that has such a device
  kinds:         JAX's names of such a device
  flops_a_cycle: of a TPU's matrix units together, bfloat16; None elsewhere
  """

  memory: int
  bandwidth: float
  peak: Mapping[str, float]
  topology: str
  kinds: tuple[str, ...]
  flops_a_cycle: int | None = None

  @property
  def clock(self) -> float | None:
    """Cycles a second: the published peak over what the matrix units do in a cycle; None where that is unknown."""
    return self.peak["bfloat16"] / self.flops_a_cycle if self.flops_a_cycle else None


def _tpu(
  topology: str, memory: int, gigabytes: float, teraflops: float, units: tuple[int, int], kinds: tuple[str, ...]
) -> Chip:
  # float32 products take one bfloat16 pass by default, three or six at higher precision.
  peak = {"bfloat16": teraflops, "default": teraflops, "high": teraflops / 3, "highest": teraflops / 6}
  count, side = units
  rates = {name: value * _TERA for name, value in peak.items()}
  return Chip(memory, gigabytes * _GB, rates, topology, kinds, 2 * count * side * side)


# Sources: Google's pages of each TPU version; NVIDIA's data sheet of the H100 (SXM). A v4 chip is two devices, a v5p
# one of two cores. Each core has four matrix units of 128x128, so the clocks are 1.05, 1.50 and 1.75 GHz. Of a v6e
# Google publishes two units of 256x256, which would need 3.5 GHz for the peak. libtpu 0.0.50 takes a product of two
# bfloat16 matrices of 4096x4096 to be 301,616 cycles: 455,675 FLOPs a cycle, more than two such units do at one
# multiply-add per cell and cycle, and 0.87 of four. So it counts four, at 1.75 GHz. (v4, v5e, v5p: 0.89, 0.97, 0.96.)
CHIPS: Mapping[str, Chip] = {
  "v4": _tpu("v4:2x2x1", 16 * _GIB, 614, 137.5, (4, 128), ("TPU v4",)),
  "v5e": _tpu("v5e:1x1", 16 * _GIB, 819, 197, (4, 128), ("TPU v5 lite", "TPU v5e")),
  "v5p": _tpu("v5p:2x2x1", 95 * _GIB, 2765, 459, (8, 128), ("TPU v5", "TPU v5p")),
  "v6e": _tpu("v6e:1x1", 32 * _GIB, 1640, 918, (4, 256), ("TPU v6 lite", "TPU v6e")),
  "h100": Chip(
    84_942_979_072,
    3352 * _GB,
    {"bfloat16": 989 * _TERA, "default": 494.5 * _TERA, "high": 494.5 * _TERA / 3, "highest": 67 * _TERA},
    "1x1x1",
    ("NVIDIA H100 80GB HBM3",),
  ),
}


def kind_of(device: "jax.Device") -> str | None:
  """The name of a device's chip among `CHIPS`; None where it is none of them."""
  return next((name for name, chip in CHIPS.items() if device.device_kind in chip.kinds), None)


# The compiler needs it for a GPU that it cannot ask.
_GPU_DESCRIPTIONS = {
  "h100": """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
""",
}


# For libtpu where there is no TPU.
_NO_CLOUD = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1"}


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices to compile for.

  name:     as a person gave it
  devices:  those that share a batch; none where an answer was kept elsewhere
  chip:     its published numbers; None where it is none of `CHIPS`
  memory:   bytes of one device; None where it is unknown
  compiler: its name and versions, by which answers are kept
  options:  for the compiler
  """

  name: str
  devices: Sequence["jax.Device"]
  chip: Chip | None
  memory: int | None
  compiler: str
  options: Mapping[str, int | bool | str] = dataclasses.field(default_factory=dict)

  @property
  def described(self) -> str:
    """How many devices of what kind."""
    return f"{len(self.devices)} x {self.devices[0].device_kind}" if self.devices else self.name


def targets(names: Sequence[str]) -> list[Target]:
  """The targets of names, in their order; see `target`.

  This machine comes last: once JAX has looked for devices, it loads no other compiler.
  """
  found = {name: target(name) for name in sorted(set(names), key=HERE.__eq__)}
  return [found[name] for name in names]


def target(name: str) -> Target:
  """The target of a name.

  Args:
    name: `here`; one chip, such as `v5e` or `h100`; or a TPU slice by its topology, such as `v5e:2x2`. Chips
      need not be there: a TPU's compiler is libtpu, a GPU's comes with JAX's CUDA wheels.

  Raises:
    ConfigurationError: an unknown name or topology, or its compiler is not installed.
  """
  check(name)
  kind, _, topology = name.partition(":")
  if name == HERE:
    return here()
  return _gpu(kind) if kind in _GPU_DESCRIPTIONS else _tpu_slice(name, kind, topology)


def check(name: str) -> None:
  """Refuses the name of no target.

  Raises:
    ConfigurationError: an unknown name.
  """
  kind, _, topology = name.partition(":")
  if name != HERE and kind not in CHIPS:
    raise ConfigurationError("target", name, f"one of {', '.join((HERE, *CHIPS))}, or a TPU slice such as v5e:2x2")
  if kind in _GPU_DESCRIPTIONS and topology:
    raise ConfigurationError("target", name, f"one GPU is planned for; {kind}")


def kept(name: str, compiler: str) -> Target:
  """The target of an answer that is kept: one chip, whose compiler need not be installed here."""
  chip = CHIPS[name]
  return Target(name, (), chip, chip.memory, compiler)


def check_chips(names: Iterable[str]) -> None:
  """Refuses what is not the name of one chip.

  Raises:
    ConfigurationError: an unknown name, a slice, or this machine.
  """
  for name in names:
    if name not in CHIPS:
      raise ConfigurationError("target", name, f"one chip of {', '.join(CHIPS)}")


def here(count: int | None = None) -> Target:
  """This process's devices, the first so many or all."""
  import jax

  devices = jax.devices()[:count]
  own = jax.local_devices()[:count]  # Each of several processes has its own host's memory.
  first = own[0]
  if first.platform == "cpu":
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(own)
  else:
    memory = (first.memory_stats() or {}).get("bytes_limit")
  compiler = f"jaxlib {metadata.version('jaxlib')} for {len(devices)} x {first.device_kind} ({platform.machine()})"
  kind = kind_of(first)
  return Target(HERE, devices, CHIPS[kind] if kind else None, memory, compiler)


def _tpu_slice(name: str, kind: str, topology: str) -> Target:
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigurationError("target", name, "needs the TPU compiler: pip install -e '.[tpu]'")
  # Otherwise libtpu asks a cloud's metadata server for the kind of TPU, and waits; or complains that it knows none.
  # What is compiled is for the topology, whatever is said here.
  for setting, value in _NO_CLOUD.items():
    os.environ.setdefault(setting, value)
  chip = CHIPS[kind]
  devices = _described(name, platform="tpu", topology_name=name if topology else chip.topology)
  compiler = f"libtpu {metadata.version('libtpu')}, jaxlib {metadata.version('jaxlib')}"
  return Target(name, devices if topology else devices[:1], chip, chip.memory, compiler)


def _gpu(name: str) -> Target:
  versions = [
    f"{found.name} {found.version}"
    for found in metadata.distributions()
    if found.name.startswith("jax-cuda") and found.name.endswith("-plugin")
  ]
  if not versions:
    raise ConfigurationError("target", name, "needs the GPU compiler: pip install -e '.[cuda]'")
  # Otherwise JAX looks for a GPU whose versions fit, and without one leaves its compiler out.
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  chip = CHIPS[name]
  devices = _described(
    name, platform="cuda", topology_name="", topology=chip.topology, target_config=_GPU_DESCRIPTIONS[name]
  )
  options = {"xla_gpu_autotune_level": 0}  # Choosing kernels by trying them needs the GPU.
  compiler = f"{', '.join(sorted(versions))}, jaxlib {metadata.version('jaxlib')}"
  return Target(name, devices, chip, chip.memory, compiler, options)


def _described(name: str, **description: str) -> Sequence["jax.Device"]:
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(**description).devices
  except (NotImplementedError, RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise ConfigurationError("target", name, f"its compiler does not describe it ({reason})") from None
