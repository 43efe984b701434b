"""Flags and their values as text."""

from typing import Any


def in_words(value: Any) -> str:
  """A configuration's value as text."""
  if isinstance(value, list):
    return "-".join(map(str, value))
  return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def short_flag(flag: str) -> str:
  """A flag as a label: `model.depth` -> `depth`, `data.augment` stays."""
  return flag.removeprefix("model.").removeprefix("optimizer.")
