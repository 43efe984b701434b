"""The benchmark's peers are the same network, and its command measures them."""

import dataclasses
import json
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, call, relative, run

from dn_jax import weights
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.models.densenet import DenseNet, blocks_of_depth

IMAGES = np.random.RandomState(0).randn(4, 32, 32, 3).astype(np.float32)


def network_with_weights():
  """Our network of depth 10 and growth rate 4, and variables of it that are no defaults."""
  network = DenseNet(blocks_of_depth(10, bottleneck=True), 4, 10, 8)
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.asarray(IMAGES), False))
  rng = np.random.RandomState(1)
  draw = lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape) * (1 if leaf.ndim == 1 else 0.1), jnp.float32)
  return network, jax.tree.map(draw, shapes)


@pytest.mark.slow
@pytest.mark.thorough
def test_keras_peer_is_the_same_network():
  import keras_peer

  network, variables = network_with_weights()
  state = weights.to_pytorch(network, variables["params"], variables["batch_stats"])
  theirs = keras_peer.densenet(10, 4)
  arrays = []
  for unit in weights.units(network):
    weight = state[f"{unit.name}.weight"]
    if unit.kind == "conv":
      arrays.append(weight.transpose(2, 3, 1, 0))
    elif unit.kind == "linear":
      arrays += [weight.T, state[f"{unit.name}.bias"]]
    else:
      arrays += [weight, *(state[f"{unit.name}.{name}"] for name in ("bias", "running_mean", "running_var"))]
  theirs.set_weights(arrays)
  ours = network.apply(variables, jnp.asarray(IMAGES), False)
  assert relative(theirs(IMAGES, training=False), ours) < 1e-5


@pytest.mark.parametrize("options", [(), ("checkpointed",)])
def test_pytorch_peer_is_the_same_network(options):
  torch = pytest.importorskip("torch", reason="the benchmark takes PyTorch from a Python of its own")
  import torch_peer

  network, variables = network_with_weights()
  theirs = torch_peer.DenseNet(10, 4, "checkpointed" in options).eval()
  state = weights.to_pytorch(network, variables["params"], variables["batch_stats"])
  theirs.load_state_dict(
    {name.replace("norm5", "norm_final"): torch.tensor(value) for name, value in state.items()}, strict=True
  )
  with torch.no_grad():
    logits = theirs(torch.tensor(IMAGES.transpose(0, 3, 1, 2))).numpy()
  assert relative(logits, network.apply(variables, jnp.asarray(IMAGES), False)) < 1e-5


class Built(Exception):
  """Where a peer would build its network."""


class MadeUpPeer:
  def __init__(self, *_):
    self.first = {"parameters": 7, "device": "cpu", "versions": {}, "peak": 1.0}
    self.start = 1.0

  def take(self, steps):
    return {"seconds": 3.0, "peak": 1.0, "device_peak": None}

  def stop(self):
    pass


def test_peers_take_turns_and_a_table_and_a_picture_are_made_of_what_they_say(tmp_path, capsys):
  benchmark = runpy.run_path(str(ROOT / "experiments" / "benchmark.py"))
  starts, turns = [], []

  class Peer(MadeUpPeer):
    """The second time it starts sooner, with less; a step takes 2, 3 and 4 seconds, of flax twice as many."""

    def __init__(self, name, python, arguments, environment):
      super().__init__()
      again = name in starts
      starts.append(name)
      assert (python, arguments) == (sys.executable, ["10", "4", "8"])
      assert environment["JAX_COMPILATION_CACHE_DIR"].endswith(f"/{name}")
      self.name, self.taken, self.start = name, [2.0, 4.0, 3.0], 5.0 if again else 20.0
      self.first |= {"peak": 100.0 if again else 300.0, "versions": {"jax": "0.0"}}

    def take(self, steps):
      turns.append((self.name, steps))
      seconds = 0.0 if steps == 1 else self.taken.pop(0) * (2 if self.name == "flax" else 1)
      return {"seconds": seconds, "peak": 150.0, "device_peak": None}

  main = benchmark["main"]
  main.__globals__["Peer"] = Peer
  network = benchmark["Network"](10, 4)
  flags = {"json_path": tmp_path / "b.json", "picture": tmp_path / "b.png"}
  main(network, 8, ("dn_jax+none", "flax"), repeats=3, steps=2, **flags)
  assert starts == ["dn_jax+none", "dn_jax+none", "flax", "flax"]
  # A step each to settle, and then in turns.
  assert turns == [("dn_jax+none", 1), ("flax", 1), *[("dn_jax+none", 2), ("flax", 2)] * 3]
  record = json.loads((tmp_path / "b.json").read_text())
  ours, theirs = record["peers"]["dn_jax+none"], record["peers"]["flax"]
  assert (ours["seconds"], theirs["seconds"]) == ([2.0, 4.0, 3.0], [4.0, 8.0, 6.0])
  assert (ours["first_start"], ours["second_start"]) == (20.0, 5.0)
  assert (ours["first_peak"], ours["peak"], ours["parameters"]) == (300.0, 150.0, 7)
  assert record["ratios"] == {"dn_jax+none": {"dn_jax+none": 1, "flax": 0.5}, "flax": {"dn_jax+none": 2, "flax": 1}}
  assert record["network"] == {"depth": 10, "growth_rate": 4, "batch_size": 8}
  rows = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines() if "│" in line]
  assert [row[1:-1] for row in rows] == [
    ["dn_jax+none", "3.000 (2.000 to 4.000)", "1.00", "20.0", "5.0", "150 (300)"],
    ["flax", "6.000 (4.000 to 8.000)", "2.00", "20.0", "5.0", "150 (300)"],
  ]
  assert (tmp_path / "b.png").stat().st_size > 5000


def test_a_network_of_the_zoo_is_built_by_name_and_by_pytorchs_file(tmp_path, capsys):
  benchmark = runpy.run_path(str(ROOT / "experiments" / "benchmark.py"))
  given = {}

  class Peer(MadeUpPeer):
    def __init__(self, name, python, arguments, environment):
      super().__init__()
      given[name] = arguments

  main = benchmark["main"]
  main.__globals__["Peer"] = Peer
  python, file = tmp_path / "python", tmp_path / "theirs.py"
  python.touch()
  file.touch()
  main(
    benchmark["Network"](name="rdnet-cifar"), 8, torch_python=python, torch_network=file, json_path=tmp_path / "b.json"
  )
  ours, theirs = ["0", "0", "8", "rdnet-cifar"], ["0", "0", "8", str(file)]
  assert given == {
    "dn_jax+layer_by_layer": ours,
    "dn_jax+dense_layer": ours,
    "torch": theirs,
    "torch+checkpointed": theirs,
  }
  assert json.loads((tmp_path / "b.json").read_text())["network"] == {"name": "rdnet-cifar", "batch_size": 8}
  assert "RDNet for 32x32 pixels, batch 8, float32" in capsys.readouterr().out


def test_our_peer_takes_a_network_of_the_zoo(monkeypatch):
  import dn_jax_peer

  asked = []

  def build(model, classes):
    asked.append(model)
    raise Built

  monkeypatch.setattr(dn_jax_peer.build, "build", build)
  for options in (("rdnet-cifar", "none"), ("none", "bfloat16", "rdnet-cifar")):
    with pytest.raises(Built):
      dn_jax_peer.start(0, 0, 2, *options)
  named = complete_model(ModelConfig(name="rdnet-cifar", remat="none"))
  assert asked == [named, dataclasses.replace(named, dtype="bfloat16")]


@pytest.mark.slow
@pytest.mark.thorough
def test_peers_take_turns_and_everything_is_written_down(tmp_path):
  done = run(
    *("experiments/benchmark.py", "--model.depth", "10", "--model.growth-rate", "4", "--batch-size", "8"),
    *("--peers", "dn_jax+none", "flax", "--repeats", "3", "--steps", "1"),
    *("--json", tmp_path / "b.json", "--picture", tmp_path / "b.png"),
  )
  assert done.returncode == 0, done.stderr
  record = json.loads((tmp_path / "b.json").read_text())
  assert set(record["peers"]) == {"dn_jax+none", "flax"}
  for peer in record["peers"].values():
    assert len(peer["seconds"]) == 3
    assert 0 < peer["second_start"] < peer["first_start"]
    assert 0 < peer["peak"] < peer["first_peak"]  # Compiling takes memory.
    assert "jax" in peer["versions"]
  assert record["ratios"]["flax"]["flax"] == 1
  assert (tmp_path / "b.png").stat().st_size > 5000


def test_a_peer_that_cannot_start_is_said_and_the_others_go_on(tmp_path):
  python = tmp_path / "python"
  python.write_text("#!/bin/sh\necho 'no module named torch' >&2\nexit 1\n")
  python.chmod(0o755)
  done = call(
    *("experiments/benchmark.py", "--model.depth", "10", "--peers", "torch", "--torch-python", python),
    *("--json", tmp_path / "b.json"),
  )
  assert done.returncode == 0, done.stderr
  assert "torch failed: no module named torch" in done.stdout
  assert json.loads((tmp_path / "b.json").read_text())["peers"] == {"torch": {"failed": "no module named torch"}}


def test_a_peer_that_stops_in_a_round_is_said_and_the_record_is_kept(tmp_path):
  python = tmp_path / "python"
  answer = json.dumps({"peak": 1.0, "parameters": 7, "device": "cpu", "versions": {}, "seconds": 0.1})
  # It starts, takes one step, and is gone.
  python.write_text(
    f"#!/bin/sh\necho '{answer}'; read n; echo '{answer}'; read n; echo 'out of memory' >&2; exit 137\n"
  )
  python.chmod(0o755)
  done = call(
    *("experiments/benchmark.py", "--model.depth", "10", "--peers", "torch", "--torch-python", python),
    *("--json", tmp_path / "b.json"),
  )
  assert done.returncode == 0, done.stderr
  assert json.loads((tmp_path / "b.json").read_text())["peers"] == {"torch": {"failed": "in round 1: out of memory"}}


@pytest.mark.parametrize(
  ("flags", "answer"),
  [
    (["--model.depth", "11"], "--model.depth 11: 3 equal blocks with bottlenecks need depth = 4 + 6 * n"),
    (["--repeats", "0"], "--repeats 0: must be at least 1"),
    (["--peers", "caffe"], "--peers caffe: one of dn_jax+layer_by_layer"),
    (["--peers", "dn_jax+2seeds"], "--peers dn_jax+2seeds: one of"),
    (["--peers", "dn_jax+some"], "--peers dn_jax+some: one of"),
    (["--peers", "torch"], "--peers torch: needs --torch-python"),
    (["--model.name", "rdnet-cifer"], "--model.name rdnet-cifer: "),
    (["--model.name", "rdnet-tiny"], "--model.name rdnet-tiny: is for images of 224x224; take one for 32x32"),
    (["--model.name", "rdnet-cifar", "--peers", "flax"], "--peers flax: builds DenseNet-BC alone; rdnet-cifar takes"),
    (["--model.name", "rdnet-cifar", "--peers", "torch"], "--peers torch: needs --torch-network, a Python file that"),
    (["--model.name", "rdnet-cifar", "--peers", "dn_jax+block"], "--peers dn_jax+block: block is no policy of this"),
    (["--torch-python", "/nowhere"], "--torch-python /nowhere: there is no such file"),
    (["--json", "/nowhere/b.json"], "--json /nowhere/b.json: is no file in a folder that exists"),
    (["--picture", "/nowhere/b.png"], "--picture /nowhere/b.png: is no file in a folder that can be written"),
    (["--picture", "b.jpg"], "--picture b.jpg: must end in .png, .svg, .pdf"),
  ],
)
def test_mistakes_are_one_line_before_anything_starts(flags, answer):
  done = call("experiments/benchmark.py", *flags)
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert answer in done.stderr
