"""Every bound of a run's flags, on both sides: refused in a line, and taken."""

import functools
import math
import pathlib
import re

import pytest

from dn_jax.config.nested import replaced
from dn_jax.config.network import name_of
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError

NAN, INF = math.nan, math.inf
# A flag, a value that is refused, what is said of it, and the nearest value that is taken.
AT_LEAST = [
  *(
    (flag, 0, "must be at least 1", 1)
    for flag in (
      *(
        "data.max-pixels",
        "epochs",
        "batch-size",
        "checkpoint.every-epochs",
        "checkpoint.every-steps",
        "optimizer.rate-batch",
      ),
      *("statistics-groups", "accumulation", "devices", "steps-per-dispatch", "evaluation-batch-size"),
      *("distributed.timeout", "distributed.heartbeat"),
    )
  ),
  *((flag, -1, "must be at least 0", 0) for flag in ("seed", "data.validation", "data.workers")),
  ("checkpoint.keep", 1, "must be at least 2 (the newest may be cut short while it is written)", 2),
]
RANGES = [
  ("seed", 2**32, "must be below 2**32", 2**32 - 1),
  *(
    (flag, value, "must be above 0", 1e-30)
    for flag in ("optimizer.learning-rate", "optimizer.classifier-rate")
    for value in (0.0, -1.0, INF, NAN)
  ),
  *(
    (flag, value, "at least 0, below 1", taken)
    for flag in ("optimizer.momentum", "optimizer.label-smoothing", "optimizer.average", "data.bad-share")
    for value, taken in ((-1e-9, 0.0), (1.0, 0.999), (NAN, 0.5))
  ),
  *(("optimizer.weight-decay", value, "must be at least 0", 0.0) for value in (-1e-9, INF, NAN)),
  *(
    ("optimizer.drops", (0.5, value), "shares of the epochs, above 0, at most 1", (0.5, taken))
    for value, taken in ((0.0, 1e-9), (1.5, 1.0), (NAN, 1.0))
  ),
  *(
    ("optimizer.warmup-epochs", value, "at least 0, within the run", taken)
    for value, taken in ((-0.5, 0.0), (2.5, 2.0), (NAN, 1.0))
  ),
  ("optimizer.warmup-steps", -1, "must be at least 0", 0),
  *(
    ("optimizer.drop-factor", value, "above 0, at most 1", taken)
    for value, taken in ((0.0, 1e-9), (1.1, 1.0), (NAN, 0.1))
  ),
  *(("checkpoint.every-minutes", value, "must be above 0", 0.5) for value in (0.0, -1.0, NAN)),
]
# Of images that are read one by one.
STREAMED = [
  ("data.size", 0, "must be at least 1", 1),
  ("data.resize", 31, "must be at least 32", 32),
  ("data.normalise", "mean", "images that are read one by one have no mean image; take channel", "channel"),
  ("last-batch", "keep", "batches that are read image by image have one size; take drop", "drop"),
]


def resolved(base, flag, value):
  """A configuration with one flag changed, filled in and checked."""
  return resolve(replaced(base, flag, value))


@pytest.mark.parametrize(("flag", "wrong", "words", "right"), [*AT_LEAST, *RANGES])
def test_a_value_beyond_a_bound_is_refused_and_the_next_one_taken(flag, wrong, words, right):
  base = RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), epochs=2)
  with pytest.raises(ConfigurationError) as refused:
    resolved(base, flag, wrong)
  assert str(refused.value) == f"--{flag} {wrong}: {words}"
  assert refused.value.flag == flag
  assert functools.reduce(getattr, flag.replace("-", "_").split("."), resolved(base, flag, right)) == right


@pytest.mark.parametrize(("flag", "wrong", "words", "right"), STREAMED)
def test_so_are_values_that_images_read_one_by_one_cannot_have(flag, wrong, words, right):
  base = RunConfig(DataConfig("imagenet2012", size=32), ModelConfig(blocks=(1,), growth_rate=4), epochs=2)
  with pytest.raises(ConfigurationError, match=f"^{re.escape(f'--{flag} {wrong}: {words}')}$"):
    resolved(base, flag, wrong)
  assert resolved(base, flag, right)


def test_flags_that_do_not_go_together_are_refused():
  base = RunConfig(DataConfig("digits"), ModelConfig(depth=10), shard_state=True)
  with pytest.raises(
    ConfigurationError, match=r"^--parallel pmap: every device holds the whole state under it; --shard"
  ):
    resolved(base, "parallel", "pmap")
  with pytest.raises(ConfigurationError, match=r"^--report best: needs held-out images; give --data\.validation$"):
    resolved(base, "report", "best")
  assert resolved(replaced(base, "data.validation", 1), "report", "best").report == "best"


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    ({"weights_digest": "0" * 64}, "--weights-digest 0{64}: is of a file; for --weights FILE"),
    ({"weights_revision": "main"}, "--weights-revision main: is of the hub's files; for --weights hf://OWNER/NAME"),
    ({"weights_revision": "v1", "weights": "w.pth"}, "--weights-revision v1: is of the hub's files; "),
    ({"weights_digest": "xyz", "weights": "w.pth"}, "--weights-digest xyz: 64 digits, 0-9 and a-f: a file's SHA-256"),
    ({"weights_digest": "A" * 64, "weights": "w.pth"}, "--weights-digest A{64}: 64 digits, 0-9 and a-f"),
  ],
)
def test_flags_of_weights_without_such_a_file_and_a_digest_that_is_none_are_refused(flags, line):
  flags = flags | ({"weights": pathlib.Path(flags["weights"])} if "weights" in flags else {})
  with pytest.raises(ConfigurationError, match=f"^{line}"):
    resolve(RunConfig(DataConfig("digits"), ModelConfig(depth=10), **flags))


def test_images_and_batches_that_leave_nothing_to_normalise_are_refused():
  # Eight pixels are halved once a transition: to four, two, one, and nothing.
  base = RunConfig(DataConfig("digits"), ModelConfig(blocks=(1, 1, 1, 1), growth_rate=4), batch_size=2)
  assert resolve(base)
  with pytest.raises(ConfigurationError, match="images of 8x8 pixels shrink to nothing"):
    resolved(base, "model.blocks", (1, 1, 1, 1, 1))
  with pytest.raises(ConfigurationError, match=r"--batch-size 1: .* a single pixel; at least 2$"):
    resolved(base, "batch-size", 1)
  with pytest.raises(ConfigurationError, match=r"--batch-size 2: .* a single pixel; at least 2 for each of 2 groups$"):
    resolved(base, "statistics-groups", 2)


@pytest.mark.parametrize(
  ("model", "name"),
  [
    (ModelConfig(family="resnet", depth=20), "resnet-20"),
    (ModelConfig(family="resnet", depth=20, survival=0.5), "resnet-20-stochastic-depth"),
    (ModelConfig(family="preactivation", depth=11), "preactivation-11"),
    (ModelConfig(family="wide", depth=10, widen_factor=3), "wide-10-3"),
    (ModelConfig(depth=10, growth_rate=5), "densenet-bc-10-5"),
  ],
)
def test_a_network_that_the_zoo_does_not_have_is_called_by_kind_and_size(model, name):
  config = resolve(RunConfig(DataConfig("digits"), model))
  assert name_of(config.model) == name
  assert str(config.out) == f"runs/digits_{name}_seed0"


def test_a_run_in_a_folder_whose_name_is_not_utf8_is_refused():
  with pytest.raises(ConfigurationError, match=r"--out r\\xf6n: has bytes that are not UTF-8"):
    resolve(RunConfig(DataConfig("digits"), out=pathlib.Path("r\udcf6n")))
