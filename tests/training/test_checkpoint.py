"""Checkpoints that survive what disks do, and when one is due."""

import dataclasses
import errno
import itertools
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT
from jax.experimental import multihost_utils

from dn_jax.errors import UserError
from dn_jax.runs.records import EpochRecord
from dn_jax.training import checkpoint
from dn_jax.training.checkpoint import Checkpoints, Rhythm
from dn_jax.training.loop import Begun
from dn_jax.training.step import Totals, TrainState

RECORD = EpochRecord(1, 10, 0.1, 1.5, 0.4, None, None, 1.4, 0.3, 2.0, 0.5, 100.0, test_class_errors=(0.25, None))


def state(number):
  rng = np.random.RandomState(number)
  return TrainState(
    jnp.int32(number),
    {"w": jnp.asarray(rng.randn(300, 40), jnp.float32)},
    {"mean": jnp.asarray(rng.randn(7), jnp.float32)},
    ({"trace": jnp.zeros((300, 40))}, jnp.int32(number)),
  )


def history(epochs, valid=None):
  return [
    dataclasses.replace(RECORD, epoch=n, step=10 * n, valid_error=valid and valid[n - 1]) for n in range(1, epochs + 1)
  ]


def save(folder, epochs, keep=2, valid=None):
  with Checkpoints(folder, keep, print) as checkpoints:
    for n in range(1, epochs + 1):
      checkpoints.save(10 * n, state(n), history(n, valid))


def restore(folder, said=None, step=None):
  with Checkpoints(folder, 2, (said if said is not None else []).append) as checkpoints:
    return checkpoints.restore(state(0), step)[:2]


def test_a_state_and_its_history_come_back_bit_for_bit(tmp_path):
  save(tmp_path / "c", 3)
  restored, records = restore(tmp_path / "c")
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state(3)), strict=True):
    assert np.array_equal(a, b)
    assert a.dtype == b.dtype
  assert records == history(3)


def test_saving_does_not_see_what_the_next_steps_do_to_donated_buffers(tmp_path):
  step = jax.jit(lambda s: jax.tree.map(lambda leaf: leaf + 1, s), donate_argnums=0)
  current = jax.tree.map(jnp.copy, state(1))
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(10, current, history(1))
    for _ in range(20):
      current = step(current)
  restored, _ = restore(tmp_path / "c")
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state(1)), strict=True):
    assert np.array_equal(a, b)


def test_the_newest_stay_and_the_first_best_besides(tmp_path):
  save(tmp_path / "c", 6, keep=2, valid=[0.5, 0.2, 0.3, 0.2, 0.4, 0.4])
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    assert checkpoints.steps() == [60, 50, 20]


def test_an_epoch_under_way_comes_back_with_what_it_has_come_to(tmp_path):
  totals = Totals(jnp.int32(64), jnp.asarray(1.25), jnp.int32(7), jnp.int32(2))
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(10, state(1), history(1))
    checkpoints.save(14, state(2), history(1), Begun(4, 2.5), totals)
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    restored, records, begun, found = checkpoints.restore(state(0))
  assert (int(restored.step), records, begun) == (2, history(1), Begun(4, 2.5))
  assert jax.tree.leaves(found) == jax.tree.leaves(totals)


def test_a_checkpoint_within_an_epoch_is_never_the_best(tmp_path):
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    for n in range(1, 4):
      checkpoints.save(10 * n, state(n), history(n, [0.2, 0.3, 0.4]))
      checkpoints.save(10 * n + 5, state(n), history(n, [0.2, 0.3, 0.4]), Begun(5, 1.0), Totals.zero())
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    assert checkpoints.steps() == [35, 30, 10]


def test_a_step_that_was_saved_before_its_evaluation_is_saved_again_after(tmp_path):
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(10, state(1), history(1))
    checkpoints.save(20, state(2), history(1), Begun(10, 1.0), Totals.zero())
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    assert checkpoints.restore(state(0))[2].steps == 10
    checkpoints.save(20, state(2), history(2))
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    assert checkpoints.restore(state(0))[1:3] == (history(2), Begun())


@pytest.mark.parametrize("part", ["_Manager.save", "seal", "shutil.rmtree"])
def test_a_save_in_anothers_place_that_is_cut_off_loses_nothing(tmp_path, monkeypatch, part):
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(10, state(1), history(1))
    checkpoints.save(20, state(2), history(1), Begun(10, 1.0), Totals.zero())

  class CutOff(BaseException):
    pass

  def cut_off(*arguments, **options):
    raise CutOff

  with monkeypatch.context() as broken:
    broken.setattr(f"dn_jax.training.checkpoint.{part}", cut_off)
    with pytest.raises(CutOff), Checkpoints(tmp_path / "c", 2, print) as checkpoints:
      checkpoints.save(20, state(2), history(2))
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    assert checkpoints.steps() == [20, 10]
    # Cut off once the new one is sealed, that one counts; before, the old one.
    whole = part == "shutil.rmtree"
    assert checkpoints.restore(state(0))[1:3] == ((history(2), Begun()) if whole else (history(1), Begun(10, 1.0)))
    checkpoints.save(20, state(2), history(2))
  assert [path.name for path in (tmp_path / "c").iterdir() if not path.name.isdigit()] == []
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    assert checkpoints.restore(state(0))[1:3] == (history(2), Begun())


def test_another_network_or_another_jax_is_one_line_and_nothing_changes(tmp_path, monkeypatch):
  save(tmp_path / "c", 2)
  before = files(tmp_path)
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    other = state(0).replace(params={"w": jnp.zeros((300, 41))})
    with pytest.raises(UserError, match="c/20: holds another network"):
      checkpoints.restore(other)
    monkeypatch.setattr(checkpoint, "made_with", lambda: "jax 9.9, jaxlib 9.9")
    with pytest.raises(
      UserError, match=r"c/20: jax 0\.\d.* wrote it and this is jax 9\.9, .* --checkpoint\.any-version"
    ):
      checkpoints.restore(state(0), any_version=False)
    assert int(checkpoints.restore(state(0))[0].step) == 2
  assert files(tmp_path) == before


def test_saving_asks_nothing_of_the_preemption_service(tmp_path, monkeypatch):
  # Orbax's step numbers there, between a run's own polls, would have a stop come for neither.
  asked = []
  monkeypatch.setattr(ocp.utils, "reached_preemption", lambda step: bool(asked.append(step)))
  save(tmp_path / "c", 2)
  assert asked == []


def test_a_disk_without_room_is_refused_before_anything_is_begun(tmp_path, monkeypatch):
  save(tmp_path / "c", 1)
  need = sum(path.stat().st_size for path in files(tmp_path / "c" / "10"))
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need))
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device; free space, .*\); once it can"):
      checkpoints.save(20, state(2), history(2))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10 * need))
    checkpoints.save(20, state(2), history(2))
  assert int(restore(tmp_path / "c")[0].step) == 2


# Saves until the disk is full, past the look at the room that is left; arguments: folder.
FILL = """
import pathlib, sys
import jax.numpy as jnp
from dn_jax.training.checkpoint import Checkpoints
from dn_jax.training.step import TrainState

Checkpoints._check_room = lambda *arguments: None
try:
  with Checkpoints(pathlib.Path(sys.argv[1]) / "c", 9, print) as checkpoints:
    for number in range(1, 5):
      checkpoints.save(number, TrainState(jnp.int32(number), {"w": jnp.arange(10000.0)}, {}, ()), [])
except OSError as error:
  print(error.errno)
"""


@pytest.mark.slow
@pytest.mark.thorough
def test_a_disk_that_tensorstore_finds_full_is_an_error_of_the_disk(tmp_path):
  mounted = f'mount -t tmpfs -o size=100k none {tmp_path} || exit 90; exec "$0" -c "$1" {tmp_path}'
  namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted]
  try:
    done = subprocess.run([*namespace, sys.executable, FILL], capture_output=True, text=True, cwd=ROOT)
  except FileNotFoundError:
    pytest.skip("mounting a small disk needs unshare")
  if done.returncode == 90 or "unshare failed" in done.stderr:
    pytest.skip("mounting a small disk needs user namespaces")
  assert done.stdout == f"{errno.ENOSPC}\n", done.stderr


def files(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


def truncate(folder):
  largest = max(files(folder), key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:-10])


def flip_a_bit(folder):
  largest = max(files(folder), key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 4
  largest.write_bytes(content)


def remove_a_file(folder):
  max(files(folder), key=lambda path: path.stat().st_size).unlink()


def lose_the_digests(folder):
  (folder / "digests.json").unlink()


def cut_the_digests(folder):
  (folder / "digests.json").write_text("{")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove_a_file, lose_the_digests, cut_the_digests])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, damage):
  save(tmp_path / "c", 3)
  damage(tmp_path / "c" / "30")
  said = []
  restored, records = restore(tmp_path / "c", said)
  assert int(restored.step) == 2
  assert records == history(2)
  assert len(said) == 1
  assert "checkpoint of step 30 is not used" in said[0]
  assert (tmp_path / "set-aside" / "checkpoint-30-0").is_dir()
  # Going on from there, the same step can be saved again.
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    checkpoints.save(30, state(3), history(3))
  assert int(restore(tmp_path / "c")[0].step) == 3


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path):
  save(tmp_path / "c", 2)
  for path in files(tmp_path / "c" / "20"):
    if not path.stat().st_size:
      continue
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tmp_path / "c", copy / "c")
    target = copy / "c" / path.relative_to(tmp_path / "c")
    content = bytearray(target.read_bytes())
    content[len(content) // 3] ^= 1
    target.write_bytes(content)
    assert int(restore(copy / "c")[0].step) == 1, path


def test_reading_alone_changes_nothing(tmp_path):
  save(tmp_path / "c", 2)
  flip_a_bit(tmp_path / "c" / "20")
  before = files(tmp_path)
  with Checkpoints(tmp_path / "c", 2, lambda line: None, read_only=True) as checkpoints:
    assert int(checkpoints.restore(state(0))[0].step) == 1
  assert files(tmp_path) == before


def test_no_checkpoint_is_one_line(tmp_path):
  with pytest.raises(UserError, match="there is none"):
    restore(tmp_path / "c")
  save(tmp_path / "c", 1)
  with pytest.raises(UserError, match=r"step 99 .* there are those of steps 10"):
    restore(tmp_path / "c", step=99)


def test_multiples_are_due_or_the_first_point_after_one():
  found = Rhythm(5, None, 0)
  due = []
  for step in (*range(1, 12), 14, 17, 28):
    if found.due(step):
      due.append(step)
      found.saved(step)
  assert due == [5, 10, 17, 28]
  # A run that goes on keeps to the same multiples.
  found = Rhythm(5, None, 12)
  assert [step for step in range(13, 17) if found.due(step)] == [15, 16]


def test_minutes_count_from_the_last_checkpoint(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
  found = Rhythm(None, 0.5, 0)
  now[0] += 29
  assert not found.due(1)
  now[0] += 2
  assert found.due(2)
  found.saved(2)
  now[0] += 29
  assert not found.due(3)
  assert not Rhythm(None, None, 0).due(10**6)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 4.0, 25.0])
def test_of_several_processes_the_first_ones_clock_is_looked_at_about_every_ten_seconds(monkeypatch, seconds):
  now, looks, due = [0.0], [], {0: [], 1: []}
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
  commands = int(600 / seconds)

  def tell(value):
    looks.append((now[0], value))
    return value

  monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", tell)
  first = Rhythm(None, 2.0, 0)
  for step in range(1, commands + 1):
    now[0] += seconds
    if first.due(step):
      due[0].append((step, now[0]))
      first.saved(step)
  times = [0.0, *(time for time, _ in looks)]
  gaps = [after - before for before, after in itertools.pairwise(times)]
  assert max(gaps) <= max(10.5, seconds)
  assert len(looks) <= 600 / max(seconds, 10 - seconds) + 12  # It begins with few commands between two.
  saves = [0.0, *(time for _, time in due[0])]
  assert len(due[0]) >= 4
  assert all(120 <= after - before <= 120 + max(10.5, seconds) for before, after in itertools.pairwise(saves))

  # The other one's clock stands still, and it hears the same.
  now[0], heard = 0.0, iter([value for _, value in looks])
  monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda value: next(heard))
  second = Rhythm(None, 2.0, 0)
  for step in range(1, commands + 1):
    if second.due(step):
      due[1].append(step)
      second.saved(step)
  assert due[1] == [step for step, _ in due[0]]
  assert next(heard, None) is None


def test_best_on_validation_outlives_a_restart(tmp_path):
  errors = [0.2, 0.3, 0.4, 0.5]
  for numbers in ((1, 2), (3, 4)):
    with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
      for number in numbers:
        checkpoints.save(10 * number, state(number), history(number, errors))
  with Checkpoints(tmp_path / "c", 2, print) as checkpoints:
    assert checkpoints.steps() == [40, 30, 10]
