"""Several processes, usually one a host, as one run: finding each other, and doing together what only one may do."""

import contextlib
import functools
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dn_jax.errors import ConfigurationError, UserError, in_a_line
from dn_jax.system import provenance, signals

if TYPE_CHECKING:
  from dn_jax.config.schema import DistributedConfig

# A process ends with it when another is lost.
LOST_EXIT_CODE = 76
# JAX's errors of a step that fails by itself, not for want of another process.
_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
# Words in errors of any type when another process is gone, from exchanges and from the coordination service.
_SIGNS_OF_LOSS = ("gloo", "nccl", "coordination", "unavailable", "deadline_exceeded", "heartbeat", "barrier")
_LOST = "the same command, in all of them, goes on from the last checkpoint"

# Set above 1 where a scheduler started several processes; JAX finds the rest by itself.
SCHEDULERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


class AgreedError(UserError):
  """An error that every process raises at the same time."""


def join(config: "DistributedConfig") -> None:
  """Joins the processes of a run, before anything is computed; does nothing for a single process.

  Raises:
    ConfigurationError: a coordinator that cannot be reached, or processes that do not come.
    AgreedError: one process has other devices, versions or code; raised in all.
  """
  found = config.auto or any(int(os.environ.get(name) or 1) > 1 for name in SCHEDULERS)
  given = (config.coordinator, config.num_processes, config.process_id)
  if given == (None, None, None):
    if not found:
      return
    given = _detected(config.timeout)
  _look(given[0], given[2], config.timeout)
  with _joining(*given, config.timeout):
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
  signals.at_abort(functools.partial(_say_lost, given[2]))
  with ending_together():
    _compare(*given[1:], config.timeout)


def _detected(timeout: int) -> tuple[str, int, int]:
  """The coordinator, the number of processes and this one's id, as a TPU pod, SLURM or Open MPI tells JAX."""
  from jax._src.clusters import ClusterEnv

  reason = "no TPU pod, SLURM or Open MPI"
  try:
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout)[:3]
  except Exception as error:  # Of whatever it asks: environments, files, servers.
    found, reason = (None, None, None), str(error).partition("\n")[0]
  if None in found:
    raise ConfigurationError("distributed.auto", True, f"JAX does not find the other processes ({reason})")
  return found


def _look(coordinator: str, number: int, timeout: int) -> None:
  """Refuses a coordinator whose port is taken, in process 0, or does not answer in time, in any other."""
  host, _, port = coordinator.rpartition(":")
  if number == 0:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as own:
      own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        own.bind(("", int(port)))  # JAX's own shares a port with whoever else listens there.
      except OSError as error:
        fits = f"its port cannot be taken here ({os.strerror(error.errno)}); is there another process 0?"
        raise ConfigurationError("distributed.coordinator", coordinator, fits) from None
    return
  end, reason = time.monotonic() + timeout, "no answer"
  while (left := end - time.monotonic()) > 0:
    try:
      socket.create_connection((host.strip("[]"), int(port)), timeout=min(5.0, left)).close()
      return
    except OSError as error:
      reason = error.strerror or str(error)
    time.sleep(min(0.2, max(0.0, end - time.monotonic())))
  fits = f"not reached in {timeout} s ({reason}); is process 0 running there?"
  raise ConfigurationError("distributed.coordinator", coordinator, fits)


@contextlib.contextmanager
def _joining(coordinator: str, count: int, number: int, timeout: int) -> Iterator[None]:
  """While entered, an abort of JAX's is one line with exit code 2 in place of pages of C++.

  JAX aborts a process whose peers do not come. Standard error is kept aside to be read then, except for Python's own
  words; without an abort all of it is shown at the end.
  """
  from jax._src import distributed

  jaxlib, service = distributed._jax, distributed._jax.get_distributed_runtime_service
  with tempfile.TemporaryFile() as words, open(os.dup(2), "w", buffering=1, errors="backslashreplace") as shown:

    def end(_: bool) -> None:
      said = os.pread(words.fileno(), 2**20, 0)
      fault = _fault(said.decode(errors="replace"), coordinator, count, number, timeout)
      os.write(shown.fileno(), f"error: {fault}\n".encode(errors="backslashreplace") if fault else said)
      if number == 0:  # The coordinator is here, and is telling the others the same.
        time.sleep(1)
      os._exit(2 if fault else 128 + signal.SIGABRT)

    sys.stderr.flush()
    # The service would wait an hour; it alone knows who is missing.
    jaxlib.get_distributed_runtime_service = functools.partial(service, cluster_register_timeout=timeout)
    os.dup2(words.fileno(), 2)
    try:
      signals.at_abort(end)
      with contextlib.redirect_stderr(shown):
        yield
    finally:
      signals.at_abort(None)
      os.dup2(shown.fileno(), 2)
      os.write(2, os.pread(words.fileno(), 2**20, 0))
      jaxlib.get_distributed_runtime_service = service


def _fault(words: str, coordinator: str, count: int, number: int, timeout: int) -> ConfigurationError | None:
  """The fault behind JAX's words at an abort before all have joined; None: they are not about other processes."""
  status = re.search(r"JAX distributed service .*absl::Status: (\w+): (.*)", words)
  if not status:
    return None
  reached = re.search(r"reached the barrier: \d+/(\d+)\.\n.*timed out task names:\n((?:\d+\n)*)", words)
  if status[1] == "ALREADY_EXISTS":
    return ConfigurationError("distributed.process-id", number, f"two processes have the id {number}")
  if status[1] == "INVALID_ARGUMENT":
    fits = f"process {number} was told of {count} processes, process 0 of fewer"
  elif not reached:
    fits = f"process 0 is not there, or not for long enough ({status[1]}: {status[2]})"
    return ConfigurationError("distributed.coordinator", coordinator, fits)
  elif int(reached[1]) != count:
    fits = f"process {number} was told of {count} processes, process 0 of {reached[1]}"
  else:
    missing = ", ".join(map(str, sorted(map(int, reached[2].split()))))
    twice = "; two processes had one id" if "more recent barrier call" in words else ""
    fits = f"of {count} processes these did not come in {timeout} s: {missing}{twice}"
  return ConfigurationError("distributed.num-processes", count, fits)


def _say_lost(number: int, runs_python: bool) -> None:
  """Of a process that JAX aborts once it has joined: the coordinator is gone, or reports that another process is.

  JAX hears of that in a thread of its own. An abort of a thread that runs Python is this process's own fault, which
  starting again would not mend.
  """
  if runs_python:
    return
  words = f"error: process {number} was ended: it or another process of the run is lost; {_LOST}\n"
  os.write(2, words.encode(errors="backslashreplace"))
  os._exit(LOST_EXIT_CODE)


def _compare(count: int, number: int, timeout: int) -> None:
  """Refuses processes that cannot be one run, before any exchange, which needs as many devices in each.

  Raises:
    AgreedError: the first difference; raised in all.
  """
  from jax._src import distributed

  client = distributed.global_state.client
  told = lambda kind, other: json.loads(client.blocking_key_value_get(f"dn_jax/{kind}/{other}", 1000 * timeout))

  # Counts come first: a process that was told of more would wait for their devices.
  client.key_value_set(f"dn_jax/processes/{number}", json.dumps(count))
  first = told("processes", 0)
  for other in range(first):
    if (found := told("processes", other)) != first:
      fits = f"process {other} was told of {found} processes, process 0 of {first}"
      raise AgreedError(str(ConfigurationError("distributed.num-processes", count, fits)))
  own = {"devices": jax.local_device_count()} | provenance.versions() | {"commit": provenance.commit()}
  client.key_value_set(f"dn_jax/program/{number}", json.dumps(own))
  first = told("program", 0)
  for other in range(1, count):
    for name, value in told("program", other).items():
      # The code need not be a checkout everywhere.
      if value != first[name] and None not in (value, first[name]):
        raise AgreedError(f"process {other} is not as process 0 is: {name} {value}, not {first[name]}")


@contextlib.contextmanager
def ending_together(*agreed: type[Exception]) -> Iterator[None]:
  """Ends one of several processes at once where it fails alone; the others end when they miss it.

  An orderly exit would wait for the others, and these for it.

  Args:
    *agreed: errors that all processes raise at the same time, besides `AgreedError`; they pass.
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
    elif (line := in_a_line(error)) is not None:
      code = 2
      print(f"error: {line}", file=sys.stderr)
    elif reason := _sign_of_loss(error):
      code = LOST_EXIT_CODE
      print(f"error: another process of the run is lost ({reason}); {_LOST}", file=sys.stderr)
    else:
      traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _sign_of_loss(error: BaseException | None) -> str | None:
  """The first line of an error, or of its cause, that speaks of a lost process; JAX and Orbax raise ValueError too."""
  while error:
    reason = str(error).partition("\n")[0]
    if not reason.startswith(_OWN_FAULTS) and any(sign in reason.lower() for sign in _SIGNS_OF_LOSS):
      return reason
    error = error.__cause__
  return None


def is_first() -> bool:
  """Whether this process writes the records and speaks."""
  return jax.process_index() == 0


def by_first(action: Callable[[], Any]) -> Any:
  """Runs an action in the first process; all get its result, as JSON gives it back, or its error.

  Raises:
    AgreedError: the action's `UserError`, or refusal by the file system, in every process.
  """
  if jax.process_count() == 1:
    return action()
  found: dict[str, Any] = {}
  if is_first():
    try:
      found = {"result": action()}
    except (UserError, OSError) as error:
      if (line := in_a_line(error)) is None:
        raise
      found = {"error": line}
  found = json.loads(_gather(json.dumps(found))[0])
  if "error" in found:
    raise AgreedError(found["error"])
  return found["result"]


def together[Result](action: Callable[[], Result]) -> Result:
  """Runs an action in every process; where it fails in one, it fails in all, with the same words.

  Raises:
    AgreedError: a `UserError` of one of them, or a refusal by its file system.
  """
  if jax.process_count() == 1:
    return action()
  result, words = None, ""
  try:
    result = action()
  except (UserError, OSError) as error:
    if (words := in_a_line(error)) is None:
      raise
  found = _gather(words)
  for number, each in enumerate(found):
    if each:
      raise AgreedError(each if len(set(found)) == 1 else f"process {number}: {each}")
  return result


def everyone(holds: bool) -> bool:
  """Whether something holds in every process; all of them ask at the same time."""
  if jax.process_count() == 1:
    return holds
  with jax.transfer_guard("allow"):  # Within the loop's guard, which counts the exchange as an implicit transfer.
    return "no" not in _gather("yes" if holds else "no")


def agree(flags: dict[str, Any]) -> None:
  """Refuses processes whose flags or data differ from the first one's.

  Raises:
    AgreedError: the first difference; raised in all.
  """
  if jax.process_count() == 1:
    return
  from dn_jax.config.nested import difference  # One process joins nothing, and may do without the flags' checks.

  records = [json.loads(text) for text in _gather(json.dumps(flags))]
  for number, record in enumerate(records):
    if lines := difference(records[0], record):
      raise AgreedError(f"process {number} was not started as process 0 was: {'; '.join(lines)}")


def _gather(text: str) -> list[str]:
  """Every process's text, in all of them; names of files that are not UTF-8 have lone surrogates."""
  from jax.experimental import multihost_utils

  content = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8)
  sizes = np.ravel(multihost_utils.process_allgather(np.int32(content.size)))
  padded = np.zeros(max(1, sizes.max()), np.uint8)
  padded[: content.size] = content
  rows = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes().decode(errors="surrogatepass") for row, size in zip(rows, sizes, strict=True)]
