"""What somebody else may have written into a checkpoint, with digests that fit."""

import dataclasses
import json

import pytest
from test_checkpoint import RECORD, history, restore, save, state

from dn_jax.errors import UserError
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.loop import Begun, Plan
from dn_jax.training.position import Position, check, of_record
from dn_jax.training.seal import seal


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("position/metadata", "{}"),
    ("position/metadata", "[" * 100_000),
    ("_CHECKPOINT_METADATA", "[]"),
    ("metrics/metrics", "{"),
    ("state/_METADATA", '{"tree_metadata": 5}'),
    ("state/manifest.ocdbt", "manifest"),
  ],
)
def test_a_checkpoint_whose_files_make_no_sense_is_refused_in_a_line(tmp_path, name, text):
  save(tmp_path / "c", 2, valid=[0.5, 0.4])
  (tmp_path / "c" / "20" / name).write_text(text)
  seal(tmp_path / "c" / "20")
  with pytest.raises(
    UserError, match=r"c(/20)?: cannot be read \(.*\); move (it|the damaged one in it) elsewhere"
  ) as refused:
    restore(tmp_path / "c")
  assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("text", ['{"valid_error": "low", "epoch": 2}', '{"epoch": 2}', "[]"])
def test_a_checkpoint_whose_metrics_make_no_sense_is_not_taken_for_the_best(tmp_path, text):
  save(tmp_path / "c", 2, valid=[0.4, 0.5])
  (tmp_path / "c" / "20" / "metrics" / "metrics").write_text(text)
  seal(tmp_path / "c" / "20")
  with Checkpoints(tmp_path / "c", 1, print) as checkpoints:
    checkpoints.save(30, state(3), history(3, [0.4, 0.5, 0.5]))
  with Checkpoints(tmp_path / "c", 1, print) as checkpoints:
    assert checkpoints.steps() == [30, 10]


@pytest.mark.parametrize(
  "change",
  [
    {"history": [{}]},
    {"history": 5},
    {"begun": {"steps": -1, "seconds": 0.0}},
    {"begun": {"steps": 1, "seconds": float("nan")}},
    {"begun": {"stops": 1}},
    {"network": None},
    {"more": 1},
  ],
)
def test_a_position_is_checked_as_anything_from_outside_is(change):
  whole = Position((RECORD,), Begun(3, 0.5), "jax 0.1", "00")
  record = json.loads(json.dumps(dataclasses.asdict(whole)))
  assert of_record(record) == whole
  with pytest.raises(ValueError, match=next(iter(change))):
    of_record(record | change)


@pytest.mark.parametrize(
  ("name", "step", "epochs", "begun"),
  [
    (23, 24, (1, 2), 4),
    (23, 23, (1, 2), 4),
    (31, 31, (1, 2), 11),
    (40, 40, (1, 2, 3, 4), 0),
    (23, 23, (1, 3), 3),
    (23, 23, (1, 1), 3),
  ],
)
def test_a_position_that_the_run_never_has_is_refused(name, step, epochs, begun, tmp_path):
  plan = Plan(epochs=3, batch_size=1, train_images=10, keep_last_batch=False, steps_per_dispatch=1)
  of = lambda epochs: [dataclasses.replace(RECORD, epoch=epoch, step=10 * epoch) for epoch in epochs]
  check(tmp_path / "23", 23, of((1, 2)), Begun(3), plan)
  check(tmp_path / "30", 30, of((1, 2)), Begun(10), plan)
  with pytest.raises(UserError, match="which is no place of this run; move it elsewhere"):
    check(tmp_path / str(name), step, of(epochs), Begun(begun), plan)
