"""Stops a run between two steps when a signal asks for it: Ctrl-C, or a preemption notice.

Python runs signal handlers in its main thread, which a compiler or a long command to the device may block for minutes.
So a separate thread listens to signals here.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# EX_TEMPFAIL: the run is saved, and the same command resumes it.
EXIT_CODE = 75
# A sweep sends its runs this rather than SIGTERM: whoever stops the sweep may send them a SIGTERM too, and a second one
# would end them at once.
ASK = signal.SIGUSR1
# More than a `struct sigaction` takes anywhere.
_ACTION_BYTES = 1024

# The function called at an abort; C keeps no reference.
_at_abort: Callable | None = None


class Interrupted(Exception):
  """The run was stopped by a signal, and is saved."""

  exit_code = EXIT_CODE


@contextlib.contextmanager
def _heard(numbers: tuple[int, ...], act: Callable[[int, dict[int, ctypes.Array]], None]) -> Iterator[None]:
  """While entered, the first of some signals is caught; the next one has its default effect.

  Args:
    numbers: of the signals; ASK is always caught too.
    act: called once with the signal's number and the earlier actions by number, in a separate thread, even while the
      main one is blocked.
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
      if told:  # Both came before the thread handled the first.
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
    listener.join()  # It may be about to change the handlers that are restored here.
    for number in heard:
      signal.signal(number, handlers[number])
      libc.sigaction(number, actions[number], None)


def at_abort(end: Callable[[bool], None] | None) -> None:
  """Has a function called when C++ aborts the process: in that thread, where Python's handlers wait for the main one.

  Args:
    end: told whether the thread was running Python; ends the process by `os._exit`. If it returns, the abort continues.
      None: removes the function.
  """
  global _at_abort
  called = end and ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: end(sys._getframe().f_back is not None))
  ctypes.CDLL(None).signal(signal.SIGABRT, called)
  _at_abort = called  # C forgets the one before first.


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
  """While entered, before training, a SIGTERM ends the process with a line and `EXIT_CODE`; nothing is lost.

  A SIGINT ends it too, as Ctrl-C ends any program.
  """

  def leave(number: int, _: object) -> None:
    interrupted = number == signal.SIGINT
    said = "interrupted" if interrupted else "stopped as asked, outside training; the same command goes on"
    print(said, file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGINT if interrupted else EXIT_CODE)

  with _heard((signal.SIGINT, signal.SIGTERM), leave):
    yield


class Interruption:
  """While entered, the first SIGINT or SIGTERM is recorded; a second one ends the process at once.

  Several processes stop at the same step, on which JAX's preemption service agrees after a SIGTERM in any of them. A
  Python handler would replace the service's own, so both signals are passed on to it as a SIGTERM.
  """

  def __init__(self) -> None:
    import jax  # Takes a second, and signals must be caught before.

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
    """Whether to stop here. Several processes must call this equally often; all get True in the same call."""
    if self._several and not self._asked:
      from jax.experimental import multihost_utils

      self._polls += 1
      self._asked = multihost_utils.reached_preemption_sync_point(self._polls)
    return self._asked


def _pass_on(_: int, actions: dict[int, ctypes.Array]) -> None:
  """Sends a SIGTERM to the handler there was before."""
  ctypes.CDLL(None).sigaction(signal.SIGTERM, actions[signal.SIGTERM], None)
  signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
