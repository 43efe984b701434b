"""The program's commit and the versions of its packages."""

import functools
import pathlib
import subprocess
from importlib import metadata

_VERSIONS_OF = ("dn_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
  """By package."""
  return {name: metadata.version(name) for name in _VERSIONS_OF}


def commit() -> str | None:
  """The commit of a git checkout, with a "+" where files differ from it; None elsewhere."""
  here = pathlib.Path(__file__).parent.parent
  try:
    git = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True, timeout=10)
    changed = git(["git", "status", "--porcelain", "--untracked-files=no", "."]).stdout
    return git(["git", "rev-parse", "HEAD"]).stdout.strip() + ("+" if changed else "")
  except (OSError, subprocess.SubprocessError):
    return None
