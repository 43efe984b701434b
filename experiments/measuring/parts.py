"""The parts of experiments/accelerator.py, in order, and which of them still fit."""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from measuring.program import CutOff, PartFailed, Program
from measuring.record import Record, name_of, schedule_of, summary_of

PEERS = pathlib.Path(__file__).resolve().parents[1] / "peers"
COMPILED, PLAIN = "torch+channels-last+compiled+bfloat16", "torch+channels-last+bfloat16"
# Parts of one kind take about as long; all others are on JAX.
KINDS = {COMPILED: "torch compiled", PLAIN: "torch"}
# Steps before any is timed, the first included; rounds that are timed, and about the seconds of one.
SETTLE, ROUNDS, ROUND = 10, 5, 1.0
TRAINING = "training"
# Seconds that versions and device may take.
LOOK = 180.0
TORCH_DEVICE = """
import json, platform, torch
cuda = torch.cuda.is_available()
print(json.dumps({"device": torch.cuda.get_device_name() if cuda else "the CPU", "cuda": cuda,
  "versions": {"python": platform.python_version(), "torch": torch.__version__}}))
"""


@dataclasses.dataclass(frozen=True)
class Flags:
  """What a person asked for, checked. The first batch size and the first policy are those of the training."""

  minutes: float
  data: pathlib.Path | None
  out: pathlib.Path
  depth: int
  growth_rate: int
  batch_sizes: tuple[int, ...]
  policies: tuple[str, ...]
  epochs: int
  torch_python: str


class LeftOut(Exception):
  """A part that cannot begin; one line says why."""


@dataclasses.dataclass(frozen=True)
class Part:
  """An entry of the record.

  name:  as a person reads it
  kind:  parts of one kind take about as long
  take:  (its entry, seconds that it has) -> more facts for the entry; raises `PartFailed` or `LeftOut`
  share: of all the time, when it must have ended
  """

  name: str
  kind: str
  take: Callable[[dict[str, Any], float], dict[str, Any]]
  share: float = 1.0


class Budget:
  """Which parts still fit. What one takes is told from the longest of its kind that ended or was cut off."""

  def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
    self._seconds, self._clock, self._began = seconds, clock, clock()
    self._longest: dict[str, float] = {}

  def elapsed(self) -> float:
    return self._clock() - self._began

  def left(self, share: float = 1.0) -> float:
    """Seconds until this share of all has passed."""
    return share * self._seconds - self.elapsed()

  def took(self, kind: str, seconds: float) -> None:
    """Notes how long a part took."""
    self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))

  def objection(self, part: Part) -> str | None:
    """Why a part must not begin; None where it may."""
    left, needed = self.left(part.share), self._longest.get(part.kind, 0.0)
    end = "the training's half" if part.share < 1 else "the end"
    if left <= 0:
      return f"no time is left before {end}"
    return f"takes about {needed:.0f} s, and {left:.0f} s are left before {end}" if needed > left else None


class Parts:
  """What is measured, in order."""

  def __init__(self, flags: Flags, record: Record, caches: pathlib.Path):
    """caches: a folder for compiled programs, empty."""
    self._flags, self._record, self._caches = flags, record, caches

  def __iter__(self) -> Iterator[Part]:
    first, *more = self._flags.batch_sizes
    policy, *others = (f"bare+{each}+bfloat16" for each in self._flags.policies)
    half = 0.5 if self._flags.data else 1.0
    yield Part("versions and device", "device", self._device)
    yield self._step(policy, first)
    yield self._step("flax+bfloat16", first, half)
    yield self._step(COMPILED, first, half)
    yield Part(TRAINING, "jax", self._training)
    for other in others:
      yield self._step(other, first)
    for batch_size in more:
      yield self._step(policy, batch_size)
    yield Part("second compilation", "jax", lambda entry, seconds: self._again(policy, first, seconds))
    yield self._step(PLAIN, first)
    for batch_size in more:
      yield self._step("flax+bfloat16", batch_size)
      yield self._step(COMPILED, batch_size)

  def _step(self, peer: str, batch_size: int, share: float = 1.0) -> Part:
    def take(entry: dict[str, Any], seconds: float) -> dict[str, Any]:
      entry |= {"peer": peer, "batch_size": batch_size}
      if peer in KINDS:
        self._need_a_device_of_torch()
      with self._worker(peer, batch_size, seconds, _cache(peer, batch_size)) as program:
        return timed(program)

    return Part(name_of(peer, batch_size), KINDS.get(peer, "jax"), take, share)

  def _worker(self, peer: str, batch_size: int, seconds: float, cache: str) -> Program:
    """A process that takes steps; what an earlier one compiled with this cache is loaded."""
    python = self._flags.torch_python if peer in KINDS else sys.executable
    size = map(str, (self._flags.depth, self._flags.growth_rate, batch_size))
    return self._program([python, str(PEERS / "worker.py"), peer, *size], seconds, cache)

  def _program(self, command: list[str], seconds: float, name: str) -> Program:
    environment = {
      "JAX_COMPILATION_CACHE_DIR": str(self._caches / name),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "TORCHINDUCTOR_CACHE_DIR": str(self._caches / name),
      # An exception's own line comes last; a device's memory is taken as it is needed.
      "JAX_TRACEBACK_FILTERING": "off",
      "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    return Program(command, self._flags.out / "logs" / f"{name}.log", seconds, environment)

  def _device(self, entry: dict[str, Any], seconds: float) -> dict[str, Any]:
    with self._program([self._flags.torch_python, "-c", TORCH_DEVICE], min(seconds, LOOK), "torch-device") as program:
      try:
        entry["torch"] = program.answer()
      except PartFailed as failed:
        entry["torch"] = {"failed": str(failed)}
    with self._program([sys.executable, str(PEERS / "jax_device.py")], min(seconds, LOOK), "device") as program:
      return program.answer()

  def _need_a_device_of_torch(self) -> None:
    """Leaves PyTorch out where it is missing, or has only the host's processor beside JAX's accelerator."""
    found = self._record.content["parts"][0]
    torch = found.get("torch", {})
    if "failed" in torch:
      raise LeftOut(f"no PyTorch in {self._flags.torch_python}: {torch['failed']}")
    if not torch.get("cuda") and found.get("backend", "cpu") != "cpu":
      raise LeftOut("PyTorch sees no GPU")

  def _training(self, entry: dict[str, Any], seconds: float) -> dict[str, Any]:
    flags = self._flags
    if flags.data is None:
      raise LeftOut("no --data; --help says how to make it")
    about = {"policy": flags.policies[0], "batch_size": flags.batch_sizes[0], "data": str(flags.data)}
    # A schedule that has begun cannot be changed: where steps turn out slower, the training may go on to the end.
    until = time.time() + min(seconds, 60 * flags.minutes / 2)
    size = {"depth": flags.depth, "growth_rate": flags.growth_rate, "epochs": flags.epochs, "until": until}
    question = json.dumps(about | size)
    with self._program([sys.executable, str(PEERS / "bare_training.py"), question], seconds, "training") as program:
      entry |= {**about, **program.answer(), "trained": []}
      say(f"         training: {schedule_of(entry)}")
      for epoch in program.answers():
        entry["trained"].append(epoch)
        self._record.write()
    return {}

  def _again(self, peer: str, batch_size: int, seconds: float) -> dict[str, Any]:
    """The same steps by the first part's program, loaded, and by one that is compiled anew."""
    first = self._record.done(name_of(peer, batch_size))
    if first is None:
      raise LeftOut("the first program is not there")
    until, again = time.monotonic() + seconds, {}
    for how, cache in (("loaded", _cache(peer, batch_size)), ("compiled again", "compiled-again")):
      with self._worker(peer, batch_size, until - time.monotonic(), cache) as program:
        program.answer()
        first_step_after = time.monotonic() - program.began
        last = settled(program)
      same = last["digest"] == first["digest"]
      again[how] = {"same_bits": same, "first_step_after": first_step_after, "device_peak": last["device_peak"]}
    return {"again": again}


def _cache(peer: str, batch_size: int) -> str:
  return f"{peer}-{batch_size}"


def settled(program: Program) -> dict[str, Any]:
  """A worker's answer to its last step before any is timed; the first is taken."""
  program.ask(SETTLE - 2)
  return program.ask(1)


def timed(program: Program) -> dict[str, Any]:
  """Times a worker's steps.

  Returns:
    Facts: `rounds_ms`, milliseconds of a step in each round of `steps`; memory in MiB; of our own step `digest`, of the
    state after SETTLE steps.
  """
  first = program.answer()
  first_step_after = time.monotonic() - program.began
  last = settled(program)
  steps = max(1, min(200, round(ROUND / last["seconds"])))
  rounds = [program.ask(steps) for _ in range(ROUNDS)]
  return {
    **{name: first[name] for name in ("parameters", "device", "versions")},
    **{name: last[name] for name in ("temporaries", "digest") if name in last},
    "first_step_after": first_step_after,
    "steps": steps,
    "rounds_ms": [1000 * each["seconds"] for each in rounds],
    "device_peak": rounds[-1]["device_peak"],
    "host_peak": rounds[-1]["peak"],
  }


def measure(parts: Iterable[Part], record: Record, budget: Budget) -> None:
  """Takes the parts one after another; each is written down when it begins and when it ends."""
  for part in parts:
    if why := budget.objection(part):
      entry = record.add(part=part.name, state="left out", why=why)
    else:
      say(f"{_clock(budget)}  {part.name} begins")
      entry = record.add(part=part.name, state="running", began=time.strftime("%Y-%m-%d %H:%M:%S %z"))
      _take(part, entry, record, budget)
    words = ("" if entry["state"] == "done" else entry["state"], entry.get("why", ""), summary_of(entry))
    say(f"{_clock(budget)}  {part.name}: {', '.join(filter(None, words))}")
    if entry.get("backend") == "cpu":
      say("         JAX sees no accelerator here: all times are a CPU's")


def _take(part: Part, entry: dict[str, Any], record: Record, budget: Budget) -> None:
  began = budget.elapsed()
  try:
    entry |= part.take(entry, budget.left(part.share))
    entry["state"] = "done"
  except LeftOut as left_out:
    entry |= {"state": "left out", "why": str(left_out)}
  except CutOff as cut_off:
    entry |= {"state": "cut off", "why": str(cut_off)}
  except PartFailed as failed:
    entry |= {"state": "failed", "why": str(failed)}
  except BaseException:
    entry["state"] = "cut off"
    raise
  finally:
    entry["seconds"] = budget.elapsed() - began
    record.write()
  # A training takes the time that it is given.
  if entry["state"] in ("done", "cut off") and part.name != TRAINING:
    budget.took(part.kind, entry["seconds"])


def say(line: str) -> None:
  print(line, flush=True)


def _clock(budget: Budget) -> str:
  minutes, seconds = divmod(int(budget.elapsed()), 60)
  return f"{minutes:4d}:{seconds:02d}"
