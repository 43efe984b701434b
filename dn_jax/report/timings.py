"""The table and the figure of `experiments/benchmark.py`."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import rich.table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dn_jax.config import zoo
from dn_jax.report import style
from dn_jax.report.grid import Grid

# Most steps between numbers of an axis.
_TICKS = 6
_WORDS = {"torch": "PyTorch", "flax": "Flax, plain", "keras": "Keras on JAX"}


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
  """The ratio of step times for each pair (a, b): seconds of a over seconds of b, median over rounds.

  Args:
    seconds: of a step in each round, for each network.
  """
  return {
    a: {b: statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True)) for b in seconds}
    for a in seconds
  }


def _title(record: Mapping[str, Any]) -> str:
  network = record["network"]
  kind = "" if any("bfloat16" in name for name in record["peers"]) else ", float32"
  named = network.get("name")
  title = zoo.NETWORKS[named].title if named else f"DenseNet-BC (L={network['depth']}, k={network['growth_rate']})"
  return f"{title}, batch {network['batch_size']}{kind}"


def table(record: Mapping[str, Any]) -> rich.table.Table:
  """A row for each network: wall-clock seconds, and memory of the process above its bare import."""
  machine = record["machine"]
  note = (
    f"{machine['processor']}, {machine['cores']} cores. Step: median of {record['repeats']} rounds (least to "
    "most). Ratio: to the first row, median over rounds. "
    "Start: from launch to the first step done, with an empty compilation cache and with a warm one. Memory: most of "
    "the process above its bare import, after a warm start (after a cold one)."
  )
  rows = []
  first = next((name for name, peer in record["peers"].items() if "seconds" in peer), None)
  for name, peer in record["peers"].items():
    if "failed" in peer:
      rows.append([name, "failed", "", "", "", ""])
      continue
    seconds = peer["seconds"]
    rows.append(
      [
        name,
        f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})",
        f"{record['ratios'][name][first]:.2f}",
        f"{peer['first_start']:.1f}",
        f"{peer['second_start']:.1f}",
        f"{peer['peak']:,.0f} ({peer['first_peak']:,.0f})"
        + (f", device {peer['device_peak']:,.0f}" if peer.get("device_peak") else ""),
      ]
    )
  columns = ("network", "step, s", "ratio", "start, s", "again, s", "memory, MiB")
  return Grid(_title(record), columns, rows, [note]).rich()


def in_words(peer: str) -> str:
  """A peer's name as a person says it: `torch+checkpointed` -> PyTorch, checkpointed."""
  kind, *options = peer.split("+")
  return ", ".join([_WORDS.get(kind, kind), *options])


def draw(record: Mapping[str, Any]) -> Figure:
  """Step time and memory, a bar for each network that ran; whiskers go from the fastest to the slowest round."""
  peers = {name: peer for name, peer in record["peers"].items() if "seconds" in peer}
  machine = record["machine"]
  devices = sorted({peer["device"] for peer in peers.values() if peer.get("device", "cpu") != "cpu"})
  where = ", ".join([f"{machine['processor']}, {machine['cores']} cores", *devices])
  figure, ((times, memory),) = style.panels(1, 2, (11, 1.7 + 0.4 * len(peers)), sharey=True)
  figure.suptitle(f"A training step of {_title(record)}\n{where}")
  labels = [in_words(name) for name in peers]
  colours = [style.COLOURS[0] if name.startswith("dn_jax") else "#9a9a9a" for name in peers]
  rounds = [peer["seconds"] for peer in peers.values()]
  medians = [statistics.median(seconds) for seconds in rounds]
  spread = [
    [median - min(seconds) for median, seconds in zip(medians, rounds, strict=True)],
    [max(seconds) - median for median, seconds in zip(medians, rounds, strict=True)],
  ]
  times.barh(labels, medians, xerr=spread, color=colours, capsize=3)
  times.set_xlabel(f"seconds per step (median of {record['repeats']} rounds; least to most)")
  for row, (median, seconds) in enumerate(zip(medians, rounds, strict=True)):
    _beside(times, row, max(seconds), style.three_digits(median))
  memory.barh(labels, [peer["peak"] for peer in peers.values()], color=colours)
  memory.set_xlabel("memory of the process above its bare import, MiB")
  for row, peer in enumerate(peers.values()):
    _beside(memory, row, peer["peak"], f"{peer['peak']:,.0f}")
  times.set_ylim(len(peers) - 0.4, -0.6)  # The first one above.
  for axes in (times, memory):
    axes.set_xlim(0, 1.16 * axes.dataLim.x1)  # Room for the numbers.
    axes.xaxis.set_major_locator(MaxNLocator(_TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    style.grid(axes, "x")
  return figure


def _beside(axes: Axes, row: int, end: float, words: str) -> None:
  axes.annotate(words, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
