"""The names that other programs and wrappers give to a DenseNet's tensors, and torchvision's for them.

| names                                              | of                                                     |
|----------------------------------------------------|--------------------------------------------------------|
| `features.denseblock1.denselayer1.norm1.weight`    | torchvision, timm, the memory-efficient implementation |
| `features.denseblock1.denselayer1.norm.1.weight`   | torchvision's first files                              |
| `features.stage1.unit1.conv1.bn.weight`            | pytorchcv                                              |
| `module.`, `_orig_mod.`, `model.`, `net.densenet.` | wrappers before these; the first two also within them  |
| `denseblock1.denselayer1.norm1.weight`             | the module `features` by itself                        |
| `classifier.1.weight`                              | the one linear layer of a `Sequential`                 |
"""

import collections
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dn_jax.config.weights_file import WeightsError
from dn_jax.errors import shown

_WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")
# Such layers every DenseNet has, and hardly another network.
_DENSE = re.compile(
  r"(?P<prefix>(?:.+?\.)??)(?P<features>(?:features\.)?)"
  r"(?:denseblock\d{1,4}\.denselayer|(?P<pytorchcv>stage)\d{1,4}\.unit)\d{1,4}\..*"
)
_KIND = {"bn": "norm", "conv": "conv"}
# A layer's name below `features.`, and torchvision's for it.
_LAYERS: Mapping[str, Callable[[re.Match[str]], str]] = {
  r"conv0|norm0|norm5|transition\d{1,4}\.(?:norm|conv)": lambda found: found[0],
  r"norm_final": lambda found: "norm5",
  r"(denseblock\d{1,4}\.denselayer\d{1,4}\.(?:norm|conv))\.?([12])": lambda found: found[1] + found[2],
  r"init_block(?:\.conv)?": lambda found: "conv0",
  r"init_block\.bn": lambda found: "norm0",
  r"stage(\d{1,4})\.unit(\d{1,4})\.conv([12]?)\.(bn|conv)": (
    lambda found: f"denseblock{found[1]}.denselayer{found[2]}.{_KIND[found[4]]}{found[3] or 1}"
  ),
  r"stage(\d{1,4})\.trans\1\.conv\.(bn|conv)": lambda found: f"transition{int(found[1]) - 1}.{_KIND[found[2]]}",
  r"post_activ\.bn": lambda found: "norm5",
}


def translated(state: Mapping[Any, Any], say: Callable[[str], None]) -> dict[str, Any]:
  """A state dict under torchvision's names; a name of no layer stays as it is, without the known wrappers.

  Args:
    state: tensors by name.
    say: receives a line that says what was taken off the names and put before them.

  Raises:
    WeightsError: names that are the same in torchvision's spelling; it lists them.
  """
  bare = [_unwrapped(str(name)) for name in state]
  dense = collections.Counter(found.groups() for name in bare if (found := _DENSE.fullmatch(name)))
  (prefix, features, pytorchcv), _ = dense.most_common(1)[0] if dense else (("", "features.", None), 0)
  classifier = _classifier(bare, prefix, "output" if pytorchcv else "classifier")

  result: dict[str, Any] = {}
  faults, off = [], {""}
  for (name, value), short in zip(state.items(), bare, strict=True):
    own = classifier.get(short) or (dense and _layer(short, prefix + features))
    core = short.removeprefix(prefix) if own else short
    off |= {str(name).removesuffix(core)} if str(name).endswith(core) else set(_WRAPPER.findall(str(name)))
    own = own or short
    if own in result:
      faults.append(f"twice: {shown(own)}, as {shown(name)} too")
    result[own] = value
  if faults:
    raise WeightsError("the weights do not fit the network", *faults)
  heads = {name.removeprefix(prefix).rpartition(".")[0] for name in classifier} - {"classifier", "output"}
  off.remove("")
  more = f" and {len(off) - 4} more" if len(off) > 4 else ""
  changes = [
    *([f"{', '.join(sorted(off)[:4])}{more} taken off"] if off else []),
    *(f"{head} read as classifier" for head in heads),
    *(["pytorchcv's read as torchvision's"] if pytorchcv else []),
    *(["features. put before"] if dense and not features else []),
  ]
  if changes:
    say(shown(f"names of weights: {', '.join(changes)}"))
  return result


def _unwrapped(name: str) -> str:
  """A name without wrappers for several devices, of `torch.compile`, and the `model.` of training programs."""
  name = _WRAPPER.sub("", name)
  while name.startswith("model."):
    name = name.removeprefix("model.")
  return name


def _layer(name: str, before: str) -> str | None:
  """Torchvision's name for a tensor of a layer, of which the file has `before`; None: of no layer."""
  layer, _, part = name.removeprefix(before).rpartition(".")
  if not name.startswith(before):
    return None
  own = (torchvisions(found) for known, torchvisions in _LAYERS.items() if (found := re.fullmatch(known, layer)))
  return next((f"features.{layer}.{part}" for layer in own), None)


def _classifier(names: Iterable[str], prefix: str, head: str) -> dict[str, str]:
  """Torchvision's names for the classifier's tensors, where they are of one linear layer."""
  known = re.compile(rf"(?:{re.escape(prefix)})?{head}((?:\.\d+)?)\.(\w+)")
  found = {name: match for name in names if (match := known.fullmatch(name))}
  one = len({match[1] for match in found.values()}) == 1
  return {name: f"classifier.{match[2]}" for name, match in found.items()} if one else {}
