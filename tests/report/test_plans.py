"""Plans written by hand, as tables, as CSV, as a figure."""

import csv
import dataclasses
import io

import measures
import rich.console

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.planner import targets
from dn_jax.planner.plan import Plan
from dn_jax.report import plans

MODEL = complete_model(ModelConfig(depth=10, growth_rate=4))
MIB = 2**20
HERE = targets.target("here")


def text_of(table):
  console = rich.console.Console(width=200, file=io.StringIO())
  console.print(table)
  return console.file.getvalue()


def by_policy(found, pictures=64):
  """The text of `plan_table` on a chip of 10 MiB, and its rows by column."""
  where = dataclasses.replace(HERE, chip=targets.CHIPS["v5e"], memory=10 * MIB)
  text = text_of(plans.plan_table(found, where, MODEL, pictures, "a title"))
  cells = lambda line, bar: [cell.strip() for cell in line.split(bar)[1:-1]]
  header = next(cells(line, "┃") for line in text.splitlines() if "┃" in line)
  return text, [dict(zip(header, cells(line, "│"), strict=True)) for line in text.splitlines() if "│" in line]


def rows(depths=(10, 16), batch_sizes=(8,)):
  of = lambda n: {"none": Plan(2 * n * MIB, 5, 0, 100.0, 7.0), "block": Plan(n * MIB, 5, 0, 150.0, 9.0)}
  return [plans.Row(HERE, size, depth, of(depth * size)) for size in batch_sizes for depth in depths]


def test_a_row_has_memory_work_and_an_estimated_time():
  # 8.19 GB at 819 GB/s are 10 ms, in which 64 pictures are 6,400 a second; three million cycles at 1.5 GHz are 2.
  exchanged = {"all-reduce": (2, 3 * MIB)}
  found = Plan(5 * MIB, 2 * MIB, MIB, 1e9, 9e9, 3_000_000, exchanged, hbm=8_190_000_000, fast=810_000_000)
  text, (row,) = by_policy({"none": found})
  assert row == {
    "remat": "none",
    "temporaries": "5 MiB",
    "arguments": "2 MiB",
    "peak": "8 MiB",
    "fits": "yes",
    "GFLOPs": "1.00",
    "GB HBM": "8.19",
    "GB fast memory": "0.81",
    "cycles": "3.00 M",
    "estimate": "10.0 ms (computing 2.0, HBM 10.0), 6,400 images/s",
    "exchanged": "2 all-reduce, 3.00 MiB",
  }
  assert "loops" not in text


def test_a_gpus_row_has_its_kernels():
  where = targets.kept("h100", "a compiler")
  # 2,000 kernels at 3.5 microseconds each.
  found = {"none": Plan(1, flops=1e9, hbm=10**8, kernels={"fusion": 500, "reduction": 1500})}
  text = text_of(plans.plan_table(found, where, MODEL, 70, "a title"))
  assert "kernels under none: 1,500 reduction, 500 fusion" in text
  row = next(line for line in text.splitlines() if "│ none" in line)
  cells = [cell.strip() for cell in row.split("│")[1:-1]]
  assert cells[7] == "2,000"
  assert cells[8].startswith("7.0 ms (computing 0.0, HBM 0.0, kernels 7.0), 10,000 imag")


def test_what_the_compiler_does_not_say_is_a_dash_and_a_refusal_is_quoted():
  _, (silent, refused) = by_policy({"none": Plan(20 * MIB), "block": Plan(refusal="too large")})
  assert not {"cycles", "GFLOPs", "GB HBM", "kernels"} & set(silent)
  assert (silent["fits"], silent["estimate"], silent["exchanged"]) == ("no", "-", "-")
  assert (refused["fits"], refused["peak"], refused["exchanged"]) == ("no", "", "too large")
  _, (silent, told) = by_policy({"none": Plan(1), "block": Plan(1, cycles=10_000, loops=1)})
  assert (silent["cycles"], told["cycles"]) == ("-", "0.01 M")


def test_the_table_has_sizes_and_recomputation():
  lines = text_of(plans.memory_table(rows(), "title")).splitlines()
  (line,) = [line for line in lines if " 16 " in line]
  assert [cell.strip() for cell in line.split("│")[1:-1]] == ["here", "8", "16", "256 (1.00x)", "128 (1.50x)"]


def test_what_does_not_fit_is_said():
  refused = [plans.Row(HERE, 8, 10, {"none": Plan(refusal="too much"), "block": Plan(HERE.memory + 1)})]
  text = text_of(plans.memory_table(refused, "title"))
  assert text.count("does not fit") == 2


def test_the_csv_has_every_plan_in_bytes():
  lines = list(csv.DictReader(io.StringIO(plans.csv(rows(), 12, "float32"))))
  assert [(line["depth"], line["policy"], line["temporaries"]) for line in lines] == [
    (str(depth), policy, str(factor * depth * 8 * MIB))
    for depth in (10, 16)
    for policy, factor in (("none", 2), ("block", 1))
  ]
  assert {line["peak"] == str(int(line["temporaries"]) + 5) for line in lines} == {True}


def test_the_figure_shows_the_sizes():
  drawn = [plans.draw(rows(), "title"), plans.draw(rows((10,), (8, 16, 32)), "title")]
  assert [measures.without_axis_labels(measures.laid_out(figure)) for figure in drawn] == [[], []]
  by_depth, by_batch = (figure.axes for figure in drawn)
  assert [list(line.get_ydata()) for line in by_depth[0].lines] == [[160, 256], [80, 128]]
  assert list(by_depth[0].lines[0].get_xdata()) == [10, 16]
  assert [list(line.get_ydata()) for line in by_batch[0].lines] == [[160, 320, 640], [80, 160, 320]]
  assert list(by_batch[0].lines[0].get_xdata()) == [8, 16, 32]
  legend = [text.get_text() for text in by_batch[0].get_legend().get_texts()]
  assert legend == ["none (640)", "block (320)"]


def test_what_was_refused_has_no_point_and_stands_last():
  refused = {"none": Plan(refusal="too much"), "block": Plan(2 * MIB), "bottleneck": Plan(3 * MIB)}
  figure = measures.laid_out(plans.draw([plans.Row(HERE, 8, 10, refused)], "title"))
  (legend,) = (axes.get_legend() for axes in figure.axes)
  assert [text.get_text() for text in legend.get_texts()] == ["bottleneck (3)", "block (2)", "none (refused)"]


def test_the_published_figures_are_there():
  # As the READMEs of the Torch and PyTorch codes have them.
  text = text_of(plans.published_table())
  for figure in ("5,453", "1,655", "2,863", "1,605", "0.207"):
    assert figure in text
