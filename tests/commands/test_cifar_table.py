"""cifar_table: which runs it makes, and the table of those that are done."""

import csv
import io
import pathlib
import time

import pytest
import tyro
import untrained
from conftest import call

from dn_jax.commands import cifar_table
from dn_jax.config import datasets, zoo
from dn_jax.config.protocol import PROTOCOLS
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.models import build
from dn_jax.sweep import accelerators, memory


def cells_of(**flags):
  return cifar_table.cells_of(cifar_table.Table(**flags))


def test_all_published_cells_are_trained_with_their_own_protocols():
  cells = cells_of()
  published = {
    (name, column)
    for name, entry in zoo.NETWORKS.items()
    for column in entry.errors
    if column in zoo.COLUMNS and name not in ("densenet-caffe-40-12", "resnet-1202-stochastic-depth")
  }
  assert set(cells) == published
  for (name, column), group in cells.items():
    (cell,) = group
    assert cell.config.model.name == name
    assert datasets.CATALOG[cell.config.data.name].column == column.rstrip("+")
    assert cell.config.data.augment == column.endswith("+")
    assert cell.config.protocol == zoo.NETWORKS[name].protocol
    assert cell.config.epochs == PROTOCOLS[cell.config.protocol, cell.config.data.name].epochs


def test_columns_are_taken_in_capitals_too():
  assert set(cells_of(columns=("C10+", "svhn"), rows=("densenet-40-12",))) == {
    ("densenet-40-12", "c10+"),
    ("densenet-40-12", "svhn"),
  }


@pytest.mark.parametrize(
  "flags",
  [
    {"columns": ("c10", "c10+"), "rows": ("densenet-40-12",)},
    {"columns": ("c100+",), "rows": ("preactivation-164",), "scale": 0.02, "seeds": 2},
    {"columns": ("svhn",), "rows": ("resnet-110-stochastic-depth",), "protocol": "wide"},
  ],
)
def test_the_command_of_a_cell_trains_that_cell(flags):
  where = {"data": cifar_table.Where(pathlib.Path("/data")), "model": cifar_table.Activations("bfloat16")}
  for group in cells_of(**flags, **where).values():
    for seed, cell in enumerate(group):
      parsed = resolve(tyro.cli(RunConfig, args=[*cell.flags, "--out", str(cell.config.out)]))
      assert parsed == cell.config
      assert (parsed.seed, parsed.model.dtype, parsed.data.dir) == (seed, "bfloat16", pathlib.Path("/data"))


@pytest.mark.parametrize(("scale", "epochs"), [(0.02, 6), (0.001, 1), (1.0, 300)])
def test_a_rehearsal_shortens_the_schedule_in_proportion(scale, epochs):
  (group,) = cells_of(rows=("densenet-40-12",), columns=("c10+",), scale=scale).values()
  assert group[0].config.epochs == epochs


def test_mixup_brings_the_network_that_its_authors_trained():
  cells = cells_of(protocol="mixup")
  assert set(cells) == {("densenet-bc-190-40", "c10+"), ("densenet-bc-190-40", "c100+")}
  assert {cell.config.protocol for (cell,) in cells.values()} == {"mixup"}
  (group,) = cells_of(protocol="mixup", rows=("densenet-40-12",), columns=("c10+",)).values()
  assert (group[0].config.model.name, group[0].config.epochs) == ("densenet-40-12", 200)


def test_a_rehearsal_of_rdnets_recipe_has_a_shorter_warm_up():
  (group,) = cells_of(protocol="rdnet", rows=("densenet-40-12",), columns=("c10+",), scale=0.1).values()
  assert (group[0].config.epochs, group[0].config.optimizer.warmup_epochs) == (30, 2.0)


def test_one_protocol_can_be_asked_for_all_and_caffe_brings_its_network():
  (group,) = cells_of(protocol="caffe").values()
  assert group[0].config.model.name == "densenet-caffe-40-12"
  (group,) = cells_of(protocol="densenet", rows=("resnet-110",), columns=("c10+",)).values()
  assert group[0].config.batch_size == 64


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    ({"rows": ("densenet-40-13",)}, "did you mean densenet-40-12"),
    ({"rows": ("densenet-121",)}, "--rows densenet-121"),
    ({"columns": ("c11",)}, "one of c10"),
    ({"rows": ("resnet-110",), "columns": ("svhn",)}, "nothing is published"),
  ],
)
def test_what_is_no_cell_is_refused(flags, said):
  with pytest.raises(ConfigurationError, match=said):
    cells_of(**flags)


def test_flags_that_divide_this_machine_are_refused_for_a_cluster():
  done = call("experiments/cifar_table.py", "--at-once", 2, "--cluster", "local")
  assert (done.returncode, done.stderr) == (
    2,
    "error: --at-once 2: divides this machine; with --cluster, --cell.gpus and --cell.tpus say it\n",
  )


def test_the_plan_of_the_whole_table_needs_no_data_and_compiles_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(build, "build", lambda *_: pytest.fail("a network was built"))
  monkeypatch.setattr(memory, "ask", lambda *_: pytest.fail("a network was compiled"))
  monkeypatch.setattr(accelerators, "count", lambda: pytest.fail("a process was started"))
  begin = time.process_time()
  untrained.script("cifar_table", "--dry-run", "--data.dir", tmp_path, "--out", tmp_path / "runs")
  assert time.process_time() - begin < 5
  printed = capsys.readouterr().out
  assert f"57 cells, 57 runs, in {tmp_path}/runs" in printed
  # Its parameters are PyTorch's.
  (row,) = [line for line in printed.splitlines() if "densenet-bc-100-12" in line and "svhn" in line]
  assert [word.strip() for word in row.strip("│").split("│")][3:8] == [
    "769,162",
    "575.9",
    "598,388 + 6,000",
    "26,032",
    "40",
  ]
  said = " ".join(printed.split())
  for name in ("cifar10", "cifar100", "svhn_cropped"):
    assert f"the published numbers of images stand in: --data.name {name}: is not prepared in {tmp_path}" in said
  assert list(tmp_path.iterdir()) == []
  assert "not prepared" in untrained.refused(capsys, "cifar_table", "--data.dir", tmp_path, "--out", tmp_path / "runs")


def test_scale_says_what_was_asked_for_and_what_came_of_it(tmp_path, capsys):
  flags = ["--rows", "preactivation-164", "densenet-40-12", "--columns", "c10+", "svhn", "--scale", 0.001]
  cells = cells_of(rows=("preactivation-164", "densenet-40-12"), columns=("c10+", "svhn"), scale=0.001)
  for group in cells.values():
    untrained.run(tmp_path / "runs", group[0].config, 50.0)
  untrained.script("cifar_table", *flags, "--out", tmp_path / "runs")
  said = " ".join(capsys.readouterr().out.split())
  assert (
    "--scale 0.001 of every schedule comes to 1 of 164 epochs (0.0061), a warm-up of 0 of 400 steps, "
    "1 of 300 epochs (0.00333), 1 of 40 epochs (0.025)"
  ) in said
  assert "REHEARSAL (--scale 0.001), schedules of 0.00333 to 0.025 of their published epochs." in said


@pytest.mark.slow
def test_what_is_done_is_set_beside_what_was_published_and_can_be_made_again_from_the_records(tmp_path, capsys):
  out, rows, columns = tmp_path / "runs", ("densenet-40-12", "wide-16-8"), ("c10+", "c100+")
  cells = cells_of(rows=rows, columns=columns, seeds=2, scale=0.01)
  for (name, column), group in cells.items():
    for cell in group:
      untrained.run(out, cell.config, zoo.NETWORKS[name].errors[column] + 1 + cell.config.seed)
  flags = ["--rows", *rows, "--columns", "C10+", "C100+", "--seeds", 2, "--scale", 0.01]
  untrained.script("cifar_table", *flags, "--out", out, "--data.dir", tmp_path)
  printed = capsys.readouterr().out
  first = (out / "report" / "cifar_table.csv").read_text()
  rows = [(row["network"], row["column"], row["mean"], row["n"]) for row in csv.DictReader(io.StringIO(first))]
  assert rows[:2] == [("densenet-40-12", "c10+", "6.74", "2"), ("densenet-40-12", "c100+", "25.92", "2")]
  assert "REHEARSAL (--scale 0.01), schedules of 0.01 of their published epochs" in " ".join(printed.split())
  markdown = (out / "report" / "cifar_table.md").read_text()
  assert "3 epochs (published: 300)" in markdown
  assert "2 epochs (published: 200)" in markdown
  for path in (out / "report").iterdir():
    path.unlink()
  untrained.script("report", out)
  assert (out / "report" / "cifar_table.csv").read_text() == first
  assert (out / "report" / "cifar_table.md").read_text() == markdown
  assert "REHEARSAL" in (out / "report" / "report.html").read_text()
