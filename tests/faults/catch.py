"""Deliberate faults (faults.txt), one at a time in a copy of the checkout: do the tests notice?

    python tests/faults/catch.py                       # every test counts
    python tests/faults/catch.py -m 'not thorough'     # those of `make test`
    python tests/faults/catch.py --only momentum       # faults whose words have this in them

A fault meets the test files that import its module, those that bear its name first; where these pass, the whole suite.
A test that fails without the fault too counts for nothing.
Ends with 1 where a fault was not noticed, with 2 where a line of faults.txt fits no place of the package, or several.
"""

import argparse
import ast
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Fault:
  """What is wrong, in words; and the text of a file that is replaced."""

  words: str
  file: pathlib.Path
  old: str
  new: str


def faults(listed: str, package: pathlib.Path) -> list[Fault]:
  """The faults of a list, each with the one file that has its text.

  Raises:
    ValueError: a line cannot be read, or its text stands nowhere, or more than once.
  """
  sources = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
  found = []
  for line in listed.splitlines():
    if not line or line.startswith("#"):
      continue
    words, colons, change = line.partition(" :: ")
    old, arrow, new = change.partition(" ==> ")
    if not (colons and arrow):
      raise ValueError(f"no 'words :: old ==> new': {line}")
    places = [path for path, source in sources.items() for _ in range(source.count(old))]
    if len(places) != 1:
      raise ValueError(f"{words}: {old!r} stands {len(places)} times in {package.name}/")
    found.append(Fault(words, places[0].relative_to(package.parent), old, new))
  return found


def tests_of(file: pathlib.Path, root: pathlib.Path) -> list[str]:
  """The test files that import a module of the package, those of its name first."""
  module = ".".join(file.with_suffix("").parts)
  found = []
  for path in sorted((root / "tests").rglob("test_*.py")):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and node.module:
        imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
      elif isinstance(node, ast.Import):
        imported |= {alias.name for alias in node.names}
    if module in imported:
      found.append(path)
  found.sort(key=lambda path: file.stem not in path.stem)
  return [str(path.relative_to(root)) for path in found]


@dataclasses.dataclass
class Checkout:
  """A copy of the project to break; `idle` are tests that fail there anyhow."""

  root: pathlib.Path
  flags: list[str]
  idle: list[str] = dataclasses.field(default_factory=list)

  def noticed(self, fault: Fault, *tests: str) -> str | None:
    """The first test that fails with the fault and passes without it; None where there is none."""
    path = self.root / fault.file
    whole = path.read_text()
    while True:
      path.write_text(whole.replace(fault.old, fault.new))
      failed = self._first_failure(*tests)
      path.write_text(whole)
      if failed is None or self._first_failure(failed) is None:
        return failed
      print(f"  fails anyhow: {failed}", flush=True)
      self.idle.append(failed)

  def _first_failure(self, *tests: str) -> str | None:
    """A test, or a file of tests that cannot be imported."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", *self.flags, *tests]
    environment = {
      "JAX_COMPILATION_CACHE_DIR": str(self.root / ".cache" / "compiled"),
      "PYTHONPATH": str(self.root),
      "PYTHONDONTWRITEBYTECODE": "1",
      "COLUMNS": "1000",
    }
    command += [f"--deselect={each}" for each in self.idle]
    done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode in (0, 5):  # 5: of these files no test was chosen.
      return None
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not told:
      raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return told[0].split(" ", 1)[1].split(" - ")[0]


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("-m", default="", metavar="MARKS", help="tests that count, as pytest's -m has it")
  parser.add_argument("--only", default="", metavar="WORDS", help="faults whose words have these in them")
  parser.add_argument("--at-once", default="2", metavar="N", help="pytest's workers for the whole suite")
  given = parser.parse_args()
  try:
    chosen = [
      fault
      for fault in faults((pathlib.Path(__file__).parent / "faults.txt").read_text(), ROOT / "dn_jax")
      if given.only in fault.words
    ]
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  if not chosen:
    print(f"error: --only {given.only}: no fault has these words, see faults.txt", file=sys.stderr)
    return 2
  listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
  names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
  survived = 0
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder) / "checkout"
    for name in filter(None, names):
      (root / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, root / name)
    checkout = Checkout(root, ["-m", given.m] if given.m else [])
    for number, fault in enumerate(chosen, start=1):
      begin = time.monotonic()
      noticed = checkout.noticed(fault, *near) if (near := tests_of(fault.file, root)) else None
      noticed = noticed or checkout.noticed(fault, "-n", given.at_once)
      survived += noticed is None
      took = f"{time.monotonic() - begin:.0f} s"
      print(f"{number}/{len(chosen)} {fault.words}: {noticed or 'NOT NOTICED'} ({took})", flush=True)
  print(f"{len(chosen) - survived} of {len(chosen)} faults were noticed")
  return 1 if survived else 0


if __name__ == "__main__":
  sys.exit(main())
