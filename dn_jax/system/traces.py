"""The traces of errors: a person gets one line of each, and all that is behind it under `--debug`."""

import logging
import os
import traceback

FLAG = "--debug"
_VARIABLE = "DN_JAX_DEBUG"
# Who logs traces of its own: absl and Orbax's modules under that name, and tasks whose error nobody waits for.
_LOGGERS = ("absl", "asyncio", "orbax", "concurrent.futures")


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


def show(error: BaseException | None) -> None:
  """Prints an error with all that led to it, also where a line took its place."""
  last = error
  while error:
    error.__suppress_context__ = False
    error = error.__cause__ or error.__context__
  traceback.print_exception(last)
