"""The processes of a run meet before JAX joins them: who is missing, or there twice, is said in a line.

JAX's own client aborts a process, with a trace of C++, where the coordinator is not there, a process does not come or
an id comes twice. So the first process listens at the coordinator's port, hears every other's id, tells all of them
whether the run is complete, and leaves the port to JAX.
"""

import json
import os
import socket
import time
from typing import Any

from dn_jax.errors import ConfigurationError


def meet(coordinator: str, count: int, number: int, timeout: float) -> None:
  """Returns once all processes are there.

  Args:
    coordinator: HOST:PORT of process 0.
    count: how many processes there are.
    number: this one's id.
    timeout: seconds to wait for the others.

  Raises:
    ConfigurationError: in every process that can be told, what is wrong.
  """
  host, _, port = coordinator.rpartition(":")
  if number == 0:
    _host(coordinator, int(port), count, timeout)
  else:
    _visit(coordinator, host.strip("[]"), int(port), count, number, timeout)


def _host(coordinator: str, port: int, count: int, timeout: float) -> None:
  end, guests, problem = time.monotonic() + timeout, {}, None
  both = socket.has_dualstack_ipv6()
  try:
    server = socket.create_server(
      ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=count
    )
  except OSError as error:
    fits = f"its port cannot be taken here ({os.strerror(error.errno)}); is there another process 0?"
    raise ConfigurationError("distributed.coordinator", coordinator, fits) from None
  with server:
    while len(guests) < count - 1 and not problem:
      server.settimeout(max(0.01, end - time.monotonic()))
      try:
        guest, _ = server.accept()
      except TimeoutError:
        missing = ", ".join(str(number) for number in range(1, count) if number not in guests)
        problem = f"of {count} processes these did not come in {timeout:g} s: {missing}"
        break
      hello = _hear(guest, 5.0)
      if not hello:  # Somebody who looks what is behind an open port.
        guest.close()
      elif hello["of"] != count:
        problem = f"process {hello['id']} was told of {hello['of']} processes, process 0 of {count}"
        _tell(guest, {"problem": problem})
      elif hello["id"] in guests and not _has_left(guests[hello["id"]]):
        problem = f"two processes have the id {hello['id']}"
        _tell(guest, {"problem": problem})
      else:
        guests[hello["id"]] = guest
    for guest in guests.values():
      _tell(guest, {"problem": problem})
  if problem:
    raise ConfigurationError("distributed.num-processes", count, problem)


def _visit(coordinator: str, host: str, port: int, count: int, number: int, timeout: float) -> None:
  end, reason = time.monotonic() + timeout, ""
  while (left := end - time.monotonic()) > 0:
    try:
      with socket.create_connection((host, port), timeout=min(5.0, left)) as connection:
        connection.sendall(json.dumps({"id": number, "of": count}).encode() + b"\n")
        answer = _hear(connection, left + 5)
    except OSError as error:
      answer, reason = None, error.strerror or str(error)
    if answer and answer["problem"]:
      raise ConfigurationError("distributed.process-id", number, answer["problem"])
    if answer:
      return
    time.sleep(min(0.2, max(0.0, end - time.monotonic())))
  fits = f"not reached in {timeout:g} s ({reason or 'no answer'}); is process 0 running there?"
  raise ConfigurationError("distributed.coordinator", coordinator, fits)


def _has_left(guest: socket.socket) -> bool:
  """Whether a process that came is gone: it was stopped while it waited, and may come again."""
  guest.setblocking(False)
  try:
    return not guest.recv(1, socket.MSG_PEEK)
  except BlockingIOError:
    return False
  except OSError:
    return True
  finally:
    guest.setblocking(True)


def _hear(connection: socket.socket, timeout: float) -> dict[str, Any] | None:
  """A line of JSON; None for anything else."""
  connection.settimeout(timeout)
  try:
    heard = json.loads(connection.makefile().readline(1000))
    return heard if isinstance(heard, dict) and ("problem" in heard or {"id", "of"} <= set(heard)) else None
  except (OSError, ValueError):
    return None


def _tell(connection: socket.socket, message: dict[str, Any]) -> None:
  try:
    connection.sendall(json.dumps(message).encode() + b"\n")
    connection.close()
  except OSError:  # Gone; JAX's own joining will miss it.
    pass
