"""Kills a small run at random moments, damages its checkpoints and fills its disk: does it end like an undisturbed one?

  python experiments/torture.py --kills 100 --seed 1

After each fault the run is started again with the same command. At its end it is compared with an undisturbed run:
parameters, running averages and momentum bit for bit, and the records without their times.
"""

import collections
import dataclasses
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import numpy as np
import rich.console
import rich.table
import tyro

from dn_jax.commands import command_line
from dn_jax.config.schema import Whole
from dn_jax.errors import ConfigurationError
from dn_jax.runs import records
from dn_jax.system import folders
from dn_jax.training.checkpoint import steps_on_disk

TRAIN = pathlib.Path(__file__).with_name("train.py")
FLAGS = (
  *("--data.name", "digits", "--data.augment", "--data.validation", "100", "--epochs", "8"),
  *("--model.depth", "10", "--model.growth-rate", "4", "--model.dropout", "0.1", "--checkpoint.every-steps", "7"),
)
TIMES = ("seconds", "evaluation_seconds", "images_per_second")
# Allowed exit codes of a run that was sent a signal: it saved and stopped, or was killed.
ENDS = {
  signal.SIGKILL: {-signal.SIGKILL},
  signal.SIGTERM: {75, -signal.SIGTERM},
  signal.SIGINT: {75, 130, -signal.SIGINT},
}


def start(folder: pathlib.Path, *flags: str) -> subprocess.Popen:
  command = [sys.executable, str(TRAIN), *FLAGS, "--out", str(folder), *flags]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: pathlib.Path) -> str | None:
  """Takes a run to its end; returns its mistake, or None."""
  process = start(folder)
  output, _ = process.communicate(timeout=600)
  return None if process.returncode == 0 else f"exit code {process.returncode}: {output.strip().splitlines()[-1:]}"


def arrays(folder: pathlib.Path) -> list[np.ndarray]:
  """Arrays of the newest checkpoint: parameters, running averages, momentum, counts."""
  import jax
  import orbax.checkpoint as ocp

  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager((folder / records.CHECKPOINTS).absolute(), options=options) as manager:
    restored = manager.restore(
      steps_on_disk(folder / records.CHECKPOINTS)[0], args=ocp.args.Composite(state=ocp.args.StandardRestore())
    )
  return [np.asarray(leaf) for leaf in jax.tree.leaves(restored["state"])]


def difference(folder: pathlib.Path, undisturbed: pathlib.Path) -> str | None:
  """The first difference of a finished run from the undisturbed one, or None."""
  ours, theirs = (
    [{k: v for k, v in dataclasses.asdict(r).items() if k not in TIMES} for r in records.read_records(each)]
    for each in (folder, undisturbed)
  )
  if ours != theirs:
    return f"records: {len(ours)} of {len(theirs)}, or other numbers"
  if (folder / "results.csv").read_text() != (undisturbed / "results.csv").read_text():
    return "results.csv"
  pairs = list(zip(arrays(folder), arrays(undisturbed), strict=True))
  if unequal := sum(not np.array_equal(a, b) for a, b in pairs):
    return f"{unequal} of {len(pairs)} arrays"
  return None


def damage(folder: pathlib.Path, kind: str, rng: random.Random) -> bool:
  """Damages the files of a stopped run; False if it has none of that kind."""
  checkpoints = folder / records.CHECKPOINTS
  steps = steps_on_disk(checkpoints)
  if kind == "checkpoints vanish":
    shutil.rmtree(checkpoints, ignore_errors=True)
    return bool(steps)
  if kind == "records cut short":
    path = folder / "metrics.jsonl"
    if not path.exists() or not steps:  # Without a checkpoint the records are set aside whole, not read.
      return False
    path.write_bytes(path.read_bytes()[:-20])
    return True
  if not steps:
    return False
  newest = checkpoints / str(steps[0])
  if kind == "digests missing":
    (newest / "digests.json").unlink(missing_ok=True)
    return True
  victim = rng.choice(sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size))
  content = bytearray(victim.read_bytes())
  if kind == "file removed":
    victim.unlink()
  elif kind == "file truncated":
    victim.write_bytes(content[: rng.randrange(len(content))])
  elif kind == "bit flipped":
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    victim.write_bytes(content)
  return True


# Kilobytes of disks that are filled by the first checkpoint, by a later one, and by figures or records beside them.
DISKS = ((60, 150), (150, 300), (300, 450))
DAMAGE = ("bit flipped", "file truncated", "file removed", "digests missing", "checkpoints vanish", "records cut short")


def full_disk(folder: pathlib.Path, kilobytes: int) -> str | None:
  """Runs on a file system that is too small and then grows; returns the mistake, or None; "" if it cannot be tried."""
  small = folder / "disk"
  small.mkdir(parents=True)
  command = " ".join(map(repr, [sys.executable, str(TRAIN), *FLAGS, "--out", str(small / "run")]))
  script = f"""
mount -t tmpfs -o size={kilobytes}k none {small} || exit 90
{command} > {folder}/first.log 2>&1; echo $? > {folder}/first
mount -o remount,size=64m {small} || exit 90
{command} > {folder}/second.log 2>&1; echo $? > {folder}/second
cp -r {small}/run {folder}/run
"""
  namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
  try:
    done = subprocess.run([*namespace, script], capture_output=True, text=True, timeout=1200)
  except FileNotFoundError:
    return ""
  if not (folder / "first").exists() or done.returncode == 90:
    return ""
  first, second = (int((folder / name).read_text()) for name in ("first", "second"))
  text = (folder / "first.log").read_text()
  last = text.strip().splitlines()[-1]
  if first != 2 or "cannot be written" not in last or "Traceback" in text:
    return f"on the full disk: exit code {first}, {last!r}"
  return None if second == 0 else f"with room again: {(folder / 'second.log').read_text()[-300:]!r}"


class Tally:
  """Faults by kind, and the runs that did not survive them."""

  def __init__(self, console: rich.console.Console):
    self.faults: collections.Counter[str] = collections.Counter()
    self.lost: list[str] = []
    self.compared = 0
    self._console = console

  def fault(self, kind: str) -> None:
    self.faults[kind] += 1
    self._console.print(f"{self.faults.total():>4}  {kind}", highlight=False)

  def verdict(self, folder: pathlib.Path, undisturbed: pathlib.Path, wrong: str | None) -> None:
    """Compares a run that has ended, or notes why it could not."""
    wrong = wrong or difference(folder, undisturbed)
    self.compared += 1
    if wrong:
      self.lost.append(f"{folder}: {wrong}")
    self._console.print(f"      {folder.name}: {wrong or 'ended as the undisturbed run'}", highlight=False)


def kill_once(folder: pathlib.Path, seconds: float, rng: random.Random, tally: Tally) -> str | None:
  """Starts a run and sends it a signal at a random moment; returns the mistake of its end, or None."""
  number = rng.choices(list(ENDS), weights=(2, 1, 1))[0]
  wait_for_training = rng.random() < 0.8
  process, begin = start(folder), time.monotonic()
  while wait_for_training and process.poll() is None and not (folder / "config.json").exists():
    time.sleep(0.01)
  end = time.monotonic() + rng.uniform(0, seconds if wait_for_training else time.monotonic() - begin + seconds)
  while process.poll() is None and time.monotonic() < end:
    time.sleep(0.01)
  finished = process.poll() is not None
  process.send_signal(number)
  output, _ = process.communicate(timeout=300)
  tally.fault(
    "ended before it was killed"
    if finished
    else f"{number.name} in training"
    if "epochs of" in output
    else f"{number.name} at the start"
  )
  if process.returncode in ENDS[number] | {0}:
    return None
  return f"{number.name}: exit code {process.returncode}, {output.strip().splitlines()[-1:]}"


def torture(
  kills: Whole = 20,
  seed: Whole = 0,
  json_path: Annotated[pathlib.Path | None, tyro.conf.arg(name="json")] = None,
  keep: pathlib.Path | None = None,
) -> None:
  """Kills, damages and starves a small run, and counts the runs lost.

  Args:
    kills: signals to send, at random moments; after each the run is started again.
    seed: of the moments and of the damage.
    json_path: file for the counts.
    keep: a new folder for the runs; by default they are deleted unless one was lost.
  """
  if keep and keep.exists():
    raise ConfigurationError("keep", keep, "is there already; take another")
  command_line.check_file("json", json_path)
  logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax remarks on reading alone.
  rng, console = random.Random(seed), rich.console.Console()
  root = keep or pathlib.Path(tempfile.mkdtemp(prefix="torture-"))
  tally, undisturbed = Tally(console), root / "undisturbed"
  if wrong := finish(undisturbed):
    raise ConfigurationError("keep", root, f"the undisturbed run failed ({wrong})")
  begin = time.monotonic()
  if wrong := finish(root / "timed"):  # Everything is compiled now, so this one's time counts.
    raise ConfigurationError("keep", root, f"the undisturbed run failed ({wrong})")
  tally.verdict(root / "timed", undisturbed, None)
  seconds = sum(record.seconds + record.evaluation_seconds for record in records.read_records(root / "timed"))
  console.print(f"undisturbed: {time.monotonic() - begin:.0f} s, {seconds:.1f} of them training", highlight=False)

  number, faults_of_run, damages = 1, 0, list(DAMAGE)
  for kill in range(kills):
    folder = root / f"run-{number}"
    wrong = kill_once(folder, seconds, rng, tally)
    faults_of_run += 1
    if not wrong and rng.random() < 0.5 and not (folder / "summary.json").exists():
      kind = damages[0]
      if damage(folder, kind, rng):
        damages = [*damages[1:], kind]
        tally.fault(kind)
    # A run is finished after a few faults, so that many runs are compared.
    if wrong or (folder / "summary.json").exists() or faults_of_run >= 4 or kill == kills - 1:
      tally.verdict(folder, undisturbed, wrong or finish(folder))
      number, faults_of_run = number + 1, 0
  for kind in DAMAGE:  # Each kind at least once.
    if not tally.faults[kind]:
      folder = root / f"run-{number}"
      process = start(folder)
      while process.poll() is None and not (
        (folder / "metrics.jsonl").exists() and len(steps_on_disk(folder / records.CHECKPOINTS)) > 1
      ):
        time.sleep(0.01)
      process.kill()
      process.communicate()
      if damage(folder, kind, rng):
        tally.fault(kind)
      tally.verdict(folder, undisturbed, finish(folder))
      number += 1
  for room in DISKS:
    kilobytes = rng.randint(*room)
    folder = root / f"disk-{kilobytes}k"
    wrong = full_disk(folder, kilobytes)
    if wrong == "":
      console.print("a full disk was not tried: mounting a small one needs user namespaces (unshare)")
      break
    tally.fault("disk full")
    tally.verdict(folder / "run", undisturbed, wrong)

  table = rich.table.Table("fault", "times", title="Faults")
  for kind, times in sorted(tally.faults.items()):
    table.add_row(kind, str(times))
  console.print(table)
  for line in tally.lost:
    console.print(f"lost: {line}", highlight=False)
  print(f"faults tried: {tally.faults.total()}, runs compared: {tally.compared}, runs lost: {len(tally.lost)}")
  if json_path:
    folders.write_whole(
      json_path,
      json.dumps({"faults": dict(tally.faults), "compared": tally.compared, "lost": tally.lost, "seed": seed}, indent=2)
      + "\n",
    )
  if not keep and not tally.lost:
    shutil.rmtree(root)
  sys.exit(1 if tally.lost else 0)


if __name__ == "__main__":
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  command_line.program(torture, __doc__)()
