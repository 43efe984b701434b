"""Several processes, usually one a host, as one run: finding each other, and doing together what only one may do."""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dn_jax.config.schema import DistributedConfig, difference
from dn_jax.distributed import rendezvous
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.system import provenance

# Of a process that stops since another is gone.
LOST_EXIT_CODE = 76
# What JAX raises of a step that fails by itself, and not for want of another process.
_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
# What is said in errors of any type where another process is gone: by exchanges, by the coordination service.
_SIGNS_OF_LOSS = ("gloo", "nccl", "coordination", "unavailable", "deadline_exceeded", "heartbeat", "barrier")
_LOST = "the same command, in all of them, goes on from the last checkpoint"

# What tells that a scheduler started several processes; JAX finds the rest by itself.
SCHEDULERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


class AgreedError(UserError):
  """What every process raises at the same time."""


def join(config: DistributedConfig) -> None:
  """Joins the processes of a run, before anything is computed; nothing happens where there is only one.

  Raises:
    ConfigurationError: flags that do not go together, or a coordinator that cannot be reached.
    AgreedError: in every process, where one has other devices, other versions or other code.
  """
  found = config.auto or any(int(os.environ.get(name) or 1) > 1 for name in SCHEDULERS)
  given = (config.coordinator, config.num_processes, config.process_id)
  if given != (None, None, None):
    _check(config)
  elif found:
    given = _detected(config.timeout)
  else:
    return
  rendezvous.meet(*given, config.timeout)
  try:
    jax.distributed.initialize(
      *given,
      initialization_timeout=config.timeout,
      heartbeat_timeout_seconds=config.heartbeat,
      shutdown_timeout_seconds=max(30, config.heartbeat),
    )
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise ConfigurationError("distributed.process-id", given[2], f"{given[0]} does not take it ({reason})") from None
  _leave_last_words()
  with ending_together():
    _compare(config.timeout)


def _detected(timeout: int) -> tuple[str, int, int]:
  """What JAX finds out of a TPU pod, SLURM or Open MPI: the coordinator, how many processes, which one this is."""
  from jax._src.clusters import ClusterEnv

  reason = "no TPU pod, SLURM or Open MPI"
  try:
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout)[:3]
  except Exception as error:  # Of whatever it asks: environments, files, servers.
    found, reason = (None, None, None), str(error).partition("\n")[0]
  if None in found:
    raise ConfigurationError("distributed.auto", True, f"JAX does not find the other processes ({reason})")
  return found


def _compare(timeout: int) -> None:
  """Refuses processes that cannot be one run: before anything is exchanged, which takes as many devices in each.

  Raises:
    AgreedError: in every process, with the first difference there is.
  """
  from jax._src import distributed

  client, number = distributed.global_state.client, jax.process_index()
  own = {"devices": jax.local_device_count()} | provenance.versions() | {"commit": provenance.commit()}
  client.key_value_set(f"dn_jax/program/{number}", json.dumps(own))
  for other in range(jax.process_count()):
    texts = (client.blocking_key_value_get(f"dn_jax/program/{each}", 1000 * timeout) for each in (0, other))
    first, found = map(json.loads, texts)
    for name, value in found.items():
      # The code need not be a checkout everywhere.
      if value != first[name] and None not in (value, first[name]):
        raise AgreedError(f"process {other} is not as process 0 is: {name} {value}, not {first[name]}")


def _check(config: DistributedConfig) -> None:
  """Flags of a run that finds its processes by them."""
  for flag, value in (
    ("coordinator", config.coordinator),
    ("num-processes", config.num_processes),
    ("process-id", config.process_id),
  ):
    if value is None:
      raise ConfigurationError(f"distributed.{flag}", value, "goes together with the other two; give all three")
  if config.num_processes < 1:
    raise ConfigurationError("distributed.num-processes", config.num_processes, "must be at least 1")
  if not 0 <= config.process_id < config.num_processes:
    fits = f"from 0 to {config.num_processes - 1}, each once"
    raise ConfigurationError("distributed.process-id", config.process_id, fits)
  host, _, port = config.coordinator.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise ConfigurationError("distributed.coordinator", config.coordinator, "HOST:PORT of the first process")


def _leave_last_words() -> None:
  """Has a line said where this process ends without a word of its own.

  JAX aborts a process, from a thread where no Python runs, once the coordinator is gone or reports that another
  process is. A shell that waits for this process's end says what that means.
  """
  words = f"error: process {jax.process_index()} was ended: it or another process of the run is lost; {_LOST}"
  shell = subprocess.Popen(
    ["sh", "-c", f"trap '' INT TERM; read -r word || echo '{words}' >&2"],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
  )

  def end() -> None:
    with contextlib.suppress(OSError):
      shell.stdin.write(b"done\n")
      shell.stdin.close()

  atexit.register(end)
  global _end
  _end = end


_end: Callable[[], None] = lambda: None


@contextlib.contextmanager
def ending_together(*agreed: type[Exception]) -> Iterator[None]:
  """Where one of several processes fails alone, it ends at once, and the others do when they miss it.

  Leaving in an orderly way would wait for the others, and these for it.

  Args:
    *agreed: what all processes raise at the same time, besides `AgreedError`; passed on.
  """
  try:
    yield
  except (AgreedError, *agreed):
    raise
  except (Exception, KeyboardInterrupt) as error:
    if jax.process_count() == 1:
      raise
    code = 1
    if isinstance(error, KeyboardInterrupt):
      code = 130
      print("interrupted", file=sys.stderr)
    elif isinstance(error, UserError):
      code = 2
      print(f"error: {error}", file=sys.stderr)
    elif reason := _sign_of_loss(error):
      code = LOST_EXIT_CODE
      print(f"error: another process of the run is lost ({reason}); {_LOST}", file=sys.stderr)
    else:
      traceback.print_exc()
    sys.stderr.flush()
    _end()
    os._exit(code)


def _sign_of_loss(error: BaseException | None) -> str | None:
  """What an error, or what it comes from, says of another process that is gone; JAX and Orbax raise ValueError too."""
  while error:
    reason = str(error).partition("\n")[0]
    if not reason.startswith(_OWN_FAULTS) and any(sign in reason.lower() for sign in _SIGNS_OF_LOSS):
      return reason
    error = error.__cause__
  return None


def is_first() -> bool:
  """Whether this process is the one that writes records and speaks."""
  return jax.process_index() == 0


def by_first(action: Callable[[], Any]) -> Any:
  """Does something in the first process; all get its result, as JSON gives it back, or its error.

  Raises:
    AgreedError: the action's `UserError`, in every process.
  """
  if jax.process_count() == 1:
    return action()
  found: dict[str, Any] = {}
  if is_first():
    try:
      found = {"result": action()}
    except UserError as error:
      found = {"error": str(error)}
  found = json.loads(_broadcast(json.dumps(found)))
  if "error" in found:
    raise AgreedError(found["error"])
  return found["result"]


def _broadcast(text: str) -> str:
  from jax.experimental import multihost_utils

  content = np.frombuffer(text.encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
  content = content if is_first() else np.zeros(size, np.uint8)
  return multihost_utils.broadcast_one_to_all(content).tobytes().decode()


def together[Result](action: Callable[[], Result]) -> Result:
  """Every process does something; where it fails in one, it fails in all, with the same words.

  Raises:
    AgreedError: a `UserError` of one of them.
  """
  if jax.process_count() == 1:
    return action()
  result, words = None, ""
  try:
    result = action()
  except UserError as error:
    words = str(error)
  found = _gather(words)
  for number, each in enumerate(found):
    if each:
      raise AgreedError(each if len(set(found)) == 1 else f"process {number}: {each}")
  return result


def agree(flags: dict[str, Any]) -> None:
  """Refuses processes that were started otherwise than the first, or with other data.

  Raises:
    AgreedError: in every process, with the first difference there is.
  """
  if jax.process_count() == 1:
    return
  records = [json.loads(text) for text in _gather(json.dumps(flags))]
  for number, record in enumerate(records):
    if lines := difference(records[0], record):
      raise AgreedError(f"process {number} was not started as process 0 was: {'; '.join(lines)}")


def _gather(text: str) -> list[str]:
  """Every process's text, in all of them."""
  from jax.experimental import multihost_utils

  content = np.frombuffer(text.encode(), np.uint8)
  sizes = np.ravel(multihost_utils.process_allgather(np.int32(content.size)))
  padded = np.zeros(max(1, sizes.max()), np.uint8)
  padded[: content.size] = content
  rows = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]
