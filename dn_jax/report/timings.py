"""The table and the figure of `experiments/benchmark.py`."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import rich.table

from dn_jax.report.grid import Grid

matplotlib.use("Agg")
from matplotlib import pyplot


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
  return f"DenseNet-BC (L={network['depth']}, k={network['growth_rate']}), batch {network['batch_size']}{kind}"


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


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Draws step time and memory, a bar for each network; whiskers go from the fastest to the slowest round."""
  peers = {name: peer for name, peer in record["peers"].items() if "seconds" in peer}
  names = list(peers)
  height = 1.4 + 0.4 * len(names)
  figure, (times, memory) = pyplot.subplots(1, 2, figsize=(10, height), layout="constrained", sharey=True)
  figure.suptitle(f"A training step of {_title(record)}")
  colours = ["tab:blue" if name.startswith("dn_jax") else "tab:gray" for name in names]
  medians = [statistics.median(peers[name]["seconds"]) for name in names]
  spread = [
    [median - min(peers[name]["seconds"]) for name, median in zip(names, medians, strict=True)],
    [max(peers[name]["seconds"]) - median for name, median in zip(names, medians, strict=True)],
  ]
  times.barh(names, medians, xerr=spread, color=colours)
  times.set_xlabel("seconds a step (median; least to most)")
  memory.barh(names, [peers[name]["peak"] for name in names], color=colours)
  memory.set_xlabel("MiB of the process above its bare import")
  times.invert_yaxis()
  for axes in (times, memory):
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
  figure.savefig(path, dpi=120)
  pyplot.close(figure)
