"""timm's RDNet with the sizes of the zoo's rdnet-cifar, for experiments/benchmark.py --torch-network."""

import torch.utils.checkpoint
from timm.models.rdnet import DenseStage, RDNet


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


def build(depth, growth_rate, checkpointed):
  """depth, growth_rate: not used; checkpointed: recompute each mixing layer in the backward pass."""
  network = RDNet(
    num_init_features=32,
    growth_rates=(24, 32, 48, 64),
    num_blocks_list=(3, 3, 3, 3),
    block_type=("Block", "Block", "BlockESE", "BlockESE"),
    is_downsample_block=(None, True, False, True),
    patch_size=2,
    num_classes=10,
    drop_path_rate=0.1,
  )
  if checkpointed:
    for stage in [module for module in network.modules() if isinstance(module, DenseStage)]:
      for name, layer in list(stage.named_children()):
        setattr(stage, name, Checkpointed(layer))
  return network
