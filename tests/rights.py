"""What a person without an administrator's rights meets, also where tests are run as root."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import pytest

# linux/capability.h: version 3; to read, write and search whatever belongs to whom, and to act as its owner.
_VERSION, _OVERRIDE = 0x20080522, (1, 2, 3)


@contextlib.contextmanager
def of_a_person() -> Iterator[None]:
  """While entered, the file system refuses this thread what it refuses a person: root's rights are put off."""
  if sys.platform != "linux":
    pytest.skip("capabilities are Linux's")
  libc = ctypes.CDLL(None, use_errno=True)
  header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
  assert libc.capget(header, sets) == 0
  before = sets[0]
  for each in _OVERRIDE:
    sets[0] &= ~(1 << each)
  assert libc.capset(header, sets) == 0
  try:
    yield
  finally:
    sets[0] = before
    assert libc.capset(header, sets) == 0
