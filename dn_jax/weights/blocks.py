"""What the shapes of a network of dense blocks tell, and the differences of two such networks in words."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from dn_jax.config.schema import ModelConfig

# (compression, channels) -> the channels that a transition keeps.
Kept = Callable[[float, int], int]


def layers_of(found: Iterable[tuple[int, int]]) -> tuple[int, ...] | None:
  """Layers of each block; None where there are none, or numbers are left out.

  Args:
    found: numbers of block and layer, from 1, for every layer.
  """
  found = sorted(found)
  count = collections.Counter(block for block, _ in found)
  blocks = tuple(count[b] for b in range(1, len(count) + 1))
  expected = [(b, n) for b, layers in enumerate(blocks, start=1) for n in range(1, layers + 1)]
  return blocks if blocks and found == expected else None


def compression_of(transitions: Iterable[tuple[int, int]], kept: Kept) -> float | None:
  """The roundest theta with kept(theta, m) = n for all transitions (n, m); None where there is no transition."""
  transitions = list(transitions)
  if not transitions:
    return None
  least = max(n / m for n, m in transitions)
  round_ones = (math.ceil(least * 10**digits - 1e-9) / 10**digits for digits in range(1, 7))
  fits = lambda theta: all(kept(theta, m) == n for n, m in transitions)
  return next((theta for theta in round_ones if fits(theta)), least)


def different_layers(found: ModelConfig, asked: ModelConfig) -> Iterator[str]:
  """Of the blocks and their layers."""
  if len(found.blocks) != len(asked.blocks):
    yield f"it has {len(found.blocks)} dense blocks, not {len(asked.blocks)}"
  for b, (layers, others) in enumerate(zip(found.blocks, asked.blocks, strict=False), start=1):
    if layers != others:
      yield f"its dense block {b} has {layers} layer{'s' * (layers > 1)}, not {others}"


def different_fields(found: ModelConfig, asked: ModelConfig, words: Mapping[str, str]) -> Iterator[str]:
  """Of fields of one value; `words` has places for the file's and the other."""
  for name, said in words.items():
    if (theirs := getattr(found, name)) != (others := getattr(asked, name)):
      yield said.format(theirs, others)


def different_transitions(
  found: ModelConfig, asked: ModelConfig, kept: Kept, growth_rates: Callable[[ModelConfig], Sequence[int]]
) -> Iterator[str]:
  """Of the channels that transitions keep; `growth_rates` are those of a network's blocks."""

  def keeps(model: ModelConfig) -> Iterator[int]:
    channels = model.initial_channels
    for layers, growth_rate in list(zip(model.blocks, growth_rates(model), strict=True))[:-1]:
      channels = kept(model.compression, channels + layers * growth_rate)
      yield channels

  for b, (theirs, others) in enumerate(zip(keeps(found), keeps(asked), strict=False), start=1):
    if theirs != others:
      yield f"its transition {b} keeps {theirs} channels, not {others}"
