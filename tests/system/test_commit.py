"""Which commit a program is of."""

import subprocess

import pytest

from dn_jax.system import provenance


def git(folder, *words):
  named = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
  return subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
  """The package's folder in a git repository that has committed it."""
  folder = tmp_path / "repository" / "dn_jax"
  (folder / "system").mkdir(parents=True)
  (folder / "__init__.py").write_text("a = 1\n")
  git(folder.parent, "init", "-q")
  git(folder.parent, "add", ".")
  git(folder.parent, "commit", "-q", "-m", "All")
  monkeypatch.setattr(provenance, "PACKAGE", folder)
  monkeypatch.setattr(provenance, "BUILT_FROM", folder / "system" / "commit.txt")
  return folder


def test_a_checkout_names_its_commit_and_whether_the_package_was_changed(package):
  head = git(package, "rev-parse", "HEAD")
  (package.parent / "README.md").write_text("# Not of the program")
  assert provenance.commit() == head
  (package / "__init__.py").write_text("a = 2\n")
  assert provenance.commit() == f"{head}+"


def test_a_package_that_lies_in_a_checkout_of_something_else_does_not_name_that_commit(package):
  git(package, "rm", "-q", "--cached", "__init__.py")
  git(package, "commit", "-q", "-m", "An environment's, in no commit")
  assert provenance.commit() is None
  provenance.BUILT_FROM.write_text("ab12+")
  assert provenance.commit() == "ab12+"


def test_without_git_the_commit_is_the_one_that_the_package_was_built_from(package, monkeypatch):
  provenance.BUILT_FROM.write_text("ab12")
  monkeypatch.setenv("PATH", "")
  assert provenance.commit() == "ab12"
