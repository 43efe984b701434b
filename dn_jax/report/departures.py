"""In what runs depart from the published training: images, epochs, batch, protocol and all other flags of training."""

import string
from collections.abc import Iterable, Sequence

from dn_jax.config import datasets, protocol
from dn_jax.report import protocol_words
from dn_jax.runs import records
from dn_jax.runs.collection import Run


def text(runs: Sequence[Run]) -> str:
  """`200 of 50,000 images, 6 of 300 epochs`: the departures of a cell, or nothing.

  Args:
    runs: of one cell, which differ in their seeds alone.
  """
  config = runs[0].config
  info = datasets.recorded(config.data)
  if not info.published:
    return ""
  # A run with another's recipe is compared with what was published of that.
  own = config.protocol if protocol_words.recipe(config) else protocol_words.own_protocol(config)
  published = protocol.of(own, config.data.name)
  words = _images([run for run in runs if run.summary], info)
  if config.epochs != published.epochs:
    fewer = config.epochs < published.epochs
    words.append(
      f"{config.epochs} of {published.epochs} epochs" if fewer else f"{config.epochs} epochs, not {published.epochs}"
    )
  words += [
    f"{name} {value}" + (f", not {usual}" if usual else "")
    for name, value, usual in protocol_words.differences(config, own)
  ]
  return "; ".join(words)


def images(run: Run) -> tuple[int, int] | None:
  """A run's images for training, those held out of them included, and for testing; None if that is not recorded."""
  try:
    data = records.read_data(run.folder)
  except records.RunError:
    return None
  if data is None or not {"train", "test"} <= data.pictures.keys():
    return None
  return data.pictures["train"] + data.pictures.get("valid", 0), data.pictures["test"]


def _images(runs: Sequence[Run], info: datasets.DatasetInfo) -> list[str]:
  """How many of the published images finished runs have, where these are others."""
  found = [images(run) for run in runs]
  words = ["an unknown number of images"] if None in found else []
  for part, published, kind in ((0, sum(info.published), "images"), (1, info.published_test, "test images")):
    counts = sorted({each[part] for each in found if each})
    if counts and counts != [published]:
      words.append(f"{' or '.join(f'{count:,}' for count in counts)} of {published:,} {kind}")
  return words


def marks(texts: Iterable[str]) -> dict[str, str]:
  """A mark for each text that is not empty: [a], [b], ..., and after [z] [aa]."""
  letters = string.ascii_lowercase
  different = dict.fromkeys(filter(None, texts))
  return {text: f"[{letters[n % 26] * (1 + n // 26)}]" for n, text in enumerate(different)}


def notes(marked: dict[str, str]) -> list[str]:
  """A line for each mark."""
  return [f"{mark} Not the published training: {text}." for text, mark in marked.items()]
