"""timm's RDNet: for experiments/benchmark.py --torch-network, and trained beside ours.

  ~/torch/bin/python experiments/peers/timm_rdnet.py cifar10.npz SEED EPOCHS

trains a small one by the recipe of docs/performance.md, section "RDNet", and prints a line of JSON after each epoch.
experiments/accelerator.py says what the file has. One thread; needs timm.
"""

import json
import math
import sys
import time

import numpy as np
import torch.nn.functional as F
import torch.utils.checkpoint
from timm.models.rdnet import DenseStage, RDNet

# CIFAR-10's, as dn_jax.config.datasets has them.
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
BATCH, WARM_UP, PAD = 64, 2, 4
FIRST_RATE, RATE, LAST_RATE = 1e-4, 1e-3, 1e-6


class Checkpointed(torch.nn.Module):
  """A mixing layer that is computed again in the backward pass, its concatenation too.

  timm's own flag of its network is read by no forward pass.
  """

  def __init__(self, layer):
    super().__init__()
    self.layer = layer

  def forward(self, maps):
    again = lambda *maps: self.layer(list(maps))
    return torch.utils.checkpoint.checkpoint(again, *maps, use_reentrant=False)


def network(growth_rates, downsample):
  """A stem of 32 channels, patches of 2x2, ten classes; `downsample`: blocks after which the map is halved, from 1."""
  count = len(growth_rates)
  return RDNet(
    num_init_features=32,
    growth_rates=growth_rates,
    num_blocks_list=(3,) * count,
    block_type=("Block", "Block", *("BlockESE",) * (count - 2)),
    is_downsample_block=(None, *(block in downsample for block in range(1, count))),
    patch_size=2,
    num_classes=10,
    drop_path_rate=0.1,
  )


def build(depth, growth_rate, checkpointed):
  """The zoo's rdnet-cifar. depth, growth_rate: not used; checkpointed: recompute each mixing layer."""
  rdnet = network((24, 32, 48, 64), (1, 3))
  if checkpointed:
    for stage in [module for module in rdnet.modules() if isinstance(module, DenseStage)]:
      for name, layer in list(stage.named_children()):
        setattr(stage, name, Checkpointed(layer))
  return rdnet


def rate_of(step, steps, epochs):
  """Of a step, counted from 0: a line, then a cosine."""
  if step < WARM_UP * steps:
    return FIRST_RATE + (RATE - FIRST_RATE) * step / (WARM_UP * steps)
  return LAST_RATE + (RATE - LAST_RATE) / 2 * (1 + math.cos(math.pi * (step + 1) / (steps * epochs)))


def drawn(padded, chosen):
  """Images shifted and mirrored at random."""
  down, right = (torch.randint(0, 2 * PAD + 1, (len(chosen),)).tolist() for _ in range(2))
  mirrored = torch.rand(len(chosen)) < 0.5
  side = padded.shape[-1] - 2 * PAD
  places = zip(chosen.tolist(), down, right, strict=True)
  images = torch.stack([padded[image, :, y : y + side, x : x + side] for image, y, x in places])
  return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def main(file, seed, epochs):
  torch.manual_seed(int(seed))
  torch.set_num_threads(1)
  data, epochs = np.load(file), int(epochs)
  mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
  pixels = {part: torch.tensor(data[f"{part}_images"].transpose(0, 3, 1, 2)).float() for part in ("train", "test")}
  images = {part: (each - mean) / std for part, each in pixels.items()}
  labels = {part: torch.tensor(data[f"{part}_labels"]).long() for part in images}
  rdnet = network((16, 24, 32), (1, 2))
  groups = [
    {"params": [each for each in rdnet.parameters() if each.ndim > 1], "weight_decay": 0.05},
    {"params": [each for each in rdnet.parameters() if each.ndim <= 1], "weight_decay": 0.0},
  ]
  adamw = torch.optim.AdamW(groups, lr=RATE)
  padded, steps = F.pad(images["train"], (PAD,) * 4), len(labels["train"]) // BATCH
  for epoch in range(epochs):
    rdnet.train()
    started, order, total = time.time(), torch.randperm(len(labels["train"])), 0.0
    for step in range(steps):
      chosen = order[step * BATCH : (step + 1) * BATCH]
      for group in adamw.param_groups:
        group["lr"] = rate_of(epoch * steps + step, steps, epochs)
      adamw.zero_grad()
      loss = F.cross_entropy(rdnet(drawn(padded, chosen)), labels["train"][chosen], label_smoothing=0.1)
      loss.backward()
      adamw.step()
      total += loss.item()
    seconds = time.time() - started
    rdnet.eval()
    with torch.no_grad():
      found = torch.cat([rdnet(part).argmax(1) for part in images["test"].split(250)])
    error = 100 * (found != labels["test"]).double().mean().item()
    print(json.dumps({"epoch": epoch + 1, "loss": total / steps, "error": error, "seconds": seconds}), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
