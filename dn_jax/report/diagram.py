"""A diagram of a DenseNet or an RDNet: blocks and transitions, and the first block with all connections."""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from dn_jax.config.rdnet import inner_channels, kept_channels
from dn_jax.models.densenet import DenseNet
from dn_jax.models.rdnet import RDNet
from dn_jax.report import style

_FILL = {"layer": "#cfe0f5", "transition": "#f9dcc4", "ends": "#e6e6e6"}
_COLOURS = ("#555555", *style.COLOURS[:6])
# Most layers of a block that are drawn; of more, the first ones and the last.
_DRAWN = 6
# A unit of the drawing in inches if it fits a page, and its font size in points.
_UNIT, _LETTERS = 0.72, 8.5
_GAP, _BOX = 0.3, {"layer": 1.55, "transition": 1.25, "ends": 1.55}
# Distance of a block's boxes, and their width.
_STEP, _LAYER = 1.75, 1.35
# Makes room for the line of text under the block.
_SHORTEST = 9.0


class Block(NamedTuple):
  """A block and what follows it.

  layers, rate: how many layers, and the channels that each adds
  kept:         channels that its transition keeps; None after the last block
  transition:   the transition's operations
  halves:       whether it halves the map
  """

  layers: int
  rate: int
  kept: int | None
  transition: str = "1x1 conv\n2x2 avg pool"
  halves: bool = True


class Parts(NamedTuple):
  """A network in words.

  stem:  its operations
  scale: height of an image in pixels of the first map
  layer: (channels read) -> a layer's operations, but the last number
  """

  stem: str
  scale: int
  blocks: list[Block]
  layer: Callable[[int], str]


def parts_of(network: DenseNet | RDNet) -> Parts:
  """What is drawn of a network."""
  blocks, channels = [], network.initial_channels
  is_mixing = isinstance(network, RDNet)
  rates = network.growth_rates if is_mixing else (network.growth_rate,) * len(network.blocks)
  for number, (layers, rate) in enumerate(zip(network.blocks, rates, strict=True), start=1):
    channels += layers * rate
    last = number == len(network.blocks)
    if is_mixing:
      kept, halves = kept_channels(network.compression, channels), number in network.downsample
      words = f"LayerNorm\n{'2x2 conv / 2' if halves else '1x1 conv'}"
      blocks.append(Block(layers, rate, None if last else kept, words, halves))
    else:
      kept = int(network.compression * channels)
      blocks.append(Block(layers, rate, None if last else kept))
    channels = kept
  if is_mixing:
    patch = f"{network.patch_size}x{network.patch_size}"
    layer = lambda read: f"depthwise 7x7\n1x1, {inner_channels(read)}, GELU\n1x1 conv"
    return Parts(f"{patch} conv / {network.patch_size}\nLayerNorm", network.patch_size, blocks, layer)
  width = network.bottleneck_width * network.growth_rate
  layer = lambda read: "BN, ReLU\n" + (f"1x1 conv, {width}\nBN, ReLU\n" if width else "") + "3x3 conv"
  imagenet = network.stem == "imagenet"
  return Parts("7x7 conv / 2\n3x3 max pool / 2" if imagenet else "3x3 conv", 4 if imagenet else 1, blocks, layer)


def draw(network: DenseNet | RDNet, image_shape: tuple[int, int, int], title: str) -> Figure:
  """Draws the whole network above, its first dense block below; `image_shape`: (height, width, channels)."""
  parts = stages(network, image_shape)
  columns = _columns(network.blocks[0])
  length = max(sum(_BOX[kind] + _GAP for kind, *_ in parts), _STEP * len(columns), _SHORTEST) + 0.2
  unit = min(_UNIT, (style.LONGEST - 0.3) / length)
  letters = _LETTERS * unit / _UNIT
  heights = 1.9, 1.8 + _arc(len(columns) - 1)
  size = unit * length + 0.3, unit * sum(heights) + 0.7
  figure, ((whole,), (block,)) = style.panels(2, 1, size, height_ratios=heights)
  figure.suptitle(title)
  _draw_whole(whole, parts, letters)
  _draw_block(block, network, columns, letters)
  for axes in (whole, block):
    axes.set_xlim(-0.1, length - 0.1)
    axes.set_axis_off()
  return figure


def stages(network: DenseNet | RDNet, image_shape: tuple[int, int, int]) -> list[tuple[str, str, str]]:
  """The parts of the network from left to right: (kind, operations, output size and channels)."""
  size, channels = image_shape[0], network.initial_channels
  parts = [("ends", f"input\n{_channels(image_shape[2])}", f"{size}x{image_shape[1]}")]
  known = parts_of(network)
  # A DenseNet's stem rounds up, patches that are cut short are left out.
  size = size // known.scale if isinstance(network, RDNet) else -(-size // known.scale)
  parts.append(("ends", known.stem, f"{size}x{size}, {channels}"))
  for number, block in enumerate(known.blocks, start=1):
    channels += block.layers * block.rate
    words = f"dense block {number}\n{block.layers} layer{'s' * (block.layers > 1)}, k={block.rate}"
    parts.append(("layer", words, f"{size}x{size}, {channels}"))
    if block.kept is not None:
      channels, size = block.kept, size // 2 if block.halves else size
      parts.append(("transition", f"transition\n{block.transition}", f"{size}x{size}, {channels}"))
  parts.append(("ends", f"global avg pool\nlinear\n{network.num_classes} classes", f"{network.num_classes}"))
  return parts


def _draw_whole(axes: Axes, parts: list[tuple[str, str, str]], letters: float) -> None:
  left = 0.0
  for kind, text, output in parts:
    width = _BOX[kind]
    _box(axes, left, width, kind, text, letters)
    axes.text(left + width / 2, -0.14, output, ha="center", va="top", fontsize=letters)
    if left:
      _arrow(axes, [(left - _GAP, 0.5), (left, 0.5)], "black")
    left += width + _GAP
  axes.set_ylim(-0.6, 1.3)


def _columns(layers: int) -> list[str | int | None]:
  """The columns of a block's drawing; None: layers that are left out."""
  shown = list(range(1, layers + 1)) if layers <= _DRAWN else [*range(1, _DRAWN - 1), None, layers]
  return ["input", *shown, "output"]


def _draw_block(axes: Axes, network: DenseNet | RDNet, columns: list[str | int | None], letters: float) -> None:
  known, entering = parts_of(network), network.initial_channels
  layers, rate = known.blocks[0][:2]
  places = []
  for n, name in enumerate(columns):
    left = n * _STEP
    if name is None:
      axes.text(left + _LAYER / 2, 0.5, "...", ha="center", va="center", fontsize=2 * letters)
      continue
    if name == "input":
      kind, text = "ends", f"block's input\n{_channels(entering)}"
    elif name == "output":
      kind, text = "ends", f"all maps\n{entering + layers * rate}\nchannels"
    else:
      kind, text = "layer", f"layer {name}\n{known.layer(entering + (name - 1) * rate)}, {rate}"
    _box(axes, left, _LAYER, kind, text, letters)
    places.append((n, left))
  for i, (column, left) in enumerate(places):
    colour = _COLOURS[i % len(_COLOURS)]
    for target, end in places[i + 1 :]:
      if target == column + 1:
        _arrow(axes, [(left + _LAYER, 0.5), (end, 0.5)], colour)
        continue
      # From the top of a box to the top of a later one, where arrows from nearer boxes end further right.
      start, end = left + 0.75 * _LAYER, end + 0.1 + 0.6 * _LAYER * (i + 0.5) / len(places)
      top = 1.0 + _arc(target - column) * 4 / 3
      _arrow(axes, [(start, 1.0), (start + 0.15, top), (end - 0.15, top), (end, 1.0)], colour)
  reads = "each layer reads the concatenation of the block's input and of all earlier layers' maps"
  axes.text(0.0, -0.2, f"dense block 1: {reads}", va="top", fontsize=letters)
  axes.set_ylim(-0.6, 1.2 + _arc(len(columns) - 1))


def _channels(count: int) -> str:
  return f"{count} channel{'s' * (count > 1)}"


def _arc(columns: int) -> float:
  """The height above the boxes of an arrow over so many columns."""
  return 0.25 + 0.3 * (columns - 1)


def _arrow(axes: Axes, points: list[tuple[float, float]], colour: str) -> None:
  """A line, or a cubic curve, with a head at its end."""
  codes = [Path.MOVETO, *([Path.LINETO] if len(points) == 2 else [Path.CURVE4] * 3)]
  axes.add_patch(
    FancyArrowPatch(path=Path(points, codes), arrowstyle="-|>", mutation_scale=8, linewidth=0.9, color=colour)
  )


def _box(axes: Axes, left: float, width: float, kind: str, text: str, letters: float) -> None:
  style = "round,pad=0,rounding_size=0.08"
  axes.add_patch(FancyBboxPatch((left, 0.0), width, 1.0, boxstyle=style, facecolor=_FILL[kind], edgecolor="black"))
  axes.text(left + width / 2, 0.5, text, ha="center", va="center", fontsize=letters, linespacing=1.08)
