"""A run's folder while the run is carried out: nobody else has it, and it leads nowhere else."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

from dn_jax.config.schema import RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.runs import records
from dn_jax.system import folders, lock


@contextlib.contextmanager
def held(folder: pathlib.Path, config: RunConfig) -> Iterator[None]:
  """Has the folder of a resolved run to itself: the run's own, an empty one, or one that is made here.

  Unless the run begins meanwhile (`records.create`), nothing of it stays.

  Raises:
    ConfigurationError: the folder cannot be written, or holds a link, another run, or anything else.
    TakenError: another process is at work on it.
  """
  with contextlib.ExitStack() as stack:
    with records.written(folder):
      begun = (folder / "config.json").exists()
      if begun:
        records.check_config(folder, config)
      elif folder.exists() and (not folder.is_dir() or _foreign(folder)):
        raise ConfigurationError("out", folder, "is not a run's folder, and not empty; take another")
      records.check_own(folder)
      stack.callback(_remove_empty, folders.make(folder))
      stack.enter_context(lock.held(folder, lock.RUN))
    stack.callback(_remove_unused, folder)
    yield


def _foreign(folder: pathlib.Path) -> bool:
  """Whether there is anything in a folder but what a run leaves that was killed before it began."""
  return any(path.name != lock.RUN for path in folder.iterdir())


def _remove_unused(folder: pathlib.Path) -> None:
  """Removes the lock's file of a run that has not begun. It is still locked: whoever waits for it takes a new one."""
  with contextlib.suppress(OSError):
    if not folders.is_bucket(folder) and not (folder / "config.json").exists():
      (folder / lock.RUN).unlink()


def _remove_empty(made: Sequence[pathlib.Path]) -> None:
  with contextlib.suppress(OSError):
    for folder in made:
      folder.rmdir()
