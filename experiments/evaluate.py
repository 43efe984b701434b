"""Top-1 and top-5 error of a run's network on any split.

python experiments/evaluate.py runs/cifar10+_densenet-bc-100-12_seed0 --split test
"""

import dataclasses
import pathlib
import sys
from typing import Annotated, Literal

import tyro

from dn_jax import command_line, experiment, folders


@dataclasses.dataclass(frozen=True)
class Where:
  dir: pathlib.Path | None = None
  """Folder of the data set, if it has moved since."""


def evaluate(
  run: Annotated[pathlib.Path, tyro.conf.Positional],
  split: Literal["train", "valid", "test"] = "test",
  checkpoint: Literal["reported", "last", "best"] = "reported",
  batch_size: int = 256,
  data: Where = Where(),
) -> None:
  """Measures a run.

  Args:
    run: the run's folder.
    split: which pictures.
    checkpoint: the network whose error the run reports, the last, or the best on validation.
    batch_size: pictures at a time.
  """
  run = folders.of("run", run)
  result = experiment.evaluate(run, split, checkpoint, batch_size, data.dir, lambda line: print(line, file=sys.stderr))
  within = f" and {result['steps']:,} steps of the next" if result["steps"] else ""
  print(f"{split}, {result['pictures']:,} pictures, network of epoch {result['epoch']}{within}")
  print(f"top-1 error: {result['error']:.2f} %")
  print(f"top-5 error: {result['top5_error']:.2f} %")


if __name__ == "__main__":
  command_line.main(lambda: tyro.cli(evaluate))
