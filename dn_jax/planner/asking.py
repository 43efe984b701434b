"""Asks a compiler in a process of its own, which can be stopped: a TPU's may take hours, and listens to nobody."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from dn_jax.errors import UserError
from dn_jax.planner import plan as planning
from dn_jax.planner import targets
from dn_jax.planner.plan import Plan, Question
from dn_jax.system import child_processes, compilation


class Known(NamedTuple):
  """What a compiler said of a program before, see `Told`; `plan` is None where it was not finished."""

  compiler: str
  program: str
  plan: Plan | None


class Told(NamedTuple):
  """What a compiler says.

  plan:     None where it is known that the compiler does not finish
  compiler: its name and versions
  program:  see `dn_jax.planner.plan.program_of`
  minutes:  that it took; None: it was not asked, the same compiler had answered for the same program
  """

  plan: Plan | None
  compiler: str
  program: str
  minutes: float | None


class Unfinished(Exception):
  """A compiler took longer than it was given for a program, see `Told`."""

  def __init__(self, compiler: str, program: str):
    super().__init__(compiler)
    self.compiler, self.program = compiler, program


def ask(question: Question, target: str, minutes: float, known: Known | None = None) -> Told:
  """The plan of a question on a target; without compiling, where `known` is of this compiler and program.

  Raises:
    Unfinished: it took longer than `minutes`; the process is ended.
    UserError: the target's compiler is missing, or the process died.
  """
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe(duplex=False)
  process = context.Process(target=_answer, args=(question, target, theirs, os.getpid()), daemon=True)
  process.start()
  theirs.close()
  try:
    compiler, program = _said(ours)
    if known and known[:2] == (compiler, program):
      return Told(known.plan, compiler, program, None)
    begin = time.monotonic()
    if not ours.poll(60 * minutes):
      raise Unfinished(compiler, program)
    return Told(_said(ours), compiler, program, (time.monotonic() - begin) / 60)
  except EOFError:
    process.join()
    raise UserError(f"the process that asked the compiler for {target} died (exit code {process.exitcode})") from None
  finally:
    process.kill()
    process.join()


def _said(ours: Connection) -> Any:
  found = ours.recv()
  if isinstance(found, UserError):
    raise found
  return found


def _answer(question: Question, target: str, theirs: Connection, parent: int) -> None:
  """In the process: sends the compiler's name with the program, and then the plan, or an error."""
  child_processes.tie(parent)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process.
  compilation.keep_compiled_programs()
  try:
    where = targets.target(target)
    theirs.send((where.compiler, planning.program_of(question, where)))
    theirs.send(planning.plan(question, where))
  except UserError as error:
    theirs.send(error)
