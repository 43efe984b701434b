"""A network's own picture: one dense block with its connections, and the whole as blocks and transitions."""

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dn_jax.models.densenet import DenseNet

_LAYER, _TRANSITION, _ENDS = "#cfe0f5", "#f9dcc4", "#e6e6e6"
# Layers of a block that are drawn; of more, the first and the last few.
_DRAWN = 6


def draw(network: DenseNet, image_shape: tuple[int, int, int], title: str) -> Figure:
  """Draws a DenseNet from its configuration: above, the whole; below, its first dense block.

  Args:
    network: the DenseNet.
    image_shape: (height, width, channels) of its pictures.
    title: over the picture.
  """
  width = max(9.0, 2.0 + 2.35 * len(network.blocks) * 1.6)
  figure, (whole, block) = pyplot.subplots(
    2, 1, figsize=(width, 6.4), layout="constrained", gridspec_kw={"height_ratios": (1, 2.1)}
  )
  figure.suptitle(title)
  _draw_whole(whole, network, image_shape)
  _draw_block(block, network)
  for axes in (whole, block):
    axes.set_axis_off()
  return figure


def stages(network: DenseNet, image_shape: tuple[int, int, int]) -> list[tuple[str, str, str]]:
  """The network from left to right: (kind, what it does, its output as size and channels) of each part."""
  size, channels = image_shape[0], network.initial_channels
  parts = [("ends", f"input\n{image_shape[2]} channels", f"{size}x{image_shape[1]}")]
  if network.stem == "imagenet":
    size = -(-size // 2)
    size = -(-size // 2)
    parts.append(("ends", "7x7 conv / 2\n3x3 max pool / 2", f"{size}x{size}, {channels}"))
  else:
    parts.append(("ends", "3x3 conv", f"{size}x{size}, {channels}"))
  for number, layers in enumerate(network.blocks, start=1):
    channels += layers * network.growth_rate
    parts.append(
      ("layer", f"dense block {number}\n{layers} layers, k={network.growth_rate}", f"{size}x{size}, {channels}")
    )
    if number < len(network.blocks):
      channels, size = int(network.compression * channels), size // 2
      parts.append(("transition", "transition\n1x1 conv\n2x2 avg pool", f"{size}x{size}, {channels}"))
  parts.append(("ends", f"global avg pool\nlinear\n{network.num_classes} classes", f"{network.num_classes}"))
  return parts


def _draw_whole(axes: Axes, network: DenseNet, image_shape: tuple[int, int, int]) -> None:
  left = 0.0
  for kind, text, output in stages(network, image_shape):
    width = 2.1 if kind == "layer" else 1.45
    _box(axes, left, 0.0, width, 1.0, {"layer": _LAYER, "transition": _TRANSITION, "ends": _ENDS}[kind], text)
    axes.text(left + width / 2, -0.16, output, ha="center", va="top", fontsize=8)
    if left:
      axes.annotate("", (left, 0.5), (left - 0.35, 0.5), arrowprops={"arrowstyle": "->"})
    left += width + 0.35
  axes.set_xlim(-0.1, left - 0.25)
  axes.set_ylim(-0.6, 1.1)


def _draw_block(axes: Axes, network: DenseNet) -> None:
  layers = network.blocks[0]
  shown = list(range(1, layers + 1))
  if layers > _DRAWN:
    shown = [*range(1, _DRAWN - 1), None, layers]
  columns = ["input", *shown, "output"]
  places = {}
  for n, name in enumerate(columns):
    left = n * 2.0
    if name is None:
      axes.text(left + 0.65, 0.5, "...", ha="center", va="center", fontsize=16)
      continue
    if name == "input":
      text, colour = f"block's input\n{network.initial_channels} channels", _ENDS
    elif name == "output":
      total = network.initial_channels + layers * network.growth_rate
      text, colour = f"all maps\n{total} channels", _ENDS
    else:
      kernel = (
        f"1x1 conv, {network.bottleneck_width * network.growth_rate}\nBN, ReLU\n" if network.bottleneck_width else ""
      )
      text, colour = f"layer {name}\nBN, ReLU\n{kernel}3x3 conv, {network.growth_rate}", _LAYER
    _box(axes, left, 0.0, 1.3, 1.0, colour, text)
    places[n] = left
  order = sorted(places)
  for i, source in enumerate(order):
    for target in order[i + 1 :]:
      near = target == source + 1
      curve = 0.0 if near else -0.28 - 0.02 * (target - source)
      start = (places[source] + 1.3, 0.5) if near else (places[source] + 0.65, 1.0)
      end = (places[target], 0.5) if near else (places[target] + 0.3 + 0.7 * i / len(order), 1.0)
      axes.add_patch(
        FancyArrowPatch(
          start,
          end,
          connectionstyle=f"arc3,rad={curve}",
          arrowstyle="-|>",
          mutation_scale=8,
          linewidth=0.9,
          color=_COLOURS[i % len(_COLOURS)],
          shrinkA=0,
          shrinkB=0,
        )
      )
  axes.text(
    0.0,
    -0.16,
    "dense block 1: each layer reads the concatenation of the block's input and of all earlier layers' maps",
    va="top",
    fontsize=9,
  )
  axes.set_xlim(-0.1, (len(columns) - 1) * 2.0 + 1.4)
  axes.set_ylim(-0.4, 1.2 + 0.4 * len(order))


_COLOURS = ("#555555", "#0b3c8c", "#d1495b", "#2e8b57", "#e69f00", "#7b4fa3", "#4aa8d8")


def _box(axes: Axes, left: float, bottom: float, width: float, height: float, colour: str, text: str) -> None:
  axes.add_patch(
    FancyBboxPatch(
      (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.08", facecolor=colour, edgecolor="black"
    )
  )
  axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=8.5)
