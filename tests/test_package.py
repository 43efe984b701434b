"""The sdist and the wheel: what is in them, and that the commands work where only they are installed."""

import email
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from typing import NamedTuple

import pytest
from conftest import HANGS, ROOT
from packaging.requirements import Requirement
from setuptools.config.setupcfg import read_configuration

NAME = "dn_jax-0.1.0"
BESIDE = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "setup.py")


def run(*command: object, cwd: pathlib.Path) -> str:
  """What a command prints; the checkout is in no path of it."""
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  done = subprocess.run(
    list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=HANGS, env=environment
  )
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
  return done.stdout


def build(tree: pathlib.Path, *what: str) -> pathlib.Path:
  """Builds a source tree, and returns the folder of what was built."""
  run(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", tree.parent / "dist", cwd=tree)
  return tree.parent / "dist"


class Built(NamedTuple):
  """tree: a commit of this checkout's files as they are; dist: the sdist of it, and the wheel from that sdist"""

  tree: pathlib.Path
  commit: str
  dist: pathlib.Path


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
  tree = tmp_path_factory.mktemp("package") / "tree"
  passed = shutil.ignore_patterns(".git", ".venv", ".cache", "__pycache__", "*.egg-info", "build", "dist", "runs")
  shutil.copytree(ROOT, tree, ignore=lambda folder, names: passed(folder, names) if folder == str(ROOT) else [])
  git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
  run(*git, "init", "-q", cwd=tree)
  run(*git, "add", ".", cwd=tree)
  run(*git, "commit", "-q", "-m", "All", cwd=tree)
  return Built(tree, run("git", "rev-parse", "HEAD", cwd=tree).strip(), build(tree))


def of_the_package(built: Built) -> dict[str, bytes]:
  """The package's files by name, with what is in them."""
  names = run("git", "ls-files", "dn_jax", cwd=built.tree).split()
  return {name: (built.tree / name).read_bytes() for name in names}


@pytest.mark.thorough
def test_the_wheel_has_the_package_with_its_data_and_the_commit_and_nothing_else(built):
  with zipfile.ZipFile(built.dist / f"{NAME}-py3-none-any.whl") as wheel:
    found = {name: wheel.read(name) for name in wheel.namelist() if not name.startswith(f"{NAME}.dist-info/")}
  assert "dn_jax/planner/kept.json" in found
  assert found == of_the_package(built) | {"dn_jax/system/commit.txt": built.commit.encode()}


@pytest.mark.thorough
def test_the_sdist_has_what_the_wheel_is_built_from(built):
  with tarfile.open(built.dist / f"{NAME}.tar.gz") as sdist:
    found = {each.name.removeprefix(f"{NAME}/") for each in sdist if each.isfile()}
  beside = {name for name in found if not name.startswith(("dn_jax/", "dn_jax.egg-info/"))}
  assert beside == {*BESIDE}
  assert {name for name in found if name.startswith("dn_jax/")} == {*of_the_package(built), "dn_jax/system/commit.txt"}


@pytest.mark.thorough
def test_the_metadata_are_those_of_setup_cfg_and_the_page_is_the_readme(built):
  with zipfile.ZipFile(built.dist / f"{NAME}-py3-none-any.whl") as wheel:
    found = email.message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))
  assert (found["License-Expression"], found["Requires-Python"]) == ("Apache-2.0", ">=3.12")
  assert found["License-File"] == "LICENSE"
  assert found["Description-Content-Type"] == "text/markdown"
  assert found.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text().strip()
  needed = {str(need) for each in found.get_all("Requires-Dist") if not (need := Requirement(each)).marker}
  written = read_configuration(ROOT / "setup.cfg")["options"]["install_requires"]
  assert needed == {str(Requirement(each)) for each in written}


@pytest.mark.thorough
def test_where_the_wheel_is_installed_the_commands_work_and_records_name_its_commit(built, tmp_path):
  venv.create(tmp_path / "venv")
  python = tmp_path / "venv" / "bin" / "python"
  wheel = built.dist / f"{NAME}-py3-none-any.whl"
  run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
  # What this environment has installed can be imported too, after the wheel. Of a .pth there, as that of an editable
  # package, nothing is read.
  own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
  pathlib.Path(own, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
  command = python.with_name("dn-jax")
  assert run(command, "--version", cwd=tmp_path) == f"dn_jax 0.1.0, commit {built.commit}\n"
  assert "769,162" in run(command, "zoo", "--matching", "BC-100-12", cwd=tmp_path)
  network = ("--model.blocks", "1", "--model.growth-rate", "2", "--data.name", "digits", "--epochs", "1")
  run(command, "ablate", "--out", "runs", *network, cwd=tmp_path)  # Starts the run as a process of its own.
  (summary,) = (tmp_path / "runs").glob("*/summary.json")
  assert json.loads(summary.read_text())["commit"] == built.commit


@pytest.mark.thorough
def test_what_is_built_from_a_changed_tree_says_so(built, tmp_path):
  tree = shutil.copytree(built.tree, tmp_path / "tree")
  with (tree / "dn_jax" / "errors.py").open("a") as file:
    file.write("# Changed.\n")
  with tarfile.open(build(tree, "--sdist") / f"{NAME}.tar.gz") as sdist:
    assert sdist.extractfile(f"{NAME}/dn_jax/system/commit.txt").read().decode() == f"{built.commit}+"
