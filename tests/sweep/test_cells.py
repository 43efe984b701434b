"""From flags with several values to runs."""

import itertools
import pathlib
import re

import fabricated
import pytest
import tyro

from dn_jax.commands.flags import parse
from dn_jax.config import saved
from dn_jax.config.nested import flag_types
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from dn_jax.errors import ConfigurationError, UserError
from dn_jax.sweep import cells as axes
from dn_jax.sweep import command

SMALL = ("--data.name", "digits", "--epochs", "2")


def asked(cells):
  return [(cell.config.model.depth, cell.config.model.growth_rate, cell.config.seed) for cell in cells]


def test_the_runs_are_the_product_of_all_values_first_seeds_first():
  cells = axes.cells_of([*SMALL, "--model.depth", "10,16", "--model.growth-rate", "4,8,12"], 2)
  assert asked(cells) == [(d, k, s) for s, d, k in itertools.product((0, 1), (10, 16), (4, 8, 12))]
  assert axes.varied(cells) == ["model.depth", "model.growth-rate"]
  assert len({cell.key for cell in cells}) == 12


@pytest.mark.parametrize(
  "flags",
  [
    "--data.name digits --model.depth 10 --model.growth-rate 4 --seed 7",
    "--data.name cifar10 --data.augment --model.name densenet-bc-100-12 --model.dtype bfloat16",
    "--data.name digits --model.blocks 6 12 --model.bottleneck False --no-tensorboard",
    "--data.name svhn_cropped --optimizer.drops 0.25 0.5 --optimizer.nesterov False --checkpoint.every-minutes 2.5",
    "--model.name wide-28-10 --protocol wide --data.dir /data --model.remat none",
  ],
)
def test_a_run_is_what_train_makes_of_the_same_flags(flags):
  words = flags.split()
  (cell,) = axes.cells_of(words)
  assert cell.config == resolve(parse(RunConfig, args=words))
  assert resolve(parse(RunConfig, args=list(cell.flags))) == cell.config


def test_runs_start_from_a_file_and_their_flags_win(tmp_path):
  path = tmp_path / "a.yaml"
  path.write_text(
    "data: {name: digits, augment: true, dir: 'my data, all'}\nmodel: {blocks: [2, 3], bottleneck: false}\nseed: 5\n"
    "optimizer: {weight_decay: 1e-05, drops: [0.1, 0.2], nesterov: false}\nfreeze: [stem, last]\nepochs: 2"
  )
  cells = axes.cells_of(["--model.growth-rate", "4,8", "--no-freeze-statistics"], 2, file=saved.read(path))
  for cell, (seed, growth_rate) in zip(cells, itertools.product((0, 1), (4, 8)), strict=True):
    assert cell.config == resolve(
      RunConfig(
        DataConfig("digits", augment=True, dir=pathlib.Path("my data, all").absolute()),
        ModelConfig(blocks=(2, 3), bottleneck=False, growth_rate=growth_rate),
        OptimizerConfig(weight_decay=1e-5, drops=(0.1, 0.2), nesterov=False),
        freeze=("stem", "last"),
        epochs=2,
        seed=seed,
      )
    )
    # Its process needs the file no more.
    assert resolve(parse(RunConfig, args=list(cell.flags))) == cell.config
  assert axes.varied(cells) == ["model.growth-rate"]
  (one,) = axes.cells_of(["--model.depth", "10"], file=saved.read(path))
  assert (one.config.model.blocks, one.config.seed) == ((2, 2, 2), 5)


def test_a_file_that_says_where_a_run_goes_is_refused(tmp_path):
  path = tmp_path / "a.yaml"
  path.write_text("out: here")
  with pytest.raises(ConfigurationError, match=r"a.yaml: says --out; each run has its own folder, in the sweep's$"):
    axes.cells_of(SMALL, file=saved.read(path))


def test_many_runs_are_made_at_once(monkeypatch):
  """A parser takes a millisecond or more; one for each value, not for each run."""
  axes._value.cache_clear()
  calls = []
  cli = tyro.cli
  monkeypatch.setattr(tyro, "cli", lambda *args, **options: calls.append(options) or cli(*args, **options))
  words = [*SMALL, "--model.compression", "0.5,0.6", "--model.dropout", ",".join(f"0.{n}" for n in range(1, 9))]
  assert len(axes.cells_of(words, 20)) == 320
  assert len(calls) <= 2 + 2 + 8 + 20


def test_lists_truth_values_and_files_of_lines(tmp_path):
  path = tmp_path / "lines"
  path.write_text("# mine\n--model.blocks 1 2,2 2   # two\n\n--model.depth 10 --model.growth-rate 4,8\n")
  cells = axes.cells_of([*SMALL, "--model.growth-rate", "6", "--data.augment", "True,False"], 1, axes.lines_of(path))
  found = [(c.config.model.blocks, c.config.model.growth_rate, c.config.data.augment) for c in cells]
  # A line's values stand before the command's.
  assert set(found[:4]) == set(itertools.product([(1, 2), (2, 2)], [6], [True, False]))
  assert set(found[4:]) == set(itertools.product([(1, 1, 1)], [4, 8], [True, False]))
  assert len(found) == 8
  with pytest.raises(ConfigurationError, match="cannot be read"):
    axes.lines_of(tmp_path / "none")
  path.write_text("# nothing\n\n")
  with pytest.raises(ConfigurationError, match=r"^--file .*lines: has no line with flags$"):
    axes.lines_of(path)


def test_a_run_that_is_asked_for_twice_comes_once():
  both = axes.cells_of([*SMALL, "--model.growth-rate", "4"], 1, [["--model.depth", "10"], ["--model.blocks", "1 1 1"]])
  assert len(both) == 1
  assert len(axes.cells_of([*SMALL, "--model.growth-rate", "4,4", "--model.depth", "10"], 1)) == 1


def test_a_folder_of_data_is_meant_from_where_the_sweep_was_started(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (cell,) = axes.cells_of([*SMALL, "--data.dir", "here"])
  assert cell.flags[-2:] == ("--data.dir", str(tmp_path / "here"))
  assert cell.config.data.dir == tmp_path / "here"
  (cell,) = axes.cells_of([*SMALL, "--data.dir=/there"])
  assert cell.config.data.dir == pathlib.Path("/there")


@pytest.mark.slow
def test_a_bucket_is_where_it_is(bucket):
  (cell,) = axes.cells_of([*SMALL, "--data.dir", "gs://bucket/tfds"])
  assert cell.flags[-2:] == ("--data.dir", "gs://bucket/tfds")


def test_all_values_that_do_not_fit_a_depth_are_listed():
  with pytest.raises(UserError) as error:
    axes.cells_of([*SMALL, "--model.depth", "10,11,16,17", "--model.growth-rate", "4,8"], 2)
  lines = str(error.value).splitlines()
  assert lines[0] == "2 of the values do not fit; nothing was started"
  assert [re.match(r"  --model\.depth (\d+): ", line)[1] for line in lines[1:]] == ["11", "17"]


def test_all_values_that_do_not_parse_are_listed():
  words = "--model.depth ten,10,4.5 --model.dtype float8 --seed 0,x --model.remat none,auto --model.growth-rate 12 24"
  with pytest.raises(UserError) as error:
    axes.cells_of(words.split())
  assert str(error.value).splitlines() == [
    "6 of the values do not fit; nothing was started",
    "  --model.depth ten: takes a whole number",
    "  --model.depth 4.5: takes a whole number",
    "  --model.dtype float8: takes float32 or bfloat16",
    "  --seed x: takes a whole number",
    "  --model.remat none,auto: says how a run is carried out, not what it is; give one value",
    "  --model.growth-rate 12 24: takes a whole number; put commas between several",
  ]


@pytest.mark.parametrize(
  ("words", "line"),
  [
    (
      ["--model.grwth-rate", "4"],
      r"--model\.grwth-rate 4: there is no such flag; did you mean --model\.growth-rate or --model\.growth-rates\?",
    ),
    (["--sedes", "3"], r"--sedes 3: there is no such flag; did you mean .*--seeds\b"),
    (["--dry-runs"], r"did you mean --dry-run\?"),
    (["--clutser", "local"], r"did you mean --cluster\?"),
    (["--model.depth", "10,,16"], "has an empty value"),
    (["--model.depth", "10", "--model.depth", "16"], "is given twice; put commas between its values"),
    (["--distributed.auto"], "a sweep's run is one process"),
    (["10", "--model.depth"], "10: a value without a flag before it"),
  ],
)
def test_a_flag_that_cannot_be_is_one_line(words, line):
  with pytest.raises(UserError, match=line) as error:
    axes.cells_of(
      [*SMALL, *words] if words[0].startswith("--") else words, also=flag_types(command.Sweep) | {"seeds": int}
    )
  assert "\n" not in str(error.value)


def test_seeds_are_given_once():
  with pytest.raises(ConfigurationError, match=r"^--seeds 2: give --seeds or --seed, not both$"):
    axes.cells_of([*SMALL, "--seed", "1"], 2)


def test_a_run_is_named_by_one_of_the_wanted_values():
  config = fabricated.config(growth_rate=8)
  assert axes.names(axes.axes_of(["--model.growth-rate", "4,8", "--data.name", "digits"]), config)
  assert not axes.names(axes.axes_of(["--model.growth-rate", "4,12"]), config)
  assert axes.names(axes.axes_of(["--model.blocks", "1 1 1", "--data.augment", "False"]), config)
  with pytest.raises(ConfigurationError, match=r"^--model\.depth x: takes a whole number$"):
    axes.names(axes.axes_of(["--model.depth", "x"]), config)


@pytest.mark.parametrize("name", ["net.keras", "net.weights.h5", "net.safetensors"])
def test_a_file_of_weights_that_has_gone_and_says_of_its_network_what_no_flag_does_is_missed(tmp_path, name):
  with pytest.raises(UserError, match=rf"--weights .*{name}: there is no such file, and it says which network"):
    axes.cells_of([*SMALL, "--model.depth", "10", "--weights", str(tmp_path / name)])


def test_a_file_of_weights_that_has_gone_and_said_nothing_is_not_missed(tmp_path):
  assert len(axes.cells_of([*SMALL, "--model.depth", "10", "--weights", str(tmp_path / "net.pth")])) == 1
