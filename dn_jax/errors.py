"""A mistake that a person can mend, as one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
  """Something a person can put right; shown as one line, without a traceback."""


class ConfigurationError(UserError):
  """A value that does not fit: names the flag, the value and what would fit."""

  def __init__(self, flag: str, value: object, fits: str):
    super().__init__(f"--{flag} {value}: {fits}")
    self.flag, self.value, self.fits = flag, value, fits

  def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
    """Another process gets it whole."""
    return type(self), (self.flag, self.value, self.fits)


def nearest(name: str, names: Iterable[str]) -> list[str]:
  """Up to four of the names that a wrong one may be meant for; none where none is near."""
  return difflib.get_close_matches(name.lower(), list(names), n=4, cutoff=0.5)


def near(name: str, names: Iterable[str]) -> str:
  """Names to offer in place of a wrong one: the near ones, or all of them where none is near."""
  names = list(names)
  found = nearest(name, names)
  return f"did you mean {' or '.join(found)}?" if found else f"one of {', '.join(names)}"
