"""Where a number comes from: flags that make the run again, and records that are compared."""

import csv
import io
import json
import pathlib
import re
import shlex
import shutil

import fabricated
import pytest
import untrained

from dn_jax.commands.flags import parse
from dn_jax.config.nested import identity
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from dn_jax.errors import UserError
from dn_jax.report import ablation, provenance, write
from dn_jax.runs import collection, records

small_table = untrained.small_table

CONFIGS = [
  RunConfig(DataConfig("digits", augment=True), ModelConfig(depth=10, growth_rate=4), epochs=5),
  RunConfig(DataConfig("cifar10"), ModelConfig(name="densenet-100-24")),
  RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="resnet-110-stochastic-depth"), seed=3),
  RunConfig(DataConfig("svhn_cropped"), ModelConfig(name="wide-16-4-dropout"), last_batch="keep"),
  RunConfig(
    DataConfig("digits", validation=100),
    ModelConfig(blocks=(2, 3), growth_rate=6, dtype="bfloat16"),
    OptimizerConfig(schedule="cosine", nesterov=False),
    epochs=4,
  ),
  RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), OptimizerConfig(drops=()), epochs=4),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_flags_of_a_cell_make_its_runs_again(config, tmp_path):
  untrained.run(tmp_path, config, 5.0)
  (cell,) = ablation.cells_of(collection.read(tmp_path).runs)
  lines = provenance.lines(cell)
  begin = lines.index("  what it is:") + 1
  end = next(n for n, line in enumerate(lines) if line.startswith("  seed "))
  words = shlex.split(" ".join(lines[begin:end]))
  again = resolve(parse(RunConfig, args=[*words, "--seed", str(config.seed)]))
  assert identity(again) == identity(resolve(config))
  # None of the flags that say what the run is, and that have a value, is left out.
  said = {word[2:].replace("no-", "") for word in words if word.startswith("--")}
  assert {flag for flag, value in identity(again).items() if value is not None} - {"seed", "freeze"} <= said
  # In the form that `--help` has.
  assert not {"True", "False"} & set(words)


def test_a_mean_is_the_mean_of_the_numbers_that_are_printed(small_table):
  for cell in ablation.cells_of(collection.read(small_table).runs):
    text = "\n".join(provenance.lines(cell))
    terms = [float(term) for term in re.search(r"mean \((.*?)\)", text)[1].split(" + ")]
    folders = [line.split(": ", 1)[1] for line in text.splitlines() if line.startswith("  seed ")]
    summaries = [json.loads(pathlib.Path(folder, "summary.json").read_text()) for folder in folders]
    assert terms == [round(summary["test_error_percent"], 4) for summary in summaries]
    assert float(re.search(r"= ([\d.]+)$", text.splitlines()[1])[1]) == pytest.approx(sum(terms) / len(terms), abs=1e-4)


def test_the_trail_says_what_was_not_done_as_published(tmp_path):
  config = RunConfig(DataConfig("cifar10", augment=True), ModelConfig(name="densenet-40-12"), epochs=6)
  untrained.run(tmp_path, config, 84.0, images=(200, 10_000))
  untrained.run(tmp_path, RunConfig(DataConfig("svhn_cropped"), config.model), 1.9)
  subset, whole = (provenance.lines(cell) for cell in ablation.cells_of(collection.read(tmp_path).runs))
  assert subset[2] == "  not the published training: 200 of 50,000 images; 6 of 300 epochs"
  assert not [line for line in whole if "published" in line]


def only_run(folder):
  (run,) = collection.read(folder).runs
  return run


@pytest.mark.parametrize("report", ["last", "best"])
def test_records_that_agree_are_named_by_their_line(report, tmp_path):
  validation = 100 if report == "best" else 0
  config = RunConfig(DataConfig("digits", validation=validation), ModelConfig(depth=10, growth_rate=4), epochs=7)
  folder = untrained.run(tmp_path, config, 5.0)
  run = only_run(tmp_path)
  assert provenance.disagreement(run) == ""
  epoch = run.summary.reported_epoch
  error = json.loads((folder / "metrics.jsonl").read_text().splitlines()[epoch - 1])["test_error"]
  (line,) = [line for line in provenance.lines(ablation.cells_of([run])[0]) if "metrics.jsonl" in line]
  assert line.strip() == f"metrics.jsonl: the same, line {epoch}: epoch {epoch}, test_error {error:.6f} x 100"


def change(folder, number, **values):
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  lines[number - 1] |= values
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
  ("harm", "said"),
  [
    (lambda folder: change(folder, 4, test_error=0.0501), "DIFFERS: line 4, epoch 4: test_error 0.050100 x 100"),
    (lambda folder: change(folder, 2, valid_error=0.0), "DIFFERS: the epoch of lowest validation error is 2"),
    (lambda folder: (folder / "metrics.jsonl").unlink(), "DIFFERS: has no epoch 4, but 0 lines"),
    (lambda folder: (folder / "metrics.jsonl").write_text("{"), "DIFFERS: "),
  ],
)
def test_records_that_differ_are_said_to(harm, said, tmp_path):
  config = RunConfig(DataConfig("digits", validation=100), ModelConfig(depth=10, growth_rate=4), epochs=4)
  folder = untrained.run(tmp_path, config, 5.0)
  assert only_run(tmp_path).summary.reported_epoch == 4
  harm(folder)
  assert provenance.disagreement(only_run(tmp_path)).startswith(said)
  assert any(said in line for line in provenance.lines(ablation.cells_of([only_run(tmp_path)])[0]))


def test_runs_that_failed_or_are_not_finished_are_told(tmp_path):
  config = RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), epochs=4)
  folder = untrained.run(tmp_path, config)
  (cell,) = ablation.cells_of(collection.read(tmp_path).runs)
  assert "    not finished" in provenance.lines(cell)
  records.write_failure(folder, records.Failure("out of memory", 1, "noon"))
  (cell,) = ablation.cells_of(collection.read(tmp_path).runs)
  assert "    failed at noon: out of memory" in provenance.lines(cell)


def test_a_report_leaves_out_runs_whose_records_differ_and_names_them(tmp_path, capsys):
  for seed in (0, 1):
    fabricated.finished(tmp_path / f"run{seed}", fabricated.config(seed=seed), 27.6)
  edited = tmp_path / "run1" / "summary.json"
  edited.write_text(json.dumps(json.loads(edited.read_text()) | {"test_error_percent": 12.34}))
  write.write(collection.read(tmp_path), tmp_path / "report")
  table = (tmp_path / "report" / "table.csv").read_text()
  (row,) = csv.DictReader(io.StringIO(table))
  assert (row["mean"], row["n"]) == ("27.6", "1")
  page = (tmp_path / "report" / "report.html").read_text()
  assert "12.34" not in page
  line = f"{tmp_path / 'run1'}: left out, its metrics.jsonl DIFFERS: line 2, epoch 2: test_error 0.276000 x 100"
  assert line in page
  assert line in capsys.readouterr().err
  shutil.rmtree(tmp_path / "run0")
  with pytest.raises(UserError, match="every run in it has records that differ"):
    write.write(collection.read(tmp_path), tmp_path / "report")
