"""Counts this machine's accelerators, in a process that ends: its runs need them, so a sweep itself opens none.

`python -m dn_jax.sweep.accelerators` is that process.
"""

import json
import os
import subprocess
import sys
from typing import NamedTuple

from dn_jax.errors import UserError
from dn_jax.sweep import process
from dn_jax.system import child_processes

# Seconds for it to answer.
_ANSWERS = 300.0


class Accelerators(NamedTuple):
  """What JAX finds on this machine.

  platform: cpu, tpu, cuda or rocm
  kind:     as JAX names it
  number:   of those that processes can have apart: of a TPU its chips
  devices:  of each, as JAX counts them: a chip of a TPU v2, v3 or v7x has two
  """

  platform: str
  kind: str
  number: int
  devices: int = 1


def count() -> Accelerators:
  """Asks the process.

  Raises:
    UserError: it finds no device or does not answer, for example since another process holds the accelerators.
  """
  command = [sys.executable, "-P", "-m", __name__]
  try:
    done = subprocess.run(
      command,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=_ANSWERS,
      env=process.alone(child_processes.environment()),
    )
  except subprocess.TimeoutExpired:
    raise _uncounted(f"no answer within {_ANSWERS:.0f} s") from None
  if done.returncode:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raise _uncounted(lines[-1] if lines else f"exit code {done.returncode}")
  return Accelerators(*json.loads(done.stdout.splitlines()[-1]))


def _uncounted(why: str) -> UserError:
  return UserError(f"the process that counts the accelerators failed ({why}); JAX_PLATFORMS=cpu leaves them alone")


def found() -> Accelerators:
  """Opens this process's devices, and counts them."""
  import jax
  import jax.extend.backend

  devices = jax.local_devices()
  first, number = devices[0], len(devices)
  if first.platform == "tpu":
    number = len({tuple(device.coords) for device in devices})
    return Accelerators("tpu", first.device_kind, number, len(devices) // number)
  if first.platform != "gpu":
    return Accelerators(first.platform, first.device_kind, number)
  if "rocm" in jax.extend.backend.get_backend().platform_version.lower():
    return Accelerators("rocm", first.device_kind, number)
  named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
  opened = os.environ.get("JAX_CUDA_VISIBLE_DEVICES", "all")
  if opened == "all" and all(name.strip().startswith("MIG-") for name in named):
    number = len(named)  # A process sees one part of a GPU, however many it is given (NVIDIA's MIG user guide).
  return Accelerators("cuda", first.device_kind, number)


if __name__ == "__main__":
  child_processes.hold()
  print(json.dumps(found()))
