"""One set of running averages per feature map, from those of the batch norms that read it."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from dn_jax.weights.table import Path, Unit

Disagreement = Literal["inference", "train"]


def share(
  state: Mapping[str, np.ndarray],
  readings: Mapping[Path, list[tuple[Unit, slice]]],
  params: dict[Path, np.ndarray],
  epsilon: float,
  disagreement: Disagreement,
  say: Callable[[str], None],
) -> dict[Path, np.ndarray]:
  """One mean and variance per map from those of its readers; under `inference` changes the readers in `params`."""
  batch_stats: dict[Path, np.ndarray] = {}
  differing = []
  for path, readers in readings.items():
    means, variances = (
      np.stack([state[f"{unit.name}.{kind}"][part] for unit, part in readers])
      for kind in ("running_mean", "running_var")
    )
    if (means == means[0]).all() and (variances == variances[0]).all():
      mean, variance = means[0], variances[0]
    else:
      differing.append("/".join(path))
      mean, variance = (x.mean(axis=0, dtype=np.float64).astype(x.dtype) for x in (means, variances))
      if disagreement == "inference":
        for row, (unit, part) in enumerate(readers):
          scale, bias = (*unit.path, "scale"), (*unit.path, "bias")
          old, new = (means[row], variances[row]), (mean, variance)
          params[scale], params[bias] = _folded(params[scale], params[bias], part, old, new, epsilon)
    batch_stats |= {(*path, "mean"): mean, (*path, "var"): variance}
  if differing:
    done = (
      "the difference is folded into their scales and biases: evaluation is exact"
      if disagreement == "inference"
      else "their mean is taken: training goes on from it, evaluation differs from the file's until it has"
    )
    say(
      f"readers of {len(differing)} of {len(readings)} feature maps carry different running averages "
      f"({', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}); {done}"
    )
  return batch_stats


def _folded(
  scale: np.ndarray,
  bias: np.ndarray,
  part: slice,
  old: tuple[np.ndarray, np.ndarray],
  new: tuple[np.ndarray, np.ndarray],
  epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Scale and bias that give over new statistics (mean, variance) of a part what these give over the old ones."""
  types = scale.dtype, bias.dtype
  scale, bias = scale.astype(np.float64), bias.astype(np.float64)
  (mean, variance), (new_mean, new_variance) = (np.asarray(each, np.float64) for each in (old, new))
  slope = scale[part] / np.sqrt(variance + epsilon)
  bias[part] += slope * (new_mean - mean)
  scale[part] = slope * np.sqrt(new_variance + epsilon)
  return scale.astype(types[0]), bias.astype(types[1])
