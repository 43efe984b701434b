"""Times a training step of this project, plain Flax, Keras on JAX, and PyTorch, each in its own process.

  python experiments/benchmark.py --picture benchmark.png
  python experiments/benchmark.py --json benchmark.json \\
    --torch-python ~/torch/bin/python

Peers take turns, round after round, so that a busy minute of the machine falls on all of them; compare ratios. PyTorch
may have a Python of its own: `python3.11 -m venv ~/torch; ~/torch/bin/pip install torch==2.13.0`. PyTorch's peers are
torch and torch+OPTIONS: torch+checkpointed+channels-last, torch+compiled. Ours are dn_jax+POLICY. All but keras take
+bfloat16, for activations. Needs Linux.

An RDNet beside timm's:

  python experiments/benchmark.py --model.name rdnet-cifar \\
    --peers dn_jax+layer_by_layer dn_jax+none torch torch+checkpointed \\
    --torch-python ~/torch/bin/python \\
    --torch-network experiments/peers/timm_rdnet.py
"""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any

import rich.console
import tyro

from dn_jax.commands import command_line
from dn_jax.config.network import complete_model, is_for_imagenet, remat_policies
from dn_jax.config.schema import NOT_WRITTEN, Count, ModelConfig, Size, Unset
from dn_jax.errors import ConfigurationError
from dn_jax.models import remat
from dn_jax.report import style, timings

WORKER = pathlib.Path(__file__).parent / "peers" / "worker.py"
OURS = ("dn_jax+layer_by_layer", "dn_jax+dense_layer")
JAX = (*OURS, "flax", "keras")
TORCH = ("torch", "torch+channels-last", "torch+checkpointed", "torch+checkpointed+channels-last", "torch+compiled")
TORCH_OPTIONS = {"checkpointed", "channels-last", "compiled", "bfloat16"}


class PeerError(Exception):
  """A peer could not start, or stopped; one line says why."""


class Peer:
  """A network in a process of its own; it takes one step at its start, more on command.

  first: its answer to the first step
  start: seconds from launch to that answer
  """

  def __init__(self, name: str, python: str, arguments: list[str], environment: dict[str, str]):
    self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - lives as long as the process.
    started = time.perf_counter()
    self._process = subprocess.Popen(
      [python, str(WORKER), name, *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      env=os.environ | environment,
    )
    self.first = self._answer()
    self.start = time.perf_counter() - started

  def _answer(self) -> dict[str, Any]:
    line = self._process.stdout.readline()
    if not line:
      self._process.wait()
      self._errors.seek(0)
      lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
      raise PeerError(lines[-1] if lines else f"stopped with exit code {self._process.returncode}")
    return json.loads(line)

  def take(self, steps: int) -> dict[str, Any]:
    """Takes training steps; returns the seconds of one, the last loss, and the peak memory so far in MiB."""
    try:
      self._process.stdin.write(f"{steps}\n")
      self._process.stdin.flush()
    except BrokenPipeError:
      pass
    return self._answer()

  def stop(self) -> None:
    self._process.kill()
    self._process.wait()
    self._errors.close()


@dataclasses.dataclass(frozen=True)
class Network:
  """DenseNet-BC on 32x32 images, ten classes; or another network of the zoo."""

  depth: Size = 100
  """Set L, the number of layers."""
  growth_rate: Size = 12
  """Set k, the number of channels that each layer adds."""
  name: Annotated[str | None, Unset("DenseNet-BC of the depth and growth rate")] = None
  """Take this network of the zoo. Peers are dn_jax+POLICY, and torch with --torch-network."""


def main(
  model: Network = Network(),
  batch_size: Count = 64,
  peers: Annotated[tuple[str, ...] | None, Unset("all that there is a Python for")] = None,
  repeats: Count = 5,
  steps: Count = 2,
  torch_python: Annotated[pathlib.Path | None, Unset("no peer on PyTorch")] = None,
  torch_network: Annotated[pathlib.Path | None, Unset("ours, in experiments/peers/")] = None,
  json_path: Annotated[pathlib.Path | None, tyro.conf.arg(name="json"), NOT_WRITTEN] = None,
  picture: Annotated[pathlib.Path | None, NOT_WRITTEN] = None,
) -> None:
  """Measures every peer's training step: its seconds, its memory, and the time to start.

  Args:
    model: the network.
    batch_size: take so many images per step.
    peers: measure these: dn_jax+POLICY, flax, keras, torch+OPTIONS, see above.
    repeats: measure in so many rounds.
    steps: take so many steps of a peer at its turn.
    torch_python: start PyTorch's peers by this Python.
    torch_network: build PyTorch's network by build(depth, growth_rate, checkpointed) of this Python file; the first two
      are 0 under --model.name.
    json_path: write everything measured into this file.
    picture: draw a figure into this file, .svg, .png or .pdf.
  """
  complete = complete_model(
    ModelConfig(name=model.name) if model.name else ModelConfig(depth=model.depth, growth_rate=model.growth_rate)
  )
  command_line.check_file("json", json_path)
  command_line.check_figure("picture", picture)
  for flag, path in (("torch-python", torch_python), ("torch-network", torch_network)):
    if path and not path.is_file():
      raise ConfigurationError(flag, path, "there is no such file")
  if model.name:
    names = peers or (*OURS, *(("torch", "torch+checkpointed") if torch_python and torch_network else ()))
    _check_named(complete, names, torch_network)
  else:
    names = peers or (JAX + TORCH if torch_python else JAX)
  _check(names, torch_python, complete)
  console = command_line.console(120)
  record = {
    "network": {
      **({"name": model.name} if model.name else {"depth": model.depth, "growth_rate": model.growth_rate}),
      "batch_size": batch_size,
    },
    "machine": _machine(),
    "repeats": repeats,
    "steps": steps,
    "peers": _measure(
      names,
      functools.partial(_arguments, model, batch_size, torch_network),
      repeats,
      steps,
      torch_python,
      console,
    ),
  }
  record["ratios"] = timings.ratios(
    {name: peer["seconds"] for name, peer in record["peers"].items() if "seconds" in peer}
  )
  if json_path:
    json_path.write_text(json.dumps(record, indent=2) + "\n")
  console.print(timings.table(record))
  for name, peer in record["peers"].items():
    if "failed" in peer:
      console.print(f"{name} failed: {peer['failed']}", highlight=False)
  if picture and record["ratios"]:
    style.save(timings.draw(record), picture)
    console.print(f"figure: {picture}")


def _check(names: tuple[str, ...], torch_python: pathlib.Path | None, model: ModelConfig) -> None:
  for name in names:
    kind, *options = name.split("+")
    if kind == "torch" and torch_python is None:
      raise ConfigurationError("peers", name, "needs --torch-python, a Python that has PyTorch")
    allowed = {
      "torch": TORCH_OPTIONS,
      "dn_jax": {*remat.POLICIES, "bfloat16"},
      "flax": {"bfloat16"},
      "keras": set(),
    }
    several = len(set(options) & set(remat.POLICIES)) > 1
    if kind not in allowed or set(options) - allowed[kind] or several:
      raise ConfigurationError("peers", name, f"one of {', '.join((*JAX, *TORCH))}, or dn_jax+POLICY")
    if strange := set(options) & set(remat.POLICIES) - set(remat_policies(model)):
      raise ConfigurationError("peers", name, f"{strange.pop()} is no policy of this network")


def _check_named(network: ModelConfig, names: tuple[str, ...], torch_network: pathlib.Path | None) -> None:
  if is_for_imagenet(network):
    raise ConfigurationError("model.name", network.name, "is for images of 224x224; take one for 32x32")
  for name in names:
    if name.startswith(("flax", "keras")):
      raise ConfigurationError("peers", name, f"builds DenseNet-BC alone; {network.name} takes dn_jax+POLICY or torch")
    if name.startswith("torch") and torch_network is None:
      raise ConfigurationError("peers", name, f"needs --torch-network, a Python file that builds {network.name}")


def _arguments(model: Network, batch_size: int, torch_network: pathlib.Path | None, peer: str) -> list[str]:
  """What a peer's process is given. A network that has a name has no depth, and ours takes the name."""
  sizes = (0, 0) if model.name else (model.depth, model.growth_rate)
  network = torch_network if peer.startswith("torch") else model.name
  return [str(each) for each in (*sizes, batch_size, *([network] if network else []))]


def _measure(
  names: tuple[str, ...],
  arguments: Callable[[str], list[str]],
  repeats: int,
  steps: int,
  torch_python: pathlib.Path | None,
  console: rich.console.Console,
) -> dict[str, dict[str, Any]]:
  """Starts every peer with its arguments, lets them take turns, and returns a record of each."""
  found: dict[str, dict[str, Any]] = {}
  running: dict[str, Peer] = {}
  with tempfile.TemporaryDirectory() as caches, console.status("") as status:
    try:
      for name in names:
        of_torch = name.startswith("torch")
        python = str(torch_python) if of_torch else sys.executable
        environment = {
          "JAX_COMPILATION_CACHE_DIR": f"{caches}/{name}",
          "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
          "TORCHINDUCTOR_CACHE_DIR": f"{caches}/{name}",
        }
        try:
          status.update(f"{name}: first start")
          first = Peer(name, python, arguments(name), environment)
          # Without a compiler the second start is like the first.
          if of_torch and "compiled" not in name:
            running[name] = again = first
          else:
            first.stop()
            status.update(f"{name}: second start")
            running[name] = again = Peer(name, python, arguments(name), environment)
          found[name] = {
            **{key: again.first[key] for key in ("parameters", "device", "versions")},
            "first_start": first.start,
            "first_peak": first.first["peak"],
            "second_start": again.start,
          }
          again.take(1)
        except PeerError as error:
          found[name] = {"failed": str(error)}
          running.pop(name, None)
      parameters = {found[name]["parameters"] for name in running}
      if len(parameters) > 1:
        raise ConfigurationError("peers", " ".join(names), f"are not the same network: {sorted(parameters)} parameters")
      taken: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
      for number in range(repeats):
        for name, peer in running.items():
          if "failed" in found[name]:
            continue
          status.update(f"round {number + 1} of {repeats}: {name}")
          try:
            taken[name].append(peer.take(steps))
          except PeerError as error:
            found[name] = {"failed": f"in round {number + 1}: {error}"}
    finally:
      for peer in running.values():
        peer.stop()
  for name, turns in taken.items():
    if "failed" in found[name]:
      continue
    found[name]["seconds"] = [turn["seconds"] for turn in turns]
    found[name]["peak"] = turns[-1]["peak"]
    found[name]["device_peak"] = turns[-1]["device_peak"]
  return found


def _machine() -> dict[str, Any]:
  lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return {"processor": processor, "cores": os.cpu_count(), "memory_bytes": memory}


if __name__ == "__main__":
  command_line.program(main, __doc__)()
