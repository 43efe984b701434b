"""Asks a compiler in a process of its own, which can be stopped: a TPU's may take hours, and listens to nobody."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

from dn_jax.errors import UserError
from dn_jax.planner import plan as planning
from dn_jax.planner import targets
from dn_jax.planner.plan import Plan, Question
from dn_jax.system import child_processes, compilation


class Unfinished(Exception):
  """The compiler, whose name this has, took longer than it was given."""

  def __init__(self, compiler: str):
    super().__init__(compiler)
    self.compiler = compiler


def ask(question: Question, target: str, minutes: float) -> tuple[Plan, str, float]:
  """The plan of a question on a target, the compiler's name and the minutes that it took.

  Raises:
    Unfinished: it took longer than `minutes`; the process is ended.
    UserError: the target's compiler is missing, or the process died.
  """
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe(duplex=False)
  process = context.Process(target=_answer, args=(question, target, theirs, os.getpid()), daemon=True)
  process.start()
  theirs.close()
  begin = time.monotonic()
  try:
    found = ours.recv()
    if not isinstance(found, UserError):
      compiler = found
      if not ours.poll(60 * minutes):
        raise Unfinished(compiler)
      found = ours.recv()
  except EOFError:
    process.join()
    raise UserError(f"the process that asked the compiler for {target} died (exit code {process.exitcode})") from None
  finally:
    process.kill()
    process.join()
  if isinstance(found, UserError):
    raise found
  return found, compiler, (time.monotonic() - begin) / 60


def _answer(question: Question, target: str, theirs: Connection, parent: int) -> None:
  """In the process: sends the compiler's name and then the plan, or an error."""
  child_processes.tie(parent)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process.
  compilation.keep_compiled_programs()
  try:
    where = targets.target(target)
    theirs.send(where.compiler)
    theirs.send(planning.plan(question, where))
  except UserError as error:
    theirs.send(error)
