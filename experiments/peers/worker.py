"""One network of experiments/benchmark.py in a process of its own: takes training steps on command.

  python experiments/peers/worker.py PEER DEPTH GROWTH_RATE BATCH_SIZE [NETWORK.py]

PEER is a module of this folder and its options, joined by "+": torch+channels-last. Needs only the peer's own
framework; its Python may differ from the benchmark's. Takes a first step, then as many as each line of standard input
says, and prints a line of JSON after each.
"""

import importlib
import json
import os
import platform
import sys
import time


def resident(field):
  """Memory of this process, MiB: VmRSS is the current, VmHWM the peak."""
  with open("/proc/self/status") as file:
    line = next(line for line in file if line.startswith(field + ":"))
  return int(line.split()[1]) / 1024


def main(name, depth, growth_rate, batch_size, network=None):
  # Standard output is for answers; whatever a framework prints goes to standard error.
  answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
  os.dup2(2, 1)

  def answer(**record):
    answers.write(json.dumps(record) + "\n")
    answers.flush()

  module, *options = name.split("+")
  peer = importlib.import_module(module + "_peer")
  imported = resident("VmRSS")
  if network:
    options.append(network)
  step, parameters = peer.start(int(depth), int(growth_rate), int(batch_size), *options)
  started = time.perf_counter()
  loss = step()
  answer(
    first_step=time.perf_counter() - started,
    loss=loss,
    parameters=parameters,
    imported=imported,
    peak=resident("VmHWM") - imported,
    device=peer.device(),
    versions={"python": platform.python_version(), **peer.versions()},
  )
  for line in sys.stdin:
    steps = int(line)
    started = time.perf_counter()
    for _ in range(steps):
      loss = step()
    seconds = (time.perf_counter() - started) / steps
    answer(seconds=seconds, loss=loss, peak=resident("VmHWM") - imported, device_peak=peer.device_peak())


if __name__ == "__main__":
  main(*sys.argv[1:])
