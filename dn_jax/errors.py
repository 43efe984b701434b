"""Mistakes that a person can correct, each told in one line."""

import difflib
from collections.abc import Iterable

# Characters of a value that a message shows; the longest path that Linux takes is shown whole.
_LONGEST = 4096


class UserError(Exception):
  """A mistake that a person can correct; shown as one line, without a traceback."""


class ConfigurationError(UserError):
  """A value that does not fit: names the flag, the value and what would fit."""

  def __init__(self, flag: str, value: object, fits: str):
    text = shown(value)
    super().__init__(f"--{flag} {text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}: {fits}")
    self.flag, self.value, self.fits = flag, value, fits

  def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
    """Another process gets it whole."""
    return type(self), (self.flag, self.value, self.fits)


def shown(name: object) -> str:
  """A name as it is printed: bytes that are not UTF-8, and control characters, as escapes such as \\xe9."""
  return "".join(
    f"\\x{ord(each) - 0xDC00:02x}"
    if "\udc80" <= each <= "\udcff"
    else each
    if each.isprintable()
    else ascii(each)[1:-1]
    for each in str(name)
  )


def shown_lines(text: str) -> str:
  """Lines as they are printed, each by `shown`."""
  return "\n".join(map(shown, text.splitlines()))


def nearest(name: str, names: Iterable[str]) -> list[str]:
  """Up to four names that are near a wrong one."""
  return difflib.get_close_matches(name.lower(), list(names), n=4, cutoff=0.5)


def near(name: str, names: Iterable[str]) -> str:
  """An offer of the names near a wrong one, or of all where none is near."""
  names = list(names)
  found = nearest(name, names)
  return f"did you mean {' or '.join(found)}?" if found else f"one of {', '.join(names)}"
