"""One network of experiments/benchmark.py or accelerator.py in a process of its own: takes training steps on command.

  python experiments/peers/worker.py PEER DEPTH GROWTH_RATE BATCH_SIZE [NETWORK]

PEER is a module of this folder and its options, joined by "+": torch+channels-last. NETWORK is a Python file that
builds PyTorch's network, or a name of the zoo for ours. Needs only the peer's own framework; its Python may differ from
the benchmark's. Takes a first step, then as many as each line of standard input says, and prints a line of JSON after
each. A step may go on on the device after its call; the loss of the last one is read, which waits for all.
"""

import importlib
import json
import os
import pathlib
import platform
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))

from dn_jax.system import child_processes


def resident(field):
  """Memory of this process, MiB: VmRSS is the current, VmHWM the peak."""
  with open("/proc/self/status") as file:
    line = next(line for line in file if line.startswith(field + ":"))
  return int(line.split()[1]) / 1024


def answering():
  """A function that prints its arguments as a line of JSON; whatever else is printed goes to standard error."""
  answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
  os.dup2(2, 1)

  def answer(**record):
    answers.write(json.dumps(record) + "\n")
    answers.flush()

  return answer


def main(name, depth, growth_rate, batch_size, network=None):
  answer = answering()
  module, *options = name.split("+")
  peer = importlib.import_module(module + "_peer")
  imported = resident("VmRSS")
  if network:
    options.append(network)
  # A third result says more of the step, after any number of them.
  step, parameters, *more = peer.start(int(depth), int(growth_rate), int(batch_size), *options)
  tell = more[0] if more else dict
  started = time.perf_counter()
  loss = float(step())
  answer(
    first_step=time.perf_counter() - started,
    loss=loss,
    parameters=parameters,
    imported=imported,
    peak=resident("VmHWM") - imported,
    device=peer.device(),
    versions={"python": platform.python_version(), **peer.versions()},
    **tell(),
  )
  for line in sys.stdin:
    steps = int(line)
    started = time.perf_counter()
    for _ in range(steps):
      loss = step()
    loss = float(loss)
    seconds = (time.perf_counter() - started) / steps
    answer(seconds=seconds, loss=loss, peak=resident("VmHWM") - imported, device_peak=peer.device_peak(), **tell())


if __name__ == "__main__":
  child_processes.hold()
  main(*sys.argv[1:])
