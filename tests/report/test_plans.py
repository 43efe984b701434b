"""The memory table: as text, as CSV, as a picture."""

import csv
import io

import rich.console
from matplotlib import pyplot

from dn_jax.planner import targets
from dn_jax.planner.plan import Plan
from dn_jax.report import plans

MIB = 2**20
HERE = targets.target("here")


def rows(depths=(10, 16), batch_sizes=(8,)):
  plans = lambda n: {"none": Plan(2 * n * MIB, 5, 0, 100.0, 7.0), "block": Plan(n * MIB, 5, 0, 150.0, 9.0)}
  return [plans.Row(HERE, size, depth, plans(depth * size)) for size in batch_sizes for depth in depths]


def text_of(table):
  console = rich.console.Console(width=160, file=io.StringIO())
  console.print(table)
  return console.file.getvalue()


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


def test_the_picture_shows_the_sizes(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(pyplot, "close", drawn.append)
  plans.draw(rows(), "title", tmp_path / "depth.png")
  plans.draw(rows((10,), (8, 16, 32)), "title", tmp_path / "batch.png")
  by_depth, by_batch = (figure.axes for figure in drawn)
  assert [list(line.get_ydata()) for line in by_depth[0].lines] == [[160, 256], [80, 128]]
  assert list(by_depth[0].lines[0].get_xdata()) == [10, 16]
  assert [list(line.get_ydata()) for line in by_batch[0].lines] == [[160, 320, 640], [80, 160, 320]]
  assert list(by_batch[0].lines[0].get_xdata()) == [8, 16, 32]


def test_the_published_figures_are_there():
  # As the READMEs of the Torch and PyTorch codes have them.
  text = text_of(plans.published_table())
  for figure in ("5,453", "1,655", "2,863", "1,605", "0.207"):
    assert figure in text
