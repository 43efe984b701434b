"""Folders of what is kept between starts: compiled programs, plans."""

import os
import pathlib


def folder(name: str) -> pathlib.Path:
  """`name` under $XDG_CACHE_HOME/dn_jax, or ~/.cache/dn_jax; not created."""
  home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  return home / "dn_jax" / name
