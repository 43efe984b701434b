"""The names that other programs and wrappers give to a network's tensors, and those of its `Format` for them.

| names                                              | of                                                            |
|----------------------------------------------------|---------------------------------------------------------------|
| `module.`, `_orig_mod.`, `model.`, `net.densenet.` | wrappers before all names; the first two also within names    |
| `denseblock1.denselayer1.norm1.weight`             | a module by itself, such as a DenseNet's `features`           |
| `classifier.1.weight`                              | the one linear layer of a `Sequential`                        |
| `features.stage1.unit1.conv1.bn.weight`            | other programs, see `Format.programs`                         |
"""

import collections
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dn_jax.config.weights_file import WeightsError
from dn_jax.errors import shown
from dn_jax.weights.formats import FORMATS
from dn_jax.weights.table import Format

_WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")
# Of names that no family knows.
_UNKNOWN = next(iter(FORMATS.values()))


def translated(state: Mapping[Any, Any], say: Callable[[str], None]) -> dict[str, Any]:
  """A state dict under the names of its family's `Format`; a name of no layer stays, without the known wrappers.

  Args:
    state: tensors by name.
    say: receives a line that says what was taken off the names and put before them.

  Raises:
    WeightsError: names that are the same in the format's spelling; it lists them.
  """
  bare = [_unwrapped(str(name)) for name in state]
  layers = collections.Counter(
    (form, program, found["prefix"], found["container"])
    for form in FORMATS.values()
    for program in form.programs
    for name in bare
    if (found := program.layer.fullmatch(name))
  )
  unknown = (_UNKNOWN, _UNKNOWN.programs[0], "", _UNKNOWN.container)
  form, program, prefix, container = layers.most_common(1)[0][0] if layers else unknown
  classifier = _classifier(bare, prefix, program.classifier, form.classifier)

  result: dict[str, Any] = {}
  faults, off = [], {""}
  for (name, value), short in zip(state.items(), bare, strict=True):
    own = classifier.get(short) or (layers and _layer(short, prefix + container, form))
    core = short.removeprefix(prefix) if own else short
    off |= {str(name).removesuffix(core)} if str(name).endswith(core) else set(_WRAPPER.findall(str(name)))
    own = own or short
    if own in result:
      faults.append(f"twice: {shown(own)}, as {shown(name)} too")
    result[own] = value
  if faults:
    raise WeightsError("the weights do not fit the network", *faults)
  heads = {name.removeprefix(prefix).rpartition(".")[0] for name in classifier} - {form.classifier, program.classifier}
  off.remove("")
  more = f" and {len(off) - 4} more" if len(off) > 4 else ""
  changes = [
    *([f"{', '.join(sorted(off)[:4])}{more} taken off"] if off else []),
    *(f"{head} read as {form.classifier}" for head in heads),
    *([program.words] if program.words else []),
    *([f"{form.container} put before"] if layers and container != form.container else []),
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


def _layer(name: str, before: str, form: Format) -> str | None:
  """The format's name for a tensor of a layer, of which the file has `before`; None: of no layer."""
  layer, _, part = name.removeprefix(before).rpartition(".")
  if not name.startswith(before):
    return None
  own = (called(found) for known, called in form.layers.items() if (found := re.fullmatch(known, layer)))
  return next((f"{form.container}{layer}.{part}" for layer in own), None)


def _classifier(names: Iterable[str], prefix: str, head: str, own: str) -> dict[str, str]:
  """The format's names for the classifier's tensors, where they are of one linear layer."""
  known = re.compile(rf"(?:{re.escape(prefix)})?{re.escape(head)}((?:\.\d+)?)\.(\w+)")
  found = {name: match for name in names if (match := known.fullmatch(name))}
  one = len({match[1] for match in found.values()}) == 1
  return {name: f"{own}.{match[2]}" for name, match in found.items()} if one else {}
