"""Mistakes that a person can correct, each told in one line."""

import difflib
import errno
import functools
import os
from collections.abc import Iterable

# What a person can do about a refusal of the file system.
_MENDS = {
  errno.EACCES: "get the right to it, or take another",
  errno.EPERM: "get the right to it, or take another",
  errno.ENOENT: "is it still there?",
  errno.ENOTDIR: "a part of the path is no folder; take another",
  errno.EISDIR: "take a file",
  errno.EEXIST: "take another",
  errno.ELOOP: "take the thing itself",
  errno.ENAMETOOLONG: "take a shorter name",
  errno.EROFS: "take another disk",
  errno.ENOSPC: "free space, or remove files where df -i finds too many",
  errno.EDQUOT: "free space, or remove files",
  errno.EMFILE: "allow more of them: ulimit -n 4096",
  errno.ENFILE: "close other programs",
  errno.EIO: "is the disk whole?",
  errno.ESTALE: "mount its file system again",
  errno.ENODEV: "is its disk there?",
}
# Characters of a name that a message shows: the longest path that Linux takes is shown whole.
_LONGEST = 4096
# Likewise of another value, and of a library's words about a file.
_LONGEST_QUOTE = 300


class UserError(Exception):
  """A mistake that a person can correct; shown as one line, without a traceback.

  Args:
    said: the line.
    parts: of a list, each a line of its own below it.
  """

  def __init__(self, said: str, *parts: str):
    super().__init__(said, *parts)

  def __str__(self) -> str:
    return "\n  ".join(self.args)


class ConfigurationError(UserError):
  """A value that does not fit: names the flag, the value and what would fit; `parts` of a list may follow."""

  def __init__(self, flag: str, value: object, fits: str, *parts: str):
    text, longest = shown(value), _LONGEST if isinstance(value, str | os.PathLike) else _LONGEST_QUOTE
    given = f"--{flag} {text if len(text) <= longest else text[:longest] + '...'}".rstrip()
    super().__init__(f"{given}: {fits}", *parts)
    self.flag, self.value, self.fits = flag, value, fits

  def __reduce__(self) -> tuple[type, tuple[object, ...]]:
    """Another process gets it whole."""
    return type(self), (self.flag, self.value, self.fits, *self.args[1:])


def in_a_line(error: BaseException) -> str | None:
  """The line of a mistake, or of a refusal by the file system: what, where, what to do; None for any other error."""
  if isinstance(error, UserError):
    # A line's end, or a terminal's command, is of a name.
    return "\n  ".join(map(shown, error.args))
  if not isinstance(error, OSError) or error.errno not in _MENDS:
    return None
  where = [shown(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
  return ": ".join([" -> ".join(where), reason(error)] if where else [reason(error)])


def reason(error: OSError) -> str:
  """Why the file system refused something, and what a person can do about it."""
  said = error.strerror or str(error).partition("\n")[0]
  return f"{said}; {_MENDS[error.errno]}" if error.errno in _MENDS else said


def first_line(error: BaseException) -> str:
  """What a library says of an error, or its kind where it says nothing: one line, which may quote a damaged file."""
  said = shown((str(error).strip().splitlines() or [type(error).__name__])[0])
  return said if len(said) <= _LONGEST_QUOTE else said[:_LONGEST_QUOTE] + "..."


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
  """Up to four names that are near a wrong one; if some differ in case and hyphens, or by a slip alone, these."""
  names = list(dict.fromkeys(names))
  bare = lambda each: each.lower().replace("-", "").replace("_", "")
  close = functools.partial(difflib.get_close_matches, name.lower(), names, n=4)
  return [each for each in names if bare(each) == bare(name)] or close(cutoff=0.85) or close(cutoff=0.5)


def near(name: str, names: Iterable[str], otherwise: str | None = None) -> str:
  """An offer of the names near a wrong one; where none is near, what `otherwise` says, or all."""
  names = list(names)
  found = nearest(name, names)
  return f"did you mean {' or '.join(found)}?" if found else otherwise or f"one of {', '.join(names)}"
