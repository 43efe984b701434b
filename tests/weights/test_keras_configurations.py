"""What the configuration in one of Keras's files says of its layers."""

import json

import h5py
import jax
import numpy as np
import pytest
from variables import variables_of

from dn_jax import weights
from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import UserError
from dn_jax.models import build

MODEL = ModelConfig(blocks=(2, 2), growth_rate=4, bottleneck=True, compression=0.5, stem="cifar")


def write_old(path, model, change=lambda listed: None, within=False, frozen=()):
  """Writes a network as an `.h5` file of Keras 2, with its configuration.

  Args:
    change: is given the layers' configurations, in the model's order, to change them.
    within: whether the network is a layer of another model.
    frozen: names of layers that are not trained; with `within`, their weights stand behind all others.
  """
  network = build.build(complete_model(model), 3)
  variables = variables_of(network, size=64)
  rest = iter(weights.to_keras(network, variables["params"], variables["batch_stats"]))
  listed, trained, others = [], {}, {}
  for n, unit in enumerate(weights.units(network)):
    name, kind, parts = {
      "conv": (f"c{n}", "Conv2D", ("kernel:0",)),
      "norm": (f"n{n}/bn", "BatchNormalization", ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")),
      "linear": (f"d{n}", "Dense", ("kernel:0", "bias:0")),
    }[unit.kind]
    own = {"epsilon": 0.001} if unit.kind == "norm" else {"activation": "linear"}
    listed.append({"class_name": kind, "config": {"name": name, **own}})
    if unit.kind == "norm":
      listed.append({"class_name": "Activation", "config": {"name": f"a{n}", "activation": "relu"}})
    for part in parts:
      to = others if name in frozen or part.startswith("moving") else trained
      to[f"{name}/{part}"] = next(rest)
  change(listed)
  model = {"class_name": "Functional", "config": {"name": "net", "layers": listed}}
  with h5py.File(path, "w") as file:
    outer = {"class_name": "Sequential", "config": {"name": "whole", "layers": [model]}}
    file.attrs["model_config"] = json.dumps(outer if within else model)
    root = file.create_group("model_weights")
    root.attrs["layer_names"] = ["net"] if within else [each["config"]["name"] for each in listed]
    for name in root.attrs["layer_names"]:
      group = root.create_group(name)
      own = {k: v for k, v in (trained | others).items() if within or k.rpartition("/")[0] == name}
      group.attrs["weight_names"] = list(own)
      for each, value in own.items():
        group[each] = value
  return network, variables


@pytest.mark.parametrize("frozen", [None, (), ("c0", "n1/bn", "c4")])
def test_a_whole_model_of_keras_2_has_its_layers_in_the_order_of_its_configuration(frozen, tmp_path):
  path = tmp_path / "net.h5"
  network, variables = write_old(path, MODEL, within=frozen is not None, frozen=frozen or ())
  found = weights.from_pytorch(network, weights.read(path, pytest.fail), variables, say=pytest.fail)
  jax.tree.map(np.testing.assert_array_equal, found, {each: variables[each] for each in found})
  if frozen is not None:
    with h5py.File(path, "a") as file:
      del file.attrs["model_config"]
    with pytest.raises(UserError, match=r"net.h5: net has several layers, whose order is not said"):
      weights.read(path, lambda _: None)


def of_elu(listed):
  listed[2]["config"]["activation"] = "elu"


def of_relu6(listed):
  listed[2] = {"class_name": "ReLU", "config": {"name": "six", "max_value": 6.0}}


def without_relu(listed):
  listed[2]["config"]["activation"] = "linear"


def of_an_elu_layer(listed):
  listed[2] = {"class_name": "ELU", "config": {"name": "elu", "alpha": 1.0}}


def within_a_convolution(listed):
  listed[0]["config"]["activation"] = "relu"


def of_maxima(listed):
  listed.insert(-1, {"class_name": "GlobalMaxPooling2D", "config": {"name": "avg_pool"}})


def of_a_pool(listed):
  listed.insert(5, {"class_name": "MaxPooling2D", "config": {"name": "pool"}})


OTHERS = {
  of_elu: "a1 has the activation elu, and a DenseNet's is relu",
  of_relu6: r"has (\d+) ReLUs and (?!\1)\d+ batch norms",
  without_relu: r"has (\d+) ReLUs and (?!\1)\d+ batch norms",
  of_an_elu_layer: r"has (\d+) ReLUs and (?!\1)\d+ batch norms",
  within_a_convolution: "c0 has the activation relu",
  of_maxima: "has 1 global_max_pooling2d, and a DenseNet of its shapes 0",
  of_a_pool: "has 1 max_pooling2d, and a DenseNet of its shapes 0",
}


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_other_functions_than_a_densenets_are_refused(change, within, tmp_path):
  write_old(tmp_path / "net.h5", MODEL, change, within)
  with pytest.raises(UserError, match=rf"net.h5: {OTHERS[change]}"):
    weights.read(tmp_path / "net.h5", pytest.fail)


def scaled(listed):
  listed.insert(0, {"class_name": "Rescaling", "config": {"name": "r", "scale": 2.0}})
  listed[-1]["config"]["activation"] = "sigmoid"
  for each in listed:  # A layer of its own for the same function.
    if each["class_name"] == "Activation":
      each.update(class_name="ReLU", config={"name": each["config"]["name"], "max_value": None, "threshold": 0.0})


def test_what_a_model_of_keras_2_does_beside_is_named(tmp_path):
  write_old(tmp_path / "net.h5", MODEL, scaled)
  said = []
  weights.read(tmp_path / "net.h5", said.append)
  assert [line.partition(": ")[2] for line in said] == [
    "its classifier's sigmoid is left out, and softmax taken",
    "what these layers do is left out: rescaling",
  ]
