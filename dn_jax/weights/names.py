"""The spellings of a layer's name in files of weights."""

import re


def modern(name: str) -> str:
  """A name in today's spelling: without `module.`, and `norm1` for the first files' `norm.1`."""
  return re.sub(r"(denselayer\d+)\.(norm|conv)\.([12])\.", r"\1.\2\3.", name.removeprefix("module."))
