"""What a flag that there is not, or a word without one, may have meant."""

from collections.abc import Collection

from dn_jax.config.datasets import CATALOG
from dn_jax.config.zoo import NETWORKS
from dn_jax.errors import nearest

# Names that other programs have for flags.
_SYNONYMS = {
  **dict.fromkeys(("lr", "learning-rate", "rate"), ("optimizer.learning-rate",)),
  **dict.fromkeys(("wd", "decay", "l2"), ("optimizer.weight-decay",)),
  **dict.fromkeys(("opt", "optimizer", "optim"), ("optimizer.name",)),
  **dict.fromkeys(("beta1", "b1"), ("optimizer.momentum",)),
  **dict.fromkeys(("min-lr", "lr-min", "eta-min"), ("optimizer.final-rate",)),
  **dict.fromkeys(("warmup-lr",), ("optimizer.warmup-rate",)),
  **dict.fromkeys(("bs", "batch", "batchsize", "train-batch-size"), ("batch-size",)),
  **dict.fromkeys(("dataset", "data"), ("data.name",)),
  **dict.fromkeys(("data-dir", "datadir", "root"), ("data.dir",)),
  **dict.fromkeys(("output", "output-dir", "save", "save-dir", "logdir", "resume"), ("out",)),
  **dict.fromkeys(("arch", "network", "model"), ("model.name",)),
  **dict.fromkeys(("k", "growth"), ("model.growth-rate",)),
  **dict.fromkeys(("l", "layers"), ("model.depth", "model.blocks")),
  **dict.fromkeys(("theta", "reduction"), ("model.compression",)),
  **dict.fromkeys(("droprate", "drop-rate"), ("model.dropout",)),
  **dict.fromkeys(("n-epochs", "num-epochs", "max-epochs"), ("epochs",)),
  **dict.fromkeys(("gpus", "num-gpus", "ngpu"), ("devices",)),
  **dict.fromkeys(("pretrained", "init", "load"), ("weights",)),
  **dict.fromkeys(("num-workers", "j", "nthreads"), ("data.workers",)),
  **dict.fromkeys(("mixup-alpha",), ("data.mixup",)),
  **dict.fromkeys(("cutmix-alpha",), ("data.cutmix",)),
  **dict.fromkeys(("reprob", "random-erase"), ("data.erasing",)),
  **dict.fromkeys(("aa", "auto-augment", "randaugment"), ("data.rand-augment",)),
  **dict.fromkeys(("bf16", "fp16", "amp"), ("model.dtype",)),
}
# Flags of other commands.
_ELSEWHERE = {"config": "it is for train.py and ablate.py"}


def meant(flag: str, flags: Collection[str]) -> str:
  """An offer of the flags that mean the same, or else are spelt nearly so; where there are none, of `--help`."""
  same = [each for each in _SYNONYMS.get(flag.rpartition(".")[2], ()) if each in flags]
  inner = [each for each in flags if each.rpartition(".")[2] == flag]
  if flag in _ELSEWHERE:
    return _ELSEWHERE[flag]
  # A near spelling is a worse guess than the same meaning.
  offered = same or inner or nearest(flag, flags)
  return f"did you mean {' or '.join(f'--{each}' for each in offered)}?" if offered else "--help lists them"


def word_meant(word: str, flags: Collection[str]) -> str | None:
  """An offer of the flag whose value a word without a flag is; None where it is the name of nothing."""
  for flag, names in (("data.name", CATALOG), ("model.name", NETWORKS)):
    if flag in flags and word in names:
      return f"did you mean --{flag} {word}?"
  return None
