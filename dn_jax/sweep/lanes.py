"""Gives each run that a machine carries out accelerators of its own, by variables of its environment."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dn_jax.config.sweep import Sweep
from dn_jax.errors import ConfigurationError
from dn_jax.sweep.accelerators import Accelerators

# What the environment of a lane's runs has in place of the sweep's; None: it lacks the variable.
Lane = Mapping[str, str | None]

# The variable that says which accelerators a process sees, and others that say the same. Each run's are chosen out of
# the first that is set, which a scheduler may have done.
_VISIBLE = {
  "cuda": ("CUDA_VISIBLE_DEVICES",),
  "rocm": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
  "tpu": ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"),
}
# JAX's own variable for a platform: indices into those, of which it then opens these alone.
_OPENED = {"cuda": "JAX_CUDA_VISIBLE_DEVICES", "rocm": "JAX_ROCM_VISIBLE_DEVICES"}
# How so many chips lie, of so many on a host; neighbours have neighbouring numbers. (JAX, `_get_tpu_bounds` of
# jax/_src/test_multiprocess.py, for TPU v2 to v7x.)
_BOUNDS = {(2, 4): "1,2,1", (4, 8): "2,2,1"}
# A run's port is this and its first chip's number, so sweeps that were given different chips of a host keep apart.
_TPU_PORT = 8476
_VIRTUAL = "--xla_force_host_platform_device_count="


class Lanes(NamedTuple):
  """How a machine is divided.

  environments: of each lane; as many runs go at once
  devices:      of a run, as JAX counts them; None: all that there are
  said:         a line about it; empty where a run has the whole machine
  """

  environments: Sequence[Lane] = ({},)
  devices: int | None = None
  said: str = ""


def divide(found: Accelerators, sweep: Sweep, asked: int | None, environment: Mapping[str, str]) -> Lanes:
  """Divides this machine between the runs of a sweep.

  Args:
    found: its accelerators.
    sweep: says how many runs go at once, and how many accelerators each has.
    asked: the most that a run's own --devices asks for; None: no run does.
    environment: of the sweep.

  Raises:
    ConfigurationError: it has too few accelerators, or TPU chips that cannot be divided so.
  """
  given = (sweep.at_once, sweep.devices_per_run)
  if given == (None, None) and (found.platform == "cpu" or found.number == 1):
    return Lanes()
  per_run = _per_run(found, sweep.devices_per_run, asked, environment)
  most = found.number // per_run
  at_once = sweep.at_once or (1 if found.platform == "cpu" else most)
  # A processor may have any number of processes; devices that somebody made of it are as good as accelerators.
  if at_once > most and (found.platform != "cpu" or found.number > 1):
    fits = f"this machine has {found.number} x {found.kind}, and each run takes {per_run}; at most {most}"
    raise ConfigurationError("at-once", at_once, fits)
  if per_run == found.number:
    environments: list[Lane] = [{}] * at_once
  else:
    environments = [_lane(found, per_run, number, environment) for number in range(at_once)]
  said = f"{found.number} x {found.kind}: {at_once} runs at once, each on {per_run}"
  return Lanes(environments, per_run * found.devices, said if at_once > 1 or per_run < found.number else "")


def _per_run(found: Accelerators, given: int | None, asked: int | None, environment: Mapping[str, str]) -> int:
  """Accelerators of each run."""
  if given is None:
    per_run = -(-(asked or 1) // found.devices)
    if per_run > found.number:
      raise ConfigurationError("devices", asked, f"this machine has {found.number * found.devices}; at most that")
    if per_run > 1 and " MIG " in found.kind:
      raise ConfigurationError("devices", asked, "a process sees one part of a GPU; 1")
    if _undivided(found, per_run, environment):
      return found.number
  else:
    per_run = given
    if per_run > found.number:
      raise ConfigurationError("devices-per-run", per_run, f"this machine has {found.number}; at most that")
    if asked and asked > per_run * found.devices:
      fits = f"a run asks for --devices {asked}; give at least as many, or leave one of the two out"
      raise ConfigurationError("devices-per-run", per_run, fits)
    if per_run > 1 and " MIG " in found.kind:
      raise ConfigurationError("devices-per-run", per_run, "a process sees one part of a GPU; 1")
    if why := _undivided(found, per_run, environment):
      raise ConfigurationError("devices-per-run", per_run, why)
  return per_run


def _undivided(found: Accelerators, per_run: int, environment: Mapping[str, str]) -> str | None:
  """Why a run cannot have so many accelerators for itself, with what fits; None where it can."""
  if per_run == found.number or found.platform == "cpu":
    return None
  if found.platform not in _VISIBLE:
    return f"how a process gets {per_run} of these {found.number} x {found.kind} is not known; all {found.number}"
  named = any(environment.get(name) for name in _VISIBLE[found.platform])
  if found.platform == "tpu" and per_run > 1 and (named or (per_run, found.number) not in _BOUNDS):
    return f"how {per_run} of these {found.number} TPU chips lie is not known; 1, or all {found.number}"
  return None


def _lane(found: Accelerators, per_run: int, number: int, environment: Mapping[str, str]) -> Lane:
  """The environment of a lane, by its number."""
  if found.platform == "cpu":
    if "JAX_NUM_CPU_DEVICES" in environment:  # For JAX it counts more than the flag.
      return {"JAX_NUM_CPU_DEVICES": str(per_run)}
    others = [flag for flag in environment.get("XLA_FLAGS", "").split() if not flag.startswith(_VIRTUAL)]
    return {"XLA_FLAGS": " ".join([*others, f"{_VIRTUAL}{per_run}"])}
  variable, *others = _VISIBLE[found.platform]
  names = _names(found, environment)
  own = names[number * per_run : (number + 1) * per_run]
  lane: dict[str, str | None] = {variable: ",".join(own), **dict.fromkeys(others)}
  if (opened := _OPENED.get(found.platform)) in environment:
    lane[opened] = None  # Its indices were into what the sweep sees.
  if found.platform == "tpu":
    bounds = "1,1,1" if per_run == 1 else _BOUNDS[per_run, found.number]
    lane |= _tpu_process(bounds, _TPU_PORT + int(own[0]))
  return lane


def _names(found: Accelerators, environment: Mapping[str, str]) -> list[str]:
  """The names of the accelerators that JAX opened here, as the variable of their platform takes them."""
  named = next((environment[name] for name in _VISIBLE[found.platform] if environment.get(name)), None)
  names = [name.strip() for name in named.split(",")] if named else None
  opened = environment.get(_OPENED.get(found.platform, ""), "all")
  if opened == "all":
    return names or [str(each) for each in range(found.number)]
  return [names[int(index)] if names else index.strip() for index in opened.split(",")]


def _tpu_process(bounds: str, port: int) -> Lane:
  """What lets a process take some of a host's chips for itself, beside `TPU_VISIBLE_CHIPS`.

  From Google's and JAX's own use of it (gist.github.com/skye/f82ba45d2445bb19d53545538754f9a3, `_main` of
  jax/_src/test_multiprocess.py); libtpu 0.0.50 knows each name. The old names of the bounds must not say otherwise.
  """
  return {
    "TPU_CHIPS_PER_PROCESS_BOUNDS": bounds,
    "TPU_PROCESS_BOUNDS": "1,1,1",
    "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
    "TPU_PROCESS_PORT": str(port),
    "CLOUD_TPU_TASK_ID": "0",
    # Else bounds of 2,2,1 take libtpu's lock on the whole host (`TryAcquireTpuLock` in XLA).
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_CHIPS_PER_HOST_BOUNDS": None,
    "TPU_HOST_BOUNDS": None,
  }
