"""What a sweep finds on a machine, and the process that looks."""

import subprocess
import types

import jax
import jax.extend.backend
import pytest

from dn_jax.errors import UserError
from dn_jax.sweep import accelerators
from dn_jax.sweep.accelerators import Accelerators


@pytest.mark.slow
def test_a_process_of_its_own_counts(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
  assert accelerators.count() == Accelerators("cpu", "cpu", 8)


@pytest.mark.slow
def test_what_is_not_there_is_a_line(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "tpu")
  with pytest.raises(UserError, match=r"counts the accelerators failed \(.*tpu.*\); JAX_PLATFORMS=cpu") as error:
    accelerators.count()
  assert "\n" not in str(error.value)


def test_a_process_that_does_not_answer_is_a_line(monkeypatch):
  def hangs(command, timeout, **_):
    raise subprocess.TimeoutExpired(command, timeout)

  monkeypatch.setattr(subprocess, "run", hangs)
  with pytest.raises(UserError, match=r"failed \(no answer within 300 s\)"):
    accelerators.count()


def machine(monkeypatch, platform, kind, coordinates, version="PJRT C API"):
  devices = [types.SimpleNamespace(platform=platform, device_kind=kind, coords=each) for each in coordinates]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  backend = types.SimpleNamespace(platform_version=version)
  monkeypatch.setattr(jax.extend.backend, "get_backend", lambda: backend)


def test_the_cores_of_a_chip_are_no_accelerators_of_their_own(monkeypatch):
  chips = [[x, y, 0] for x in (0, 1) for y in (0, 1)]
  machine(monkeypatch, "tpu", "TPU v3", [chip for chip in chips for _ in range(2)])
  assert accelerators.found() == Accelerators("tpu", "TPU v3", 4, 2)
  machine(monkeypatch, "tpu", "TPU v5 lite", chips)
  assert accelerators.found() == Accelerators("tpu", "TPU v5 lite", 4, 1)


def test_gpus_of_two_makers_are_told_apart(monkeypatch):
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  machine(monkeypatch, "gpu", "NVIDIA H100 80GB HBM3", [None] * 2, "PJRT C API\ncuda 12090")
  assert accelerators.found() == Accelerators("cuda", "NVIDIA H100 80GB HBM3", 2)
  machine(monkeypatch, "gpu", "AMD Instinct MI300X", [None] * 3, "PJRT C API\nrocm 60200")
  assert accelerators.found() == Accelerators("rocm", "AMD Instinct MI300X", 3)


def test_parts_of_a_gpu_are_counted_by_their_names_since_a_process_sees_one(monkeypatch):
  machine(monkeypatch, "gpu", "NVIDIA A100 MIG 1g.5gb", [None])
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1, MIG-2, MIG-3")
  assert accelerators.found() == Accelerators("cuda", "NVIDIA A100 MIG 1g.5gb", 3)
  monkeypatch.setenv("JAX_CUDA_VISIBLE_DEVICES", "0")  # Somebody leaves the others out.
  assert accelerators.found().number == 1
