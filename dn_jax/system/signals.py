"""Being asked to stop (Ctrl-C, or a preemption notice): between two steps, with what was done saved.

Python runs a signal's handler in its main thread, between two of its instructions; a compiler or a long command to the
device keeps it waiting for minutes. So a thread of its own hears of signals here.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# "Try again": the run is saved, and the same command goes on.
EXIT_CODE = 75
# To stop, as SIGTERM says it, but as often as one likes: what a sweep sends its runs. Who signals the sweep may signal
# them too, and of two SIGTERMs the second ends a process.
ASK = signal.SIGUSR1
# More than a `struct sigaction` takes anywhere.
_ACTION_BYTES = 1024

# What is called at an abort; C does not keep it.
_at_abort: Callable | None = None


class Interrupted(Exception):
  """The run stopped because a signal asked it to; all it had done is saved."""

  exit_code = EXIT_CODE


@contextlib.contextmanager
def _heard(numbers: tuple[int, ...], act: Callable[[int, dict[int, ctypes.Array]], None]) -> Iterator[None]:
  """While entered, the first of some signals is noted and not raised; the next ends the process as if nothing was.

  Args:
    numbers: of the signals; ASK is noted too, and never ends anything.
    act: called once, in a thread of its own, whatever the main thread is in; told which came, and the actions there
      were before.
  """
  if threading.current_thread() is not threading.main_thread():  # Elsewhere Python allows no handlers.
    yield
    return
  libc = ctypes.CDLL(None)
  heard = (*numbers, ASK)
  handlers, actions = {}, {number: ctypes.create_string_buffer(_ACTION_BYTES) for number in heard}
  pipe, end = os.pipe()
  os.set_blocking(end, False)

  def listen() -> None:
    acted = told = False
    while byte := os.read(pipe, 1):
      if byte[0] not in heard:
        continue
      if not acted:
        act(byte[0], actions)
        acted = True
      if byte[0] == ASK:
        continue
      if told:  # Both came before the thread saw the first.
        os.kill(os.getpid(), byte[0])
      told = True
      for number in numbers:  # Python's own `signal.signal` is for the main thread.
        libc.signal(number, None)  # SIG_DFL
    os.close(pipe)

  for number in heard:
    libc.sigaction(number, None, actions[number])
    handlers[number] = signal.signal(number, lambda number, frame: None)
  before = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
  listener = threading.Thread(target=listen, daemon=True)
  listener.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(end)
    listener.join()  # It may be about to change what is put back here.
    for number in heard:
      signal.signal(number, handlers[number])
      libc.sigaction(number, actions[number], None)


def at_abort(end: Callable[[bool], None] | None) -> None:
  """Has a function called where C++ aborts the process: in the thread that does, whatever the main thread is in.

  (Python's own handlers wait for the main thread, and an abort waits for nothing.)

  Args:
    end: told whether the thread was running Python; ends the process, by `os._exit`. Where it returns, the abort goes
      on. None: aborts are as before.
  """
  global _at_abort
  called = end and ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: end(sys._getframe().f_back is not None))
  ctypes.CDLL(None).signal(signal.SIGABRT, called)
  _at_abort = called  # C forgets the one before first.


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
  """While entered, a SIGTERM ends the process with a line and the code of one that is to be started again.

  For what comes before training: imports, data, assembling. Nothing is lost by it. A SIGINT ends it too, at once
  wherever it is.
  """

  def leave(number: int, _: object) -> None:
    interrupted = number == signal.SIGINT
    said = "interrupted" if interrupted else "stopped as asked, outside training; the same command goes on"
    print(said, file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGINT if interrupted else EXIT_CODE)

  with _heard((signal.SIGINT, signal.SIGTERM), leave):
    yield


class Interruption:
  """While entered, a SIGINT or SIGTERM is noted, not raised; a second one ends the process at once.

  Of several processes all stop at the same step: JAX's preemption service catches a SIGTERM of any of them and agrees
  on the step. It takes SIGTERM over, and a Python handler set over it would silence it; so both signals are passed on
  to it, as a SIGTERM.
  """

  def __init__(self) -> None:
    import jax  # Takes a second, and signals are to be heard before.

    self._asked = False
    self._polls = 0
    self._several = jax.process_count() > 1
    self._listening = _heard((signal.SIGINT, signal.SIGTERM), _pass_on if self._several else self._note)

  def __enter__(self) -> "Interruption":
    self._listening.__enter__()
    return self

  def __exit__(self, *exception: object) -> None:
    self._listening.__exit__(None, None, None)

  def _note(self, *_: object) -> None:
    self._asked = True

  def asked(self) -> bool:
    """Whether to stop here. Of several processes each asks equally often, and all get True at the same time."""
    if self._several and not self._asked:
      from jax.experimental import multihost_utils

      self._polls += 1
      self._asked = multihost_utils.reached_preemption_sync_point(self._polls)
    return self._asked


def _pass_on(_: int, actions: dict[int, ctypes.Array]) -> None:
  """Has what listened to SIGTERM before hear one."""
  ctypes.CDLL(None).sigaction(signal.SIGTERM, actions[signal.SIGTERM], None)
  signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
