"""What setup.cfg cannot say: an sdist and a wheel carry the commit that they are built from."""

import pathlib
import sys

import setuptools
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from dn_jax.system import provenance


def write_commit(folder: str) -> None:
  """Below the folder to build from or to install; where it is unknown, nothing is written."""
  if commit := provenance.commit():
    pathlib.Path(folder, provenance.BUILT_FROM.relative_to(provenance.PACKAGE.parent)).write_text(commit)


class BuildPy(build_py):
  def run(self) -> None:
    super().run()
    if not self.editable_mode:
      write_commit(self.build_lib)


class Sdist(sdist):
  def make_release_tree(self, base_dir: str, files: list[str]) -> None:
    super().make_release_tree(base_dir, files)
    write_commit(base_dir)


setuptools.setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
