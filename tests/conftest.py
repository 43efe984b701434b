"""Where tests compile and what they share."""

import contextlib
import fcntl
import importlib
import io
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import pytest

# Before anything imports JAX.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
# Most of what tests take is compiling, and most of that LLVM's optimisation of programs that run for a moment. Without
# it the same operations are computed, here and in processes that tests start; 0: compiled as a person's runs are.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import emulator
import hub_server
import jax
import several_devices

from dn_jax.system import kept_programs
from dn_jax.system.compilation import keep_compiled_programs

keep_compiled_programs()
# Tests trace what they run, but for those of kept programs.
kept_programs.keep_in(None)
# Of the thousands of small programs that tests compile, none is worth a file.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

ROOT = pathlib.Path(__file__).parent.parent
FIXTURES = pathlib.Path(__file__).parent / "fixtures"
RECORDS = sorted(FIXTURES.glob("*.npz"))
# Seconds after which what a test waits for never comes, however busy the machine is.
HANGS = 1200

# Prepares a small TFDS `cifar10` of drawn pictures, in a process of its own: TensorFlow must not get in here.
PREPARE = """
import sys
import numpy as np
import tensorflow_datasets as tfds

folder, file_format, side, classes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

class Cifar10(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("3.0.2")
  pkg_dir_path = __import__("pathlib").Path(folder)

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
        "image": tfds.features.Image(shape=(side, side, 3)), "label": tfds.features.ClassLabel(num_classes=classes)}))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples("train", 120), "test": self._generate_examples("test", 40)}

  def _generate_examples(self, split, count):
    rng = np.random.RandomState(len(split))
    for n in range(count):
      yield n, {"image": np.full((side, side, 3), rng.randint(256), np.uint8), "label": n % classes}

Cifar10(data_dir=folder, file_format=file_format).download_and_prepare()
"""


def prepare(folder: pathlib.Path, file_format: str = "array_record", side: int = 32, classes: int = 10) -> pathlib.Path:
  """A folder with a small prepared `cifar10`: picture n of a split is of one grey, its label n % classes."""
  subprocess.run(
    [sys.executable, "-c", PREPARE, str(folder), file_format, str(side), str(classes)], check=True, capture_output=True
  )
  return folder


def greys() -> dict[str, tuple[np.ndarray, list[int]]]:
  """The images and labels of `prepare`'s data set, by split, in the order in which TFDS is given them."""
  splits = {}
  for split, count in (("train", 120), ("test", 40)):
    rng = np.random.RandomState(len(split))
    values = np.array([rng.randint(256) for _ in range(count)], np.uint8)
    splits[split] = np.tile(values[:, None, None, None], (1, 32, 32, 3)), [n % 10 for n in range(count)]
  return splits


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> pathlib.Path:
  """A prepared `cifar10`; of tests in several processes the first to need it makes it for all."""
  run_of_all = os.environ.get("PYTEST_XDIST_TESTRUNUID")
  if run_of_all is None:
    return prepare(tmp_path_factory.mktemp("tfds"))
  folder = tmp_path_factory.getbasetemp().parent / f"tfds-{run_of_all}"
  with folder.with_suffix(".lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    if not folder.exists():  # Where preparing fails, the other process tries too, and fails too.
      prepare(folder.with_suffix(".half")).rename(folder)
    return folder


@pytest.fixture(scope="module")
def bucket():
  """The environment in which gs://bucket is an emulator's, here and in processes of ours."""
  with emulator.serving() as environment, pytest.MonkeyPatch.context() as patch:
    for name, value in environment.items():
      patch.setenv(name, value)
    yield environment


@pytest.fixture(scope="module")
def hub_of_a_module() -> Iterator[hub_server.Server]:
  with hub_server.serving() as server:
    yield server


@pytest.fixture
def the_hub(hub_of_a_module, tmp_path, monkeypatch) -> hub_server.Server:
  """The Hugging Face hub as `huggingface_hub` sees it in this test: empty, and nothing is in the cache."""
  return hub_server.fresh(hub_of_a_module, tmp_path / "home", monkeypatch)


@pytest.fixture(scope="session")
def eight_devices() -> Iterator[several_devices.Process]:
  """A process with eight devices, which takes cases and commands."""
  with several_devices.Process() as process:
    yield process


@pytest.fixture
def one_cluster():
  """Tests that start a Ray cluster do so one after another, whatever runs tests at the same time."""
  with (pathlib.Path(tempfile.gettempdir()) / "dn_jax-tests-ray.lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


@pytest.fixture
def kept_programs_in(tmp_path, monkeypatch) -> Iterator[pathlib.Path]:
  """The folder where compiled programs are kept meanwhile, however short they take to compile."""
  monkeypatch.setattr(kept_programs, "_folder", tmp_path / "steps")
  before = jax.config.jax_persistent_cache_min_compile_time_secs
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  yield tmp_path / "steps"
  jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@pytest.fixture
def untraced(monkeypatch) -> Callable[[], None]:
  """Called, it lets no program of a layout be traced from then on."""
  return lambda: monkeypatch.setattr("dn_jax.distributed.layout.Layout.everywhere", lambda *given: None)


def bits(tree: object) -> list[tuple]:
  """The arrays of a tree, to compare them to the last bit."""
  return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def run(*command: object, **environment: str) -> subprocess.CompletedProcess:
  """Runs a script in a process of its own, which takes seconds; for tests of what a process is or does."""
  return subprocess.run(
    [sys.executable, *map(str, command)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=HANGS,
    env=os.environ | environment,
  )


def call(script: str, *words: object) -> subprocess.CompletedProcess:
  """Runs a script of the project, or `dn_jax` itself, in this process: a command line's exit code and what it prints.

  What a script raises comes through as it is, where a process would print it and end with 1.
  """
  out, err = io.StringIO(), io.StringIO()
  code: object = 0
  with (
    contextlib.chdir(ROOT),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    mock.patch.object(sys, "argv", [script, *map(str, words)]),
    mock.patch.object(sys, "path", [str((ROOT / script).parent), *sys.path]),
    mock.patch("dn_jax.system.compilation.keep_compiled_programs"),  # As they are kept here already.
  ):
    try:
      if script == "dn_jax":
        importlib.import_module("dn_jax.__main__").main()
      else:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
      code = end.code
      if isinstance(code, str):
        print(code, file=err)
        code = 1
  return subprocess.CompletedProcess([script, *words], code or 0, out.getvalue(), err.getvalue())


def wait_for(sign: pathlib.Path, *processes: subprocess.Popen) -> None:
  """Waits until a file or folder is there, which processes that live are to leave; on a busy machine, for long."""
  stop = time.monotonic() + HANGS
  while not sign.exists():
    assert all(process.poll() is None for process in processes), f"ended before {sign} was there"
    assert time.monotonic() < stop, f"{sign} does not come"
    time.sleep(0.01)


def small_run(out: pathlib.Path, *flags: str) -> list[str]:
  """A command that trains a tiny network on digits in seconds."""
  return [
    "experiments/train.py",
    "--data.name",
    "digits",
    "--model.depth",
    "10",
    "--model.growth-rate",
    "4",
    "--epochs",
    "4",
    "--out",
    str(out),
    *flags,
  ]


def metrics(folder: pathlib.Path) -> list[dict]:
  """A run's metrics without what time it took."""
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  timed = ("seconds", "evaluation_seconds", "images_per_second", "waiting_seconds", "compile_seconds")
  return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def relative(a, b) -> float:
  """Distance of two arrays, relative to the second's norm (absolute where that is 0)."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))
