"""The program's commit and the versions of its packages."""

import functools
import pathlib
import subprocess
from collections.abc import Iterable
from importlib import metadata

import dn_jax

PACKAGE = pathlib.Path(dn_jax.__file__).parent
# Written by setup.py into what it builds; a checkout has none.
BUILT_FROM = PACKAGE / "system" / "commit.txt"
_VERSIONS_OF = ("dn_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
  """By package."""
  return {name: metadata.version(name) for name in _VERSIONS_OF}


def as_loaded(files: Iterable[pathlib.Path]) -> bool:
  """Whether files of the package are what this process has loaded: none has changed since it began."""
  return all(max(status.st_mtime_ns, status.st_ctime_ns) < dn_jax.LOADED for status in map(pathlib.Path.stat, files))


def commit() -> str | None:
  """The commit of a git checkout, or the one that a wheel was built from; a "+" where files differ. None elsewhere."""
  try:
    git = functools.partial(subprocess.run, cwd=PACKAGE, capture_output=True, text=True, check=True, timeout=10)
    # An environment may lie in a checkout of something else.
    git(["git", "ls-files", "--error-unmatch", "__init__.py"])
    changed = git(["git", "status", "--porcelain", "--untracked-files=no", "."]).stdout
    return git(["git", "rev-parse", "HEAD"]).stdout.strip() + ("+" if changed else "")
  except (OSError, subprocess.SubprocessError):
    return BUILT_FROM.read_text() if BUILT_FROM.exists() else None
