"""The planner's table, from plans written by hand."""

import dataclasses
import io

import rich.console

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.planner import plan, targets
from dn_jax.report.plans import plan_table

MODEL = complete_model(ModelConfig(depth=10, growth_rate=4))
MIB = 2**20


def rows(plans, pictures=64):
  where = dataclasses.replace(targets.target(targets.HERE), chip=targets.CHIPS["v5e"], memory=10 * MIB)
  console = rich.console.Console(width=200, file=io.StringIO())
  console.print(plan_table(plans, where, MODEL, pictures, "a title"))
  text = console.file.getvalue()
  cells = lambda line, bar: [cell.strip() for cell in line.split(bar)[1:-1]]
  header = next(cells(line, "┃") for line in text.splitlines() if "┃" in line)
  return text, [dict(zip(header, cells(line, "│"), strict=True)) for line in text.splitlines() if "│" in line]


def test_a_row_has_memory_work_and_the_least_time():
  # 8.19 GB at 819 GB/s are 10 ms, in which 64 pictures are 6,400 a second.
  found = plan.Plan(5 * MIB, 2 * MIB, MIB, 1e9, 8.19e9, 3_000_000, {"all-reduce": (2, 3 * MIB)})
  text, (row,) = rows({"none": found})
  assert row == {
    "remat": "none",
    "temporaries": "5 MiB",
    "arguments": "2 MiB",
    "peak": "8 MiB",
    "fits": "yes",
    "GFLOPs": "1.0",
    "GB moved": "8.2",
    "cycles": "3.00 M",
    "at least": "10.0 ms, 6,400 pictures/s",
    "exchanged": "2 all-reduce, 3.00 MiB",
  }
  assert "loops" not in text


def test_what_the_compiler_does_not_say_is_a_dash_and_a_refusal_is_quoted():
  _, (silent, refused) = rows({"none": plan.Plan(20 * MIB), "block": plan.Plan(refusal="too large")})
  assert "cycles" not in silent
  assert (silent["fits"], silent["GFLOPs"], silent["at least"], silent["exchanged"]) == ("no", "-", "-", "-")
  assert (refused["fits"], refused["peak"], refused["exchanged"]) == ("no", "", "too large")
  _, (silent, told) = rows({"none": plan.Plan(1), "block": plan.Plan(1, cycles=10_000, loops=1)})
  assert (silent["cycles"], told["cycles"]) == ("-", "0.01 M")
