"""What the environment of each run has, so that runs at once have accelerators of their own.

The variables of TPUs are those of Google's and JAX's own multi-process set-ups. No TPU has confirmed them.
"""

import pytest

from dn_jax.config.sweep import Sweep
from dn_jax.errors import ConfigurationError
from dn_jax.sweep.accelerators import Accelerators
from dn_jax.sweep.lanes import Lanes, divide

GPUS = Accelerators("cuda", "NVIDIA H100", 4)
V5E = Accelerators("tpu", "TPU v5 lite", 8)
EIGHT = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=8"}


def lanes(found, asked=None, environment=None, **flags):
  return divide(found, Sweep(**flags), asked, environment or {})


def of_tpu(chips, bounds, port):
  return {
    "TPU_VISIBLE_CHIPS": chips,
    "TPU_VISIBLE_DEVICES": None,
    "TPU_CHIPS_PER_PROCESS_BOUNDS": bounds,
    "TPU_PROCESS_BOUNDS": "1,1,1",
    "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
    "TPU_PROCESS_PORT": port,
    "CLOUD_TPU_TASK_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_CHIPS_PER_HOST_BOUNDS": None,
    "TPU_HOST_BOUNDS": None,
  }


def test_unless_told_every_gpu_has_a_run():
  found = lanes(GPUS)
  assert found.environments == [{"CUDA_VISIBLE_DEVICES": name} for name in "0123"]
  assert found.devices == 1
  assert found.said == "4 x NVIDIA H100: 4 runs at once, each on 1"


@pytest.mark.parametrize(
  ("given", "flags", "own"),
  [
    ("2,5,6,7", {}, ["2", "5", "6", "7"]),
    ("2, 5, 6, 7", {"devices_per_run": 2}, ["2,5", "6,7"]),
    ("GPU-8932f937,GPU-1,GPU-2,GPU-3", {"at_once": 2}, ["GPU-8932f937", "GPU-1"]),
    ("3,2,1,0,-1,9", {"devices_per_run": 3}, ["3,2,1"]),  # CUDA stops reading at -1.
    ("MIG-a,MIG-b,MIG-c,MIG-d", {}, ["MIG-a", "MIG-b", "MIG-c", "MIG-d"]),
  ],
)
def test_gpus_are_chosen_out_of_those_that_a_scheduler_gave(given, flags, own):
  found = lanes(GPUS, environment={"CUDA_VISIBLE_DEVICES": given}, **flags)
  assert found.environments == [{"CUDA_VISIBLE_DEVICES": names} for names in own]


@pytest.mark.parametrize(
  ("visible", "opened", "own"),
  [
    (None, "1, 3", ["1", "3"]),
    ("4,5,6,7", "3,1", ["7", "5"]),
    ("GPU-a,GPU-b,GPU-c", "0,2", ["GPU-a", "GPU-c"]),
  ],
)
def test_gpus_are_chosen_out_of_those_that_jax_was_given(visible, opened, own):
  given = {"JAX_CUDA_VISIBLE_DEVICES": opened} | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
  found = lanes(Accelerators("cuda", "NVIDIA H100", 2), environment=given)
  assert found.environments == [{"CUDA_VISIBLE_DEVICES": name, "JAX_CUDA_VISIBLE_DEVICES": None} for name in own]
  amd = {name.replace("CUDA_VIS", "HIP_VIS").replace("JAX_HIP", "JAX_ROCM"): value for name, value in given.items()}
  found = lanes(Accelerators("rocm", "AMD Instinct MI300X", 2), environment=amd)
  assert [each["HIP_VISIBLE_DEVICES"] for each in found.environments] == own
  assert all(each["JAX_ROCM_VISIBLE_DEVICES"] is None for each in found.environments)


def test_accelerators_that_cannot_be_divided_so_have_one_run_at_a_time():
  chosen = {"TPU_VISIBLE_CHIPS": "0,1,2,3"}
  for found, asked, environment in (
    (V5E, 3, {}),
    (Accelerators("tpu", "TPU v4", 4), 2, chosen),
    (Accelerators("METAL", "Metal", 2), None, {}),
    (Accelerators("METAL", "Metal", 4), 2, {}),
  ):
    division = lanes(found, asked, environment)
    assert list(division.environments) == [{}]
    assert (division.devices, division.said) == (found.number, "")


def test_gpus_of_amd_have_their_own_variable_and_the_other_must_not_contradict_it():
  found = lanes(Accelerators("rocm", "AMD Instinct MI300X", 2), environment={"CUDA_VISIBLE_DEVICES": "4,6"})
  assert found.environments == [
    {"HIP_VISIBLE_DEVICES": "4", "CUDA_VISIBLE_DEVICES": None},
    {"HIP_VISIBLE_DEVICES": "6", "CUDA_VISIBLE_DEVICES": None},
  ]


def test_a_run_on_a_chip_of_a_tpu_has_bounds_and_a_port_of_its_own():
  found = lanes(V5E)
  assert found.environments == [of_tpu(str(chip), "1,1,1", str(8476 + chip)) for chip in range(8)]
  assert found.devices == 1


def test_a_chip_with_two_cores_is_two_devices_of_one_run():
  found = lanes(Accelerators("tpu", "TPU v3", 4, 2))
  assert [each["TPU_VISIBLE_CHIPS"] for each in found.environments] == ["0", "1", "2", "3"]
  assert found.devices == 2


def test_several_chips_of_a_tpu_lie_as_they_do_on_the_host():
  four = Accelerators("tpu", "TPU v4", 4)
  assert lanes(four, devices_per_run=2).environments == [
    of_tpu("0,1", "1,2,1", "8476"),
    of_tpu("2,3", "1,2,1", "8478"),
  ]
  assert lanes(V5E, devices_per_run=4).environments == [
    of_tpu("0,1,2,3", "2,2,1", "8476"),
    of_tpu("4,5,6,7", "2,2,1", "8480"),
  ]


@pytest.mark.parametrize("variable", ["TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"])
def test_chips_are_chosen_out_of_those_that_a_scheduler_gave(variable):
  found = lanes(Accelerators("tpu", "TPU v4", 2), environment={variable: "2,3"})
  assert found.environments == [of_tpu("2", "1,1,1", "8478"), of_tpu("3", "1,1,1", "8479")]


def test_a_run_that_has_the_whole_machine_finds_the_environment_as_it_is():
  for found, flags in (
    (GPUS, {"devices_per_run": 4}),
    (V5E, {"devices_per_run": 8}),
    (Accelerators("cuda", "NVIDIA H100", 1), {}),
    (Accelerators("cpu", "cpu", 8), {}),  # On a processor one run goes at once unless told.
    (Accelerators("cpu", "cpu", 1), {"at_once": 1}),
  ):
    division = lanes(found, environment=EIGHT, **flags)
    assert list(division.environments) == [{}]
    assert division.said == ""


def test_virtual_devices_are_as_many_as_a_run_has():
  found = lanes(Accelerators("cpu", "cpu", 8), environment=EIGHT, at_once=8)
  own = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=1"}
  assert found == Lanes([own] * 8, 1, "8 x cpu: 8 runs at once, each on 1")
  found = lanes(Accelerators("cpu", "cpu", 8), environment=EIGHT, at_once=2, devices_per_run=4)
  assert [each["XLA_FLAGS"][-2:] for each in found.environments] == ["=4", "=4"]
  named = EIGHT | {"JAX_NUM_CPU_DEVICES": "6"}
  found = lanes(Accelerators("cpu", "cpu", 6), environment=named, devices_per_run=2)
  assert found.environments == [{"JAX_NUM_CPU_DEVICES": "2"}]


def test_a_processor_takes_as_many_runs_as_a_person_wants():
  assert lanes(Accelerators("cpu", "cpu", 1), at_once=3).environments == [{}, {}, {}]


@pytest.mark.parametrize(("asked", "own"), [(2, ["0,1", "2,3"]), (3, ["0,1,2"]), (None, ["0", "1", "2", "3"])])
def test_runs_that_ask_for_devices_themselves_get_so_many(asked, own):
  assert [each["CUDA_VISIBLE_DEVICES"] for each in lanes(GPUS, asked).environments] == own


@pytest.mark.parametrize(
  ("found", "asked", "flags", "line"),
  [
    (GPUS, None, {"at_once": 5}, r"--at-once 5: this machine has 4 x NVIDIA H100, and each run takes 1; at most 4"),
    (
      GPUS,
      None,
      {"at_once": 3, "devices_per_run": 2},
      "--at-once 3: this machine has 4 x NVIDIA H100, and each run takes 2; at most 2",
    ),
    (Accelerators("cpu", "cpu", 8), None, {"at_once": 9}, "--at-once 9: this machine has 8 x cpu, .* at most 8"),
    (GPUS, None, {"devices_per_run": 5}, "--devices-per-run 5: this machine has 4; at most that"),
    (
      Accelerators("cpu", "cpu", 1),
      None,
      {"at_once": 2, "devices_per_run": 2},
      "--devices-per-run 2: .* has 1; at most",
    ),
    (GPUS, 5, {}, "--devices 5: this machine has 4; at most that"),
    (GPUS, 2, {"devices_per_run": 1}, "--devices-per-run 1: a run asks for --devices 2; give at least as many"),
    (
      V5E,
      None,
      {"devices_per_run": 2},
      "--devices-per-run 2: how 2 of these 8 TPU chips lie is not known; 1, or all 8",
    ),
    (V5E, 3, {"devices_per_run": 3}, "--devices-per-run 3: how 3 of these 8 TPU chips lie is not known; 1, or all 8"),
    (V5E, 3, {"at_once": 2}, "--at-once 2: this machine has 8 x TPU v5 lite, and each run takes 8; at most 1"),
    (
      Accelerators("METAL", "Metal", 4),
      None,
      {"devices_per_run": 2},
      "--devices-per-run 2: how a process gets 2 of these 4 x Metal is not known; all 4",
    ),
    (Accelerators("cuda", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 2), 2, {}, "--devices 2: a process sees one part"),
    (
      Accelerators("cuda", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 2),
      None,
      {"devices_per_run": 2},
      "--devices-per-run 2: a process sees one part of a GPU; 1",
    ),
  ],
)
def test_what_this_machine_cannot_do_is_a_line(found, asked, flags, line):
  with pytest.raises(ConfigurationError, match=f"^{line}") as error:
    lanes(found, asked, EIGHT, **flags)
  assert "\n" not in str(error.value)


def test_how_chips_lie_that_a_scheduler_chose_is_not_known():
  with pytest.raises(ConfigurationError, match="--devices-per-run 2: how 2 of these 4 TPU chips lie is not known"):
    lanes(Accelerators("tpu", "TPU v4", 4), environment={"TPU_VISIBLE_CHIPS": "1,3,5,7"}, devices_per_run=2)
