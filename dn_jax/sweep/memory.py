"""Asks the compiler what memory the training steps of a sweep take, in a process that ends before the runs begin."""

import math
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import jax
import rich.console
import rich.markup

from dn_jax.config import size
from dn_jax.config.network import name_of
from dn_jax.config.resolve import data_name
from dn_jax.config.schema import RunConfig
from dn_jax.distributed import layout
from dn_jax.errors import UserError
from dn_jax.planner import plan as planning
from dn_jax.planner import policy as remat_policy
from dn_jax.planner import targets
from dn_jax.sweep.images import Images
from dn_jax.system import child_processes, compilation

# Bytes of a step, or None and the reason why the step is impossible.
Answer = tuple[int | None, str]


def ask(
  configs: Sequence[RunConfig], found: Sequence[Images], console: rich.console.Console
) -> tuple[list[Answer], str]:
  """Asks a process for the `step_memory` of each run; returns its answers, and this machine's devices for a run.

  The process holds the accelerator, and ends before this returns, so that the runs can have the devices. If it dies,
  the step in question counts as refused, and a new process answers the rest.

  Raises:
    UserError: the process cannot start, for example since another process holds the accelerator.
  """
  answers: list[Answer] = []
  while len(answers) < len(configs):
    pool, worker = _pool(), None
    try:
      try:
        worker, devices = pool.submit(_devices, configs[0].devices).result()
      except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise UserError(f"the process that is asked for memory could not start ({why}); leave --memory out") from None
      for number in range(len(answers), len(configs)):
        config = configs[number]
        title = rich.markup.escape(f"{name_of(config.model)} on {data_name(config)}")
        with console.status(f"memory of {number + 1} of {len(configs)}: {title}"):
          answers.append(pool.submit(answer, config, found[number]).result())
    except BrokenProcessPool:
      answers.append((None, "the process that was asked died (out of memory?)"))
    except KeyboardInterrupt:  # Do not wait for the compiler.
      if worker is not None:
        os.kill(worker, signal.SIGKILL)
      raise
    finally:
      pool.shutdown()
  return answers, devices


def _pool() -> ProcessPoolExecutor:
  return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))


def _begin(parent: int) -> None:
  """In the process: ends it with the sweep's."""
  child_processes.tie(parent)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the sweep, which ends this process.
  compilation.keep_compiled_programs()


def _devices(count: int | None) -> tuple[int, str]:
  """In the process: its id, and the devices of a run as its summary will name them; RuntimeError if there are none."""
  return os.getpid(), targets.here(count).described


def answer(config: RunConfig, found: Images) -> Answer:
  """In the process: the result of `step_memory`, or its error."""
  try:
    return step_memory(config, found), ""
  except (UserError, MemoryError, jax.errors.JaxRuntimeError) as error:
    return None, str(error)


def step_memory(config: RunConfig, found: Images) -> int:
  """Bytes of the training step of a run with these images, on each of its devices of this machine.

  Raises:
    UserError: the compiler refuses the step, or the devices do not fit the run.
  """
  info = found.info
  layout.make_layout(config.statistics_groups, devices=config.devices)
  question = planning.Question(
    config.model, info.num_classes, info.image_shape, config.batch_size, config.statistics_groups, config.accumulation
  )
  where = targets.here(config.devices)
  of_a_picture = math.prod(info.image_shape) + 4  # Bytes, its label included.
  beside = 0 if info.streamed else (found.train + found.valid + found.test) * of_a_picture
  more = size.beyond_momentum(config, info.image_shape[2], info.num_classes)
  policy, _ = remat_policy.settle(question, where, beside + more)
  plan = planning.plan(question.under(policy), where)
  if plan.refusal:
    raise UserError(plan.refusal)
  return plan.peak + more
