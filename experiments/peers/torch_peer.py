"""DenseNet-BC in PyTorch: plain, checkpointed, channels-last, compiled, with bfloat16 activations.

Checkpointed: the backward pass recomputes each layer's concatenation, norm and 1x1 convolution. Modules are named as in
the public implementations, so that their weights load with `strict=True`.
"""

import importlib.util
import platform
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

CUDA = torch.cuda.is_available()
OPTIONS = ("checkpointed", "channels-last", "compiled", "bfloat16")


class DenseLayer(nn.Module):
  def __init__(self, channels, growth_rate, checkpointed):
    super().__init__()
    self.norm1 = nn.BatchNorm2d(channels)
    self.conv1 = nn.Conv2d(channels, 4 * growth_rate, 1, bias=False)
    self.norm2 = nn.BatchNorm2d(4 * growth_rate)
    self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False)
    self.checkpointed = checkpointed

  def bottleneck(self, *maps):
    return self.conv1(F.relu(self.norm1(torch.cat(maps, 1)), inplace=True))

  def forward(self, maps):
    if self.checkpointed:
      y = torch.utils.checkpoint.checkpoint(self.bottleneck, *maps, use_reentrant=False)
    else:
      y = self.bottleneck(*maps)
    return self.conv2(F.relu(self.norm2(y), inplace=True))


class DenseBlock(nn.ModuleDict):
  def __init__(self, layers, channels, growth_rate, checkpointed):
    super().__init__(
      {f"denselayer{n + 1}": DenseLayer(channels + n * growth_rate, growth_rate, checkpointed) for n in range(layers)}
    )

  def forward(self, x):
    maps = [x]
    for layer in self.values():
      maps.append(layer(maps))
    return torch.cat(maps, 1)


def transition(channels):
  return nn.Sequential(
    OrderedDict(
      norm=nn.BatchNorm2d(channels),
      relu=nn.ReLU(inplace=True),
      conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
      pool=nn.AvgPool2d(2),
    )
  )


class DenseNet(nn.Module):
  def __init__(self, depth, growth_rate, checkpointed, num_classes=10):
    super().__init__()
    layers, channels = (depth - 4) // 6, 2 * growth_rate
    parts = OrderedDict(conv0=nn.Conv2d(3, channels, 3, padding=1, bias=False))
    for block in (1, 2, 3):
      parts[f"denseblock{block}"] = DenseBlock(layers, channels, growth_rate, checkpointed)
      channels += layers * growth_rate
      if block < 3:
        parts[f"transition{block}"] = transition(channels)
        channels //= 2
    parts["norm_final"] = nn.BatchNorm2d(channels)
    self.features = nn.Sequential(parts)
    self.classifier = nn.Linear(channels, num_classes)

  def forward(self, x):
    return self.classifier(F.relu(self.features(x), inplace=True).mean((2, 3)))


def device():
  return torch.cuda.get_device_name() if CUDA else platform.processor() or "cpu"


def device_peak():
  return torch.cuda.max_memory_allocated() / 2**20 if CUDA else None


def versions():
  return {"torch": torch.__version__}


def start(depth, growth_rate, batch_size, *options):
  """Returns a training step, which returns its loss, and the number of trainable parameters.

  options: of `OPTIONS`, and optionally the path of a Python file whose `build(depth, growth_rate, checkpointed)` makes
  the network.
  """
  files = [option for option in options if option.endswith(".py")]
  unknown = set(options) - {*OPTIONS, *files}
  if unknown:
    raise ValueError(f"torch takes {', '.join(OPTIONS)}, not {', '.join(sorted(unknown))}")
  build = DenseNet
  if files:
    spec = importlib.util.spec_from_file_location("network", files[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build = module.build
  torch.manual_seed(0)
  place = {"device": "cuda" if CUDA else "cpu"}
  if "channels-last" in options:
    place["memory_format"] = torch.channels_last
  network = build(depth, growth_rate, "checkpointed" in options).to(**place).train()
  parameters = sum(parameter.numel() for parameter in network.parameters())
  images = torch.from_numpy(np.random.RandomState(0).randn(batch_size, 3, 32, 32).astype("float32")).to(**place)
  labels = (torch.arange(batch_size) % 10).to(place["device"])
  sgd = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
  if "compiled" in options:
    network = torch.compile(network)

  def take():
    sgd.zero_grad()
    with torch.autocast(place["device"], torch.bfloat16, enabled="bfloat16" in options):
      loss = F.cross_entropy(network(images), labels)
    loss.backward()
    sgd.step()
    return loss.detach()

  return take, parameters
