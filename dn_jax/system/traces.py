"""The traces of errors: a person gets one line of each, and all that is behind it under `--debug`."""

import logging
import os
import sys
import threading
import traceback
import types
import warnings

FLAG = "--debug"
_VARIABLE = "DN_JAX_DEBUG"
# Who logs traces of its own: absl and Orbax under that name, and tasks whose error nobody waits for. Matplotlib warns
# where it cannot keep a cache, and goes on without.
_LOGGERS = ("absl", "asyncio", "orbax", "concurrent.futures", "matplotlib")
# Of a machine without shared memory, which is not used.
_REMARK = ".*joblib will operate in serial mode"


def ask() -> None:
  """Has this process, and those that it starts, show traces."""
  os.environ[_VARIABLE] = "1"


def asked() -> bool:
  """Whether traces are shown."""
  return bool(os.environ.get(_VARIABLE))


def hush() -> None:
  """Keeps libraries' own traces and remarks from the person, unless they were asked for."""
  for name in _LOGGERS:
    logging.getLogger(name).setLevel(logging.ERROR if asked() else logging.CRITICAL + 1)
  sys.excepthook = _of_main_thread
  if not asked():
    warnings.filterwarnings("ignore", _REMARK)
    sys.unraisablehook = lambda unraisable: None  # Errors of what is being removed already.


def _of_main_thread(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
  """Shows an error that nobody caught. Elsewhere than in the main thread it is one of C++, such as TensorStore's."""
  if asked() or threading.current_thread() is threading.main_thread():
    sys.__excepthook__(kind, error, trace)


def show(error: BaseException | None) -> None:
  """Prints an error with all that led to it, also where a line took its place."""
  last = error
  while error:
    error.__suppress_context__ = False
    error = error.__cause__ or error.__context__
  traceback.print_exception(last)
