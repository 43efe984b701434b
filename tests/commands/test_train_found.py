"""Training on folders as they are found: parts, names of any bytes, foreign files, and runs begun by the first rule."""

import json
import os
import pathlib

import numpy as np
import pytest
import traced_once
from conftest import call
from photographs import class_folders
from PIL import Image

from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.data import catalog
from dn_jax.runs import records

traced_once = traced_once.traced_once

LATIN = os.fsdecode(b"caf\xe9")
NETWORK = ("--model.blocks", "1", "--model.growth-rate", "4", "--data.size", "16", "--epochs", "1", "--batch-size", "8")


def train(folder, out, *flags):
  return call("dn_jax", "train", "--data.name", "folder", "--data.dir", folder, *NETWORK, "--out", out, *flags)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  folder = tmp_path_factory.mktemp("found") / "photos"
  for part, each in (("Train", 8), ("val", 2), ("test", 4)):
    class_folders(folder / part, (LATIN, "tea"), each, first=100 * each)
  for path in (folder / "Train" / "tea" / "0.jpg", folder / "test" / "tea" / "0.jpg"):
    path.rename(path.with_name(f"{LATIN}.jpg"))
  (folder / "test" / "tea" / ".ipynb_checkpoints").mkdir()
  return folder


@pytest.fixture(scope="module")
def found(parts, tmp_path_factory):
  out = tmp_path_factory.mktemp("run") / "run"
  done = train(parts, out, "--report", "best", "--data.bad-share", "0")
  assert done.returncode == 0, done.stderr
  return out, done


@pytest.mark.slow
def test_the_first_lines_say_what_the_folder_was_taken_for_and_data_json_keeps_it(parts, found):
  out, done = found
  assert done.stdout.splitlines()[1:4] == [
    r"classes: 2 (caf\xe9, tea)",
    "images: 16 for training (Train), 4 for validation (val), 8 for test (test)",
    "passed over: 1 hidden, or left by another program (test/tea/.ipynb_checkpoints)",
  ]
  data = json.loads((out / "data.json").read_text())
  assert data["split_rule"] == 2
  assert data["classes"] == [{"name": name, "train": 8, "validation": 2, "test": 4} for name in (LATIN, "tea")]
  assert data["pictures"] == {"train": 16, "valid": 4, "test": 8}
  assert records.read_data(out).names == (LATIN, "tea")
  assert json.loads((out / "metrics.jsonl").read_text())["valid_error"] is not None
  again = train(parts, out, "--report", "best", "--data.bad-share", "0")
  assert "this run is finished" in again.stdout, again.stderr


@pytest.mark.slow
def test_its_network_is_measured_on_each_part_and_predicts_names_of_any_bytes(parts, found, tmp_path, capsysbinary):
  out, _ = found
  for split, count in (("train", 16), ("valid", 4), ("test", 8)):
    done = call("dn_jax", "evaluate", out, "--split", split, "--checkpoint", "best")
    assert f"{split}, {count} images" in done.stdout, done.stderr
  maps = tmp_path / "maps"
  flags = (parts / "test" / LATIN, parts / "test" / "tea", parts / "val" / "tea")
  done = call("dn_jax", "predict", out, *flags, "--json", "--cam", maps)
  assert done.returncode == 0, done.stderr
  assert "passed over: 1 hidden" in done.stderr
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(lines) == 10
  assert {each["class"] for line in lines for each in line["classes"]} == {LATIN, "tea"}
  assert os.fsencode(lines[7]["picture"]).endswith(b"test/tea/caf\xe9.jpg")
  # Three folders, whose images have the same names.
  assert len(list(maps.iterdir())) == 10
  done = call("dn_jax", "export", out, "--to", tmp_path / "weights.safetensors")
  assert done.returncode == 0, done.stderr
  done = call("dn_jax", "evaluate", "--weights", tmp_path / "weights.safetensors", "--data.dir", parts)
  assert done.stdout.startswith("8 images, 1 crop of 16 pixels"), done.stderr
  assert done.stderr.splitlines()[0] == f"test images: {parts}/test"


@pytest.mark.parametrize(
  ("flags", "answer"),
  [
    (["--data.validation", "4"], "--data.validation 4: there is a validation part already, val; leave this flag out"),
    (["--data.test-split", "val"], "--data.test-split val: is for a data set that TFDS prepared"),
    (
      ["--data.dir", "{parts}/Train", "--data.validation", "1"],
      "--data.validation 1: there are 14 training images; 2",
    ),
    (["--data.dir", "{parts}/Train", "--report", "best"], "--report best: needs held-out images; give --data.valid"),
    (["--data.bit-depth", "8"], "--data.bit-depth 8: must be at least 9"),
    (["--data.max-pixels", "0"], "--data.max-pixels 0: must be at least 1"),
    (["--data.dir", "{parts}/Train/tea"], "--data.dir {parts}/Train/tea: has no class folders; put images at"),
  ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(parts, tmp_path, flags, answer):
  done = train(parts, tmp_path / "run", *(flag.format(parts=parts) for flag in flags))
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: {answer.format(parts=parts)}")
  assert len(done.stderr.splitlines()) == 1
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_depth_of_sixteen_bit_images_is_warned_of_kept_and_goes_into_exported_weights(tmp_path):
  for label, name in enumerate(("dark", "light")):
    (tmp_path / "deep" / name).mkdir(parents=True)
    for n in range(8):
      values = np.random.default_rng(n).integers(0, 2048, (20, 20)) + 2047 * label
      Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep" / name / f"{n}.png")
  warning = "16-bit images use 12 bits, so that they become 0 to 15 of 255; --data.bit-depth 12 takes these for all"
  done = train(tmp_path / "deep", tmp_path / "plain", "--data.augment")
  assert warning in done.stdout.splitlines(), done.stderr
  done = train(tmp_path / "deep", tmp_path / "run", "--data.bit-depth", "12")
  assert (done.returncode, warning in done.stdout) == (0, False), done.stderr
  assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["bit_depth"] == 12
  assert "bit_depth" not in json.loads((tmp_path / "plain" / "config.json").read_text())["data"]
  done = train(tmp_path / "deep", tmp_path / "run")
  assert "--data.bit-depth: 12 -> (absent)" in done.stderr
  file, image = tmp_path / "weights.safetensors", tmp_path / "deep" / "light" / "3.png"
  assert call("dn_jax", "export", tmp_path / "run", "--to", file).returncode == 0
  said = [call("dn_jax", "predict", source, image, "--json") for source in (tmp_path / "run", file)]
  assert [(each.stderr, each.stdout) for each in said] == [("", said[0].stdout)] * 2
  assert call("dn_jax", "predict", tmp_path / "plain", image).stderr == f"{image}: {warning}\n"


# As the version before wrote it for the folder below and --data.validation 4.
BY_RULE_ONE = {
  "pictures": {"train": 17, "valid": 4, "test": 2},
  "labels": "a4a5634cec373048365ae86220ce027a",
  "classes": ["common", "rare"],
}


def before(folder: pathlib.Path) -> pathlib.Path:
  class_folders(folder, ("common", "rare"), each=19)
  for n in range(3, 19):
    (folder / "rare" / f"{n}.jpg").unlink()
  (folder / "rare" / ".ipynb_checkpoints").mkdir()
  content = (folder / "rare" / "0.jpg").read_bytes()
  (folder / "rare" / ".ipynb_checkpoints" / "0-checkpoint.jpg").write_bytes(content)
  (folder / "rare" / "9.gif").write_bytes(content)
  return folder


def test_the_first_rule_lists_and_splits_as_it_did(tmp_path):
  data = DataConfig("folder", before(tmp_path / "photos"), validation=4)
  found = catalog.load(data, rule=1)
  assert json.loads(json.dumps(catalog.fingerprint(found))) == BY_RULE_ONE
  names = [found.valid.name_of(n).removeprefix(f"{tmp_path}/photos/") for n in range(4)]
  assert names == ["common/16.jpg", "common/5.jpg", "rare/.ipynb_checkpoints/0-checkpoint.jpg", "rare/2.jpg"]
  digits = catalog.fingerprint(catalog.load(DataConfig("digits", validation=100), rule=1))
  (recorded,) = (pathlib.Path(__file__).parent.parent / "fixtures" / "run").iterdir()
  assert digits == json.loads((recorded / "data.json").read_text())


@pytest.mark.slow
def test_a_run_that_was_begun_by_the_first_rule_goes_on_by_it(tmp_path):
  folder = before(tmp_path / "photos")
  data = DataConfig("folder", folder, validation=4, size=16)
  config = RunConfig(data, ModelConfig(blocks=(1,), growth_rate=4), epochs=1, batch_size=8, out=tmp_path / "run")
  records.create(tmp_path / "run", resolve(config), records.Data(**catalog.fingerprint(catalog.load(data, rule=1))))
  done = train(folder, tmp_path / "run", "--data.validation", "4")
  assert done.returncode == 0, done.stderr
  assert "split by the rule that this run began with" in done.stdout
  assert json.loads((tmp_path / "run" / "data.json").read_text()) == BY_RULE_ONE
  assert call("dn_jax", "evaluate", tmp_path / "run").returncode == 0
  # A new one does not.
  done = train(folder, tmp_path / "new", "--data.validation", "4")
  assert done.returncode == 0, done.stderr
  data = json.loads((tmp_path / "new" / "data.json").read_text())
  assert data["classes"][1] == {"name": "rare", "train": 2, "validation": 1, "test": 1}
