"""What is tortured: a small run, one that reads its images one by one, one of two processes, and a sweep."""

import dataclasses
import pathlib
import random
import socket
import time

import cv2
import numpy as np
from torturing.comparing import difference, newest_whole
from torturing.started import LOOK, Mistake, Started

from dn_jax.runs import records

EXPERIMENTS = pathlib.Path(__file__).parent.parent
_NETWORK = ("--model.depth", "10", "--model.growth-rate", "4", "--data.augment")
# An epoch has 18 steps or 9, and two checkpoints within it.
_DIGITS = ("--data.name", "digits", "--data.validation", "100", "--checkpoint.every-steps", "7")
_IMAGES = ("--data.name", "folder", "--data.size", "16", "--batch-size", "8", "--checkpoint.every-steps", "3")


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of run.

  script: of experiments/, that carries it out
  flags: all but where it is
  processes: that carry it out together
  """

  script: str
  flags: tuple[str, ...]
  processes: int = 1

  @property
  def is_sweep(self) -> bool:
    return self.script == "ablate.py"

  def commands(self, out: pathlib.Path) -> list[list[str]]:
    """The words after Python of each process."""
    command = [str(EXPERIMENTS / self.script), *self.flags, "--out", str(out)]
    if self.processes == 1:
      return [command]
    with socket.socket() as probe:  # A free port.
      probe.bind(("localhost", 0))
      address = f"localhost:{probe.getsockname()[1]}"
    together = ("--distributed.coordinator", address, "--distributed.num-processes", str(self.processes))
    return [[*command, *together, "--distributed.process-id", str(number)] for number in range(self.processes)]


KINDS = {
  "run": Kind("train.py", (*_NETWORK, *_DIGITS, "--model.dropout", "0.1", "--epochs", "6")),
  "streamed": Kind("train.py", (*_NETWORK, *_IMAGES, "--model.dropout", "0.1", "--epochs", "6")),
  "two": Kind("train.py", (*_NETWORK, *_DIGITS, "--model.dropout", "0.1", "--epochs", "6"), processes=2),
  "sweep": Kind("ablate.py", (*_NETWORK, *_DIGITS, "--epochs", "3", "--model.dropout", "0,0.1", "--no-memory")),
}


def with_images(kind: Kind, folder: pathlib.Path) -> Kind:
  """A kind with the images that it reads one by one, which are written where they are not there yet."""
  if "folder" not in kind.flags:
    return kind
  rng = np.random.default_rng(0)
  for split, count in (("train", 24), ("val", 8)):
    for label in range(3):
      (place := folder / split / f"class{label}").mkdir(parents=True, exist_ok=True)
      for number in range(count):
        image = (rng.integers(0, 128, (20, 24, 3)) + 40 * label).astype(np.uint8)
        if not cv2.imwrite(str(place / f"{number}.png"), image):
          raise OSError(f"{place} cannot be written")
  return dataclasses.replace(kind, flags=(*kind.flags, "--data.dir", str(folder)))


@dataclasses.dataclass
class Victim:
  """A run that is disturbed.

  place: a folder of its own, with the run's folder and what its processes print
  out: the run's folder as its commands have it
  seen: the run's folder as it is seen from here
  before: words in front of its commands
  """

  kind: Kind
  place: pathlib.Path
  rng: random.Random
  epochs: int = 0
  epoch_seconds: float = 0.0
  before: tuple[str, ...] = ()
  out: pathlib.Path = dataclasses.field(init=False)
  seen: pathlib.Path = dataclasses.field(init=False)
  _starts: int = 0

  def __post_init__(self) -> None:
    self.place.mkdir(parents=True)
    self.out = self.seen = self.place / "run"

  def start(self, *before: str) -> Started:
    """Starts its command. Args: `before`: words between Python and the command."""
    self._starts += 1
    commands = [[*before, *command] for command in self.kind.commands(self.out)]
    logs = [self.place / f"start-{self._starts}-{number}" for number in range(len(commands))]
    return Started(commands, logs, self.before)

  def folders(self) -> list[pathlib.Path]:
    """The folder of the run, or of each of a sweep's."""
    return sorted(path.parent for path in self.seen.glob("*/config.json")) if self.kind.is_sweep else [self.seen]

  def finished(self) -> bool:
    found = self.folders()
    return (
      bool(found) and self.progress() >= self.epochs > 0 and all((each / "summary.json").exists() for each in found)
    )

  def progress(self) -> int:
    """Epochs that are written down, of a sweep those of all its runs."""
    return sum(map(_epochs, self.folders()))

  def whole(self) -> dict[str, int | None]:
    """The newest whole checkpoint of each folder."""
    return {folder.name: newest_whole(folder) for folder in self.folders()}

  def check_kept(self, before: dict[str, int | None]) -> None:
    """Raises `Mistake` where a whole checkpoint is gone and no newer one is whole."""
    after = self.whole()
    for name, step in before.items():
      if step is not None and (after.get(name) or -1) < step:
        raise Mistake(f"the whole checkpoint of step {step} is lost; the newest is {after.get(name)}")

  def wait_for_moment(self, started: Started) -> bool:
    """Waits for a random moment of the training's next half; False where it ended before.

    Epochs are counted rather than seconds: a busy machine takes as many.
    """
    done = self.progress()
    epochs, part = divmod(self.rng.uniform(done, done + max(0.0, self.epochs - done - 1) / 2), 1)
    while started.goes_on() and not (self.trains(started) and self.progress() >= epochs):
      time.sleep(LOOK)
    time.sleep(part * self.epoch_seconds)
    return started.goes_on()

  def trains(self, started: Started) -> bool:
    """Whether a start has come to its first step, or in a sweep to its first run."""
    return bool(self.folders()) if self.kind.is_sweep else "epochs of" in started.said()


def _epochs(folder: pathlib.Path) -> int:
  try:
    return (folder / "metrics.jsonl").read_bytes().count(b"\n")
  except FileNotFoundError:
    return 0


def finish(victim: Victim) -> None:
  """Takes a run to its end, from its newest whole checkpoint.

  Raises:
    Mistake: it does not end well, or begins elsewhere.
  """
  newest, was_finished = victim.whole(), victim.finished()
  started = victim.start()
  started.end(0)
  if not victim.kind.is_sweep and not was_finished:
    check_begun(started.said(), newest["run"])


def check_begun(said: str, step: int | None) -> None:
  """Raises `Mistake` where a run that ended well has not gone on from a step, or for None not begun anew."""
  went_on = "from the checkpoint of step " in said
  if went_on if step is None else f"from the checkpoint of step {step:,}\n" not in said:
    raise Mistake(f"did not go on from the newest whole checkpoint, of step {step}")


def compare(victim: Victim, undisturbed: Victim) -> None:
  """Raises `Mistake` where a finished run is not the undisturbed one."""
  ours, theirs = ([each.name for each in victim.folders()] for victim in (victim, undisturbed))
  if ours != theirs:
    raise Mistake(f"runs {ours}, not {theirs}")
  for folder, other in zip(victim.folders(), undisturbed.folders(), strict=True):
    if found := difference(folder, other):
      raise Mistake(f"{folder.name} ended otherwise: {found}")
    if (log := folder / "log.txt").exists() and "Traceback" in log.read_text(errors="replace"):
      raise Mistake(f"a traceback in {log}")


def undisturbed(kind: Kind, place: pathlib.Path) -> Victim:
  """A finished run that nothing disturbed."""
  result = Victim(kind, place, random.Random(0))
  finish(result)
  found = [record for folder in result.folders() for record in records.read_records(folder)]
  result.epochs = len(found)
  # The first of each has compiled.
  result.epoch_seconds = sorted(record.seconds + record.evaluation_seconds for record in found)[len(found) // 2]
  return result
