"""Lets one sweep at a time carry a run out.

The lock is `flock` on a file in the run's folder: two sweeps, or the workers of a cluster, share it with the folder.
The kernel releases it when the last process that holds it has ended, however it ended. The run's process inherits it,
so it outlives a sweep that is killed alone.

On NFS the server keeps the lock for all hosts (flock(2), "NFS details"). Mounted with `nolock` or `local_lock=flock`,
or on Lustre with `localflock`, it holds on one host alone. In a bucket (gs://), and on file systems without locks, a
run is carried out without one: there people must start one sweep at a time.
"""

import fcntl
import os
import pathlib
from typing import IO

from dn_jax.system import folders

LOCK = "lock"


def take(folder: pathlib.Path) -> IO[bytes] | None:
  """Locks a run's existing folder for this process and those that inherit the returned file.

  Returns:
    The open file, which releases the lock when all processes that have it close it; None where another has the lock.

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
