"""A process that answers questions about runs: it has the accelerator while the sweep is planned, and gives it back."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax

from dn_jax.config.schema import RunConfig
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.system import child_processes, compilation


class Refused(Exception):
  """There is no answer: the compiler refused the step, or memory did not hold it."""


class Child:
  """The process, begun at the first question; one that died is begun anew at the next. It ends with this one.

  start: seconds from beginning it to its being ready, the last time; None before.
  """

  def __init__(self) -> None:
    self._context = multiprocessing.get_context("spawn")
    self._process: multiprocessing.process.BaseProcess | None = None
    self.start: float | None = None

  def __enter__(self) -> "Child":
    return self

  def __exit__(self, *exception: object) -> None:
    self._end()

  def ask(self, question: Callable[[RunConfig], Any], config: RunConfig) -> Any:
    """Has the process answer.

    Args:
      question: a function of a module.
      config: resolved.

    Raises:
      Refused: it has no answer.
      UserError: the process does not start.
    """
    if self._process is None:
      self._begin()
    try:
      self._connection.send((question, config))
      answer = self._connection.recv()
    except (EOFError, OSError):
      self._process.join()
      code, self._process = self._process.exitcode, None
      raise Refused(f"the process that was asked ended with code {code}") from None
    if isinstance(answer, Exception):
      raise answer
    return answer

  def _begin(self) -> None:
    begin = time.monotonic()
    self._connection, theirs = self._context.Pipe()
    self._process = self._context.Process(target=_answer, args=(theirs, os.getpid()), daemon=True)
    self._process.start()
    theirs.close()
    try:
      trouble = self._connection.recv()
    except EOFError:
      trouble = f"it ended with code {self._process.exitcode}"
    if trouble:
      self._end()
      raise UserError(f"the process that the sweep is planned in could not start ({trouble}); see --no-memory")
    self.start = time.monotonic() - begin

  def _end(self) -> None:
    if self._process is not None:
      self._process.kill()
      self._process.join()
      self._process = None


def _answer(connection: Connection, parent: int) -> None:
  child_processes.tie(parent)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # A Ctrl-C is for the sweep, which ends this process.
  compilation.keep_compiled_programs()
  try:
    jax.devices()
    connection.send(None)
  except RuntimeError as error:  # The accelerator is another process's, say.
    connection.send(str(error).splitlines()[0])
    return
  while True:
    try:
      question, config = connection.recv()
    except EOFError:
      return
    try:
      answer = question(config)
    except (ConfigurationError, Refused, MemoryError, jax.errors.JaxRuntimeError) as error:
      answer = Refused(str(error))
    except Exception as error:
      answer = error
    connection.send(answer)
