"""Stands in for experiments/train.py where a sweep is tested: it keeps the same records, and trains nothing.

What befalls a run is in the file behaviour.json of --data.dir, by seed: words that are used up one a start. `fail`,
`kill` (itself, by SIGKILL), `orphan` (kills its parent), `told` (to stop, by SIGTERM), `slow` (a long epoch); without
one it runs through. An epoch takes `pause` seconds. Events of all runs are lines of events.txt there.
"""

import fcntl
import json
import os
import pathlib
import signal
import sys
import time

import fabricated

from dn_jax import folders, runs, tether
from dn_jax.training import interruption

tether.hold()
flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
folder, data = pathlib.Path(flags["--out"]), pathlib.Path(flags["--data.dir"])
seed = flags.get("--seed", "0")


def event(word):
  with (data / "events.txt").open("a") as file:
    file.write(f"{folder.name} {seed} {word}\n")


def stop(number, frame):
  event("stopped")
  sys.exit(75)


asked = json.loads((data / "behaviour.json").read_text()) if (data / "behaviour.json").exists() else {}
starts = (data / "events.txt").read_text().count(f" {seed} began\n") if (data / "events.txt").exists() else 0
behaviour = [*asked.get(seed, []), *[""] * (starts + 1)][starts]
signal.signal(signal.SIGTERM, stop)
signal.signal(interruption.ASK, stop)
with (folder / "busy").open("w") as busy:
  try:
    fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    event("clash")
    sys.exit("error: two processes in one folder")
  if runs.read_summary(folder):
    event("again")
    sys.exit(0)
  event("began")
  config = runs.read_config(folder)
  print(f"epochs of 20 steps $ in {os.getcwd()}, {os.environ['COLUMNS']} columns", flush=True)
  for epoch in range(len(runs.read_records(folder)), config.epochs):
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
    records = [fabricated.record(n + 1, 0.05) for n in range(epoch + 1)]
    folders.write_whole(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
  event("finished")
  summary = fabricated.summary(config, 5.0 + config.seed)
  runs.write_summary(folder, summary)
