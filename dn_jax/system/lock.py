"""A run is carried out by one sweep at a time.

The lock is `flock` on a file in the run's own folder, so that all who share the folder share the lock, wherever they
run: two sweeps, or the workers of a cluster. The kernel gives it back when the last process that holds it has ended,
however it ended; nothing is left behind that a later sweep would have to judge. The run's process inherits it: where
the sweep alone is killed, the lock is held until the run has ended too.

On NFS, Linux turns flock into a lock that the server keeps, for all its hosts (flock(2), "NFS details"); mounted with
`nolock` or `local_lock=flock` it holds on one host alone, as it does on Lustre with `localflock`. A file system that
has no locks at all answers with an error; the run is then carried out without one, as good as can be. So it is in a
bucket (gs://): there one sweep at a time is for people to see to.
"""

import fcntl
import os
import pathlib
from typing import IO

from dn_jax.system import folders

LOCK = "lock"


def take(folder: pathlib.Path) -> IO[bytes] | None:
  """Takes a run for this process and those that inherit the file; None where another has it.

  Args:
    folder: of the run; exists.

  Returns:
    The open file; closing it (in all processes that have it) gives the run back.

  Raises:
    OSError: the folder cannot be written.
  """
  if folders.is_bucket(folder):
    return open(os.devnull, "ab")
  file = (folder / LOCK).open("ab")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.close()
    return None
  except OSError:
    pass
  return file
