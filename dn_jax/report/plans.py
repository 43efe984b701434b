"""Tables of compiled training steps: of one network by remat policy, and of many by depth, batch and target."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import rich.table
from matplotlib.figure import Figure

from dn_jax.config.schema import ModelConfig
from dn_jax.planner.estimate import KERNEL, Estimate, estimate
from dn_jax.planner.plan import Plan
from dn_jax.planner.targets import Target
from dn_jax.report import style
from dn_jax.report.grid import Grid, csv_of

_MIB = 2**20
# Most panels of a figure in a row.
_ACROSS = 3

# (implementation, MB of the process, seconds a step): DenseNet-BC (L=100, k=12), batch 64, float32, on a TITAN X
# (Torch) and a Pascal TITAN X (PyTorch). Sources: the technical report on memory-efficient DenseNets and the
# READMEs of liuzhuang13/DenseNet and gpleiss/efficient_densenet_pytorch.
PUBLISHED = (
  ("Torch, original", 5453, 0.153),
  ("Torch, optnet", 3746, 0.153),
  ("Torch, shared gradient input", 2969, 0.152),
  ("Torch, also shared concatenation", 2188, 0.155),
  ("Torch, also shared batch-norm output", 1655, 0.175),
  ("PyTorch, plain", 2863, 0.165),
  ("PyTorch, checkpointed", 1605, 0.207),
)


def plan_table(
  plans: Mapping[str, Plan], where: Target, model: ModelConfig, pictures: int, title: str
) -> rich.table.Table:
  """A row for each policy, numbers of one device; a dash if the compiler does not say.

  Args:
    plans: by policy.
    where: the target they were compiled for.
    model: the network.
    pictures: images of a step on all devices together.
    title: of the table.
  """
  memory = "unknown" if where.memory is None else f"{where.memory / 2**30:,.1f} GiB"
  notes = [f"of one device; its memory: {memory}; compiled by {where.compiler}"]
  if where.chip:
    parts = _PARTS[where.chip.flops_a_cycle is not None]
    notes.append(f"estimate: the longest of {parts}; real steps take longer")
  if any(plan.loops for plan in plans.values()):
    notes.append("the program has loops; what is inside one counts once in FLOPs, traffic and cycles")
  known = {name: column for name, column in _COLUMNS.items() if any(getattr(plan, name) for plan in plans.values())}
  if "hbm" in known:
    known.pop("traffic", None)  # The compiler's own sum of both.
    memories = "HBM and the fast memory beside the units" if "fast" in known else "the chip's memory"
    notes.append(f"GB to and from {memories}: as laid out; of an operand that is read in part, the part")
  if "kernels" in known:
    notes += [f"kernels under {policy}: {_listed(plan.kernels)}" for policy, plan in plans.items() if plan.kernels]
  columns = ("remat", "temporaries", "arguments", "peak", "fits", *known.values(), "estimate", "exchanged")
  rows = []
  for policy, plan in plans.items():
    if plan.refusal:
      rows.append([policy, "", "", "", "no", *[""] * (len(columns) - 6), plan.refusal])
      continue
    rows.append(
      [
        policy,
        *(f"{size / _MIB:,.0f} MiB" for size in (plan.temporaries, plan.arguments, plan.peak)),
        "yes" if plan.fits(where.memory) else "no",
        *(_number(name, getattr(plan, name)) for name in known),
        _time(estimate(plan, where, model), pictures),
        ", ".join(f"{count} {kind}, {size / _MIB:,.2f} MiB" for kind, (count, size) in plan.collectives.items()) or "-",
      ]
    )
  return Grid(title, columns, rows, notes).rich()


# Where one is known of any row.
_COLUMNS = {
  "flops": "GFLOPs",
  "traffic": "GB moved",
  "hbm": "GB HBM",
  "fast": "GB fast memory",
  "cycles": "cycles",
  "kernels": "kernels",
}
# What an estimate is of: a GPU's, a TPU's.
_PARTS = (
  f"FLOPs at the published peak, HBM traffic at the bandwidth, kernels at {1e6 * KERNEL:.1f} microseconds",
  "the compiler's cycles (instructions one after another) at the clock, HBM traffic at the bandwidth",
)


def _number(name: str, value: Any) -> str:
  if value is None or value == {}:
    return "-"
  match name:
    case "cycles":
      return f"{value / 1e6:,.2f} M"
    case "kernels":
      return f"{sum(value.values()):,}"
  return f"{value / 1e9:,.2f}"


def _listed(kernels: Mapping[str, int]) -> str:
  return ", ".join(f"{count:,} {kind}" for kind, count in sorted(kernels.items(), key=lambda each: -each[1]))


def _time(found: Estimate | None, pictures: int) -> str:
  if found is None:
    return "-"
  parts = [("computing", found.computing), ("HBM", found.moving), ("kernels", found.kernels)]
  shown = ", ".join(f"{name} {1000 * seconds:,.1f}" for name, seconds in parts if seconds)
  return f"{1000 * found.seconds:,.1f} ms ({shown}), {pictures / found.seconds:,.0f} images/s"


class Row(NamedTuple):
  """Plans of one network by remat policy, on a target, for a batch size and a depth L."""

  target: Target
  batch_size: int
  depth: int
  plans: Mapping[str, Plan]


def memory_table(rows: Sequence[Row], title: str) -> rich.table.Table:
  """MiB of temporaries, a row for each network and a column for each policy."""
  policies = list(rows[0].plans)
  return Grid(
    title,
    ("target", "batch", "L", *policies),
    [(row.target.name, str(row.batch_size), str(row.depth), *(_cell(row, name) for name in policies)) for row in rows],
    ["in brackets: FLOPs of the step against those without rematerialisation"],
  ).rich()


def _cell(row: Row, policy: str) -> str:
  plan, base = row.plans[policy], row.plans["none"].flops if "none" in row.plans else None
  if plan.refusal:
    return "does not fit"
  ratio = f" ({plan.flops / base:.2f}x)" if plan.flops and base else ""
  return f"{plan.temporaries / _MIB:,.0f}{ratio}{'' if plan.fits(row.target.memory) else ' does not fit'}"


def published_table() -> rich.table.Table:
  """Memory and time of the first implementations, as published."""
  return Grid(
    "As published: DenseNet-BC (L=100, k=12), batch 64, float32, TITAN X",
    ("implementation", "MB", "seconds a step"),
    [(name, f"{megabytes:,}", f"{seconds:.3f}") for name, megabytes, seconds in PUBLISHED],
    ["MB of the whole process, so more than temporaries"],
  ).rich()


def csv(rows: Sequence[Row], growth_rate: int, dtype: str) -> str:
  """Every plan as a line of CSV, sizes in bytes."""
  numbers = ("temporaries", "arguments", "outputs", "peak", "flops", "traffic", "hbm", "fast", "cycles")
  lines = []
  for row in rows:
    network = {
      "target": row.target.name,
      "devices": len(row.target.devices),
      "depth": row.depth,
      "growth_rate": growth_rate,
      "batch_size": row.batch_size,
      "dtype": dtype,
    }
    for policy, plan in row.plans.items():
      values = {name: None if plan.refusal else getattr(plan, name) for name in numbers}
      fits = {"fits": plan.fits(row.target.memory), "refusal": plan.refusal}
      lines.append({**network, "policy": policy, **values, **fits})
  return csv_of(lines)


def draw(rows: Sequence[Row], title: str) -> Figure:
  """Draws MiB of temporaries: by depth, a panel for each target and batch; by batch if there is one depth."""
  by_depth = len({row.depth for row in rows}) > 1
  key = (lambda row: (row.target.name, row.batch_size)) if by_depth else (lambda row: (row.target.name,))
  panels = [list(group) for _, group in itertools.groupby(rows, key)]
  of_a_target = max(len(list(group)) for _, group in itertools.groupby(panels, lambda panel: panel[0].target.name))
  across = min(of_a_target if of_a_target > 1 else len(panels), _ACROSS)
  down = math.ceil(len(panels) / across)
  figure, grid = style.panels(down, across, (max(7, 4.3 * across), 0.5 + min(3.9, 12.5 / down) * down))
  figure.suptitle(f"{title}: memory of a training step by remat policy")
  styles = style.styles(list(rows[0].plans))
  for axes, panel in zip(grid.flat, panels, strict=False):
    steps = [row.depth if by_depth else row.batch_size for row in panel]
    for policy in panel[0].plans:
      sizes = [math.nan if (plan := row.plans[policy]).refusal else plan.temporaries / _MIB for row in panel]
      last = "refused" if math.isnan(sizes[-1]) else f"{sizes[-1]:,.0f}"
      axes.plot(steps, sizes, label=f"{policy} ({last})", **styles[policy])
    first = panel[0]
    where = f"batch {first.batch_size}" if by_depth else f"L={first.depth}"
    axes.set_title(f"{where}, on {first.target.described}", fontsize="medium")
    axes.set_xlabel("depth L" if by_depth else "images per step")
    axes.set_ylabel("temporaries, MiB")
    axes.set_xticks(steps)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    style.grid(axes)
    at = f"at {'L=' if by_depth else 'batch '}{steps[-1]}"
    axes.legend(
      handles=style.by_height(axes.lines),
      title=f"remat policy (MiB {at})",
      fontsize=9,
      title_fontsize=9,
      handlelength=3,
    )
  for axes in grid.flat[len(panels) :]:
    axes.set_axis_off()
  return figure
