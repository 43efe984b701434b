"""A DenseNet drawn."""

import measures
import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.models import build
from dn_jax.report import diagram

NETWORKS = {
  "densenet-121": ({"name": "densenet-121"}, (224, 224, 3), 1000),
  "bc-100": ({"name": "densenet-bc-100-12"}, (32, 32, 3), 10),
  "plain": ({"depth": 13, "bottleneck": False, "growth_rate": 4}, (8, 8, 1), 10),
  "one layer": ({"blocks": (1,), "growth_rate": 4}, (8, 8, 1), 10),
  "rdnet-tiny": ({"name": "rdnet-tiny"}, (224, 224, 3), 1000),
  "rdnet-cifar": ({"name": "rdnet-cifar"}, (32, 32, 3), 10),
  "five blocks": ({"blocks": (5, 6, 7, 8, 9), "growth_rate": 4}, (64, 64, 3), 10),
}


def network_of(name):
  flags, shape, classes = NETWORKS[name]
  return build.build(complete_model(ModelConfig(**flags)), classes), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_every_arrow_and_word_is_within_the_figure(name):
  figure = measures.laid_out(diagram.draw(*network_of(name), name))
  assert max(measures.pixels(figure)) <= 4000
  assert measures.cut_off(figure) == []
  for axes in figure.axes:
    frame = axes.get_window_extent()
    for arrow in axes.findobj(FancyArrowPatch):
      box = arrow.get_window_extent()  # Whole, not what its axes leave of it.
      assert all(frame.padded(1).contains(*corner) for corner in box.corners())


@pytest.mark.parametrize("name", NETWORKS)
def test_words_stand_in_their_boxes(name):
  figure = measures.laid_out(diagram.draw(*network_of(name), name))
  for axes in figure.axes:
    boxes = [box.get_window_extent() for box in axes.findobj(FancyBboxPatch)]
    for text in axes.texts:
      extent = text.get_window_extent()
      (x, y) = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
      around = [box for box in boxes if box.contains(x, y)]
      assert all(box.padded(1).contains(*corner) for box in around for corner in extent.corners())


@pytest.mark.parametrize(("name", "boxes"), [("densenet-121", 8), ("plain", 5), ("one layer", 3)])
def test_every_box_of_a_block_is_joined_to_every_later_one(name, boxes):
  figure = diagram.draw(*network_of(name), name)
  block = figure.axes[1]
  assert len(block.findobj(FancyBboxPatch)) == boxes
  assert len(block.findobj(FancyArrowPatch)) == boxes * (boxes - 1) // 2


def test_shapes_along_the_network_are_the_papers():
  # Table 1 of the paper; channels: 64, + 32 a layer, halved at a transition.
  outputs = [output for _, _, output in diagram.stages(*network_of("densenet-121"))]
  first = ["224x224", "56x56, 64", "56x56, 256", "28x28, 128", "28x28, 512", "14x14, 256", "14x14, 1024"]
  assert outputs == [*first, "7x7, 512", "7x7, 1024", "1000"]


def test_shapes_along_an_rdnet_are_timms():
  # timm's feature_info of rdnet_tiny: 256, 440, 744 and 1040 channels at strides 4, 8, 16 and 32, before halvings.
  outputs = [output for _, text, output in diagram.stages(*network_of("rdnet-tiny")) if "dense block" in text]
  assert [outputs[index] for index in (0, 1, 5, 6)] == ["56x56, 256", "28x28, 440", "14x14, 744", "7x7, 1040"]


def test_a_plain_network_has_no_1x1_convolution_in_a_layer():
  words = [text.get_text() for text in diagram.draw(*network_of("plain"), "plain").axes[1].texts]
  assert "layer 1\nBN, ReLU\n3x3 conv, 4" in words
  assert not [word for word in words if "1x1" in word]
