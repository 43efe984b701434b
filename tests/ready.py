"""Whether this machine can run the tests; where it cannot, a line says what is missing, and the exit code is 2.

python tests/ready.py install    # room for what `make test` installs
python tests/ready.py            # what is installed, and room for what tests write
"""

import importlib.metadata
import pathlib
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
# GiB. Measured: .venv takes 3.0, and the tests write less than 0.2.
_TO_INSTALL, _TO_RUN = 4.0, 0.5


def lacks(requirements: str) -> list[str]:
  """Names of pinned requirements that apply to this machine and are not installed."""
  from packaging.requirements import Requirement

  found = [Requirement(line) for line in requirements.splitlines() if line and not line.lstrip().startswith("#")]
  installed = {each.name.lower().replace("_", "-") for each in importlib.metadata.distributions() if each.name}
  wanted = [each.name for each in found if each.marker is None or each.marker.evaluate()]
  return [name for name in wanted if name.lower().replace("_", "-") not in installed]


def crowded(folder: pathlib.Path, gigabytes: float) -> str:
  """What is wrong with a folder that has less room; empty where it has it."""
  try:
    free = shutil.disk_usage(folder).free / 2**30
  except OSError as error:
    return f"{folder}: cannot be looked at ({error.strerror})"
  return f"{folder}: {free:.1f} GiB are free, {gigabytes:g} GiB are needed" if free < gigabytes else ""


def trouble(step: str) -> str:
  """What this machine lacks for `install` or `run`; empty where it lacks nothing."""
  if step == "install":
    return crowded(ROOT, _TO_INSTALL)
  try:
    missing = lacks((ROOT / "requirements-test.txt").read_text())
  except ImportError as error:
    missing = [error.name]
  if missing:
    return f"{', '.join(missing)}: not installed, and the tests need them; rm .venv/.test, then make test again"
  try:
    folder = pathlib.Path(tempfile.gettempdir())
  except OSError as error:
    return f"no folder for temporary files ({error.strerror})"
  return crowded(folder, _TO_RUN) or crowded(ROOT, _TO_RUN)


if __name__ == "__main__":
  if said := trouble(*sys.argv[1:] or ["run"]):
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)
