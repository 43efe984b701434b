"""Images a second of torchvision's own loader: decode, random crop, mirror, normalise. Run by loading.py.

python torchvision_loader.py FOLDER BATCH_SIZE WORKERS
"""

import sys
import time

import torch
from torchvision import datasets, transforms


def main(folder: str, batch_size: int, workers: int) -> None:
  torch.set_num_threads(1)
  prepare = transforms.Compose(
    [
      transforms.RandomResizedCrop(224),
      transforms.RandomHorizontalFlip(),
      transforms.ToTensor(),
      transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
  )
  pictures = datasets.ImageFolder(folder, prepare)
  loader = torch.utils.data.DataLoader(
    pictures, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
  )
  # As loading.py does: whole epochs, without the first batches.
  skipped, begin, number = 2 * max(workers, 1), 0.0, 0
  total = len(loader) + skipped
  while number < total:
    for _ in loader:
      number += 1
      if number == skipped:
        begin = time.perf_counter()
      if number == total:
        break
  print((total - skipped) * batch_size / (time.perf_counter() - begin))


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
