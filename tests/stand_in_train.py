"""Stands in for `python -m dn_jax train` where a sweep is tested: it keeps the same records, and trains nothing.

What befalls a run is in the file behaviour.json of --data.dir, by seed: words that are used up one a start. `fail`,
`kill` (itself, by SIGKILL), `orphan` (kills its parent), `told` (to stop, by SIGTERM), `slow` (a long epoch); without
one it runs through. An epoch takes `pause` seconds. Events of all runs are lines of events.txt there, and a run's
environment is in environment-SEED.json.

It is started dozens of times, and imports nothing that takes long: see `stand_in.prepare`.
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import time

from dn_jax.system import child_processes, folders, lock, signals

child_processes.hold()
flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
folder, data = folders.of("out", pathlib.Path(flags["--out"])), pathlib.Path(flags["--data.dir"])
seed = flags.get("--seed", "0")


def event(word):
  with (data / "events.txt").open("a") as file:
    file.write(f"{folder.name} {seed} {word}\n")


def stop(number, frame):
  event("stopped")
  sys.exit(75)


def alone():
  """What lets this process alone into the folder; a bucket has no locks."""
  if folders.is_bucket(folder):
    return contextlib.nullcontext()
  held = contextlib.ExitStack()
  try:
    held.enter_context(lock.held(folder, lock.RUN))
  except lock.TakenError as taken:
    event("clash")
    print(f"error: {taken}")
    sys.exit(2)
  return held


records = json.loads((data / "records.json").read_text())
asked = json.loads((data / "behaviour.json").read_text()) if (data / "behaviour.json").exists() else {}
starts = (data / "events.txt").read_text().count(f" {seed} began\n") if (data / "events.txt").exists() else 0
behaviour = [*asked.get(seed, []), *[""] * (starts + 1)][starts]
signal.signal(signal.SIGTERM, stop)
signal.signal(signals.ASK, stop)
with alone():
  if (folder / "summary.json").exists():
    event("again")
    sys.exit(0)
  (data / f"environment-{seed}.json").write_text(json.dumps(dict(os.environ)))
  event("began")
  config = json.loads((folder / "config.json").read_text())
  print(f"epochs of 20 steps $ in {os.getcwd()}, {os.environ['COLUMNS']} columns", flush=True)
  metrics = folder / "metrics.jsonl"
  lines = metrics.read_text().splitlines() if metrics.exists() else []
  for epoch in range(len(lines), config["epochs"]):
    if behaviour == "fail":
      sys.exit("a line before\nerror: no luck in [/b] $ here\n  and more")
    if behaviour == "kill":
      os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "told" and epoch:
      os.kill(os.getpid(), signal.SIGTERM)
    if behaviour == "orphan" and epoch:
      os.kill(os.getppid(), signal.SIGKILL)
      time.sleep(60)
    time.sleep(60 if behaviour == "slow" else asked.get("pause", 0.0))
    own = {"epoch": epoch + 1, "step": 10 * (epoch + 1), "test_error": (5 + config["seed"]) / 100}
    lines.append(json.dumps(records["epoch"] | own))
    folders.write_whole(metrics, "".join(line + "\n" for line in lines))
  own = {"test_error_percent": 5.0 + config["seed"], "seed": config["seed"]}
  counts = {"epochs": config["epochs"], "reported_epoch": config["epochs"]}
  print(f"test error: {own['test_error_percent']:.2f} %")
  folders.write_whole(folder / "summary.json", json.dumps(records["summary"] | own | counts))
  event("finished")
