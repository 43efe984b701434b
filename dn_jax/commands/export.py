"""A trained network as one file: its weights, or its inference as a program that runs without this package.

  python experiments/export.py runs/one --to network.safetensors
  python experiments/export.py runs/one --to network.jaxexport
  python experiments/export.py runs/one --to hf://OWNER/NAME

The first has the weights by PyTorch's names, and a description of the network; the third is the same, with a card, in
a repository of the Hugging Face hub. The second is a program (jax.export) from any number of images, uint8 [n, size,
size, 3], or 1 channel of grey ones, to logits:

  content = pathlib.Path("network.jaxexport").read_bytes()
  logits = jax.export.deserialize(bytearray(content)).call(images)
"""

import dataclasses
import pathlib
import re
import sys
import tempfile
from typing import TYPE_CHECKING, Annotated

import tyro

from dn_jax.commands import command_line
from dn_jax.config import weights_file
from dn_jax.config.schema import Unset
from dn_jax.config.trained import Asked, Moved, Which
from dn_jax.errors import ConfigurationError, reason, shown
from dn_jax.system import folders, hub, hub_upload

if TYPE_CHECKING:
  from dn_jax.inference.load import Classifier

_WEIGHTS, _PROGRAM = ".safetensors", ".jaxexport"


@dataclasses.dataclass(frozen=True)
class OnTheHub:
  public: bool = False
  """With --to hf://: make a repository that all can see, or upload to one."""
  licence: Annotated[str | None, Unset("none is stated")] = None
  """With --to hf://: state this licence, by its name on the hub, such as apache-2.0."""


def export(
  source: Annotated[pathlib.Path, tyro.conf.Positional],
  to: pathlib.Path,
  asked: Annotated[Asked, tyro.conf.arg(name="")] = Asked(),
  checkpoint: Which = "reported",
  platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
  data: Moved = Moved(),
  on_the_hub: Annotated[OnTheHub, tyro.conf.arg(name="")] = OnTheHub(),
) -> None:
  """Writes a network into a file.

  Args:
    source: read this run's folder, or a file of weights (.safetensors, .pth, .keras, ...) or
      hf://OWNER/NAME[@REVISION][/FILE].
    to: write this file, .safetensors or .jaxexport; or hf://OWNER/NAME[@BRANCH][/FILE], a repository of the Hugging
      Face hub.
    checkpoint: take of a run the network whose error it reports, its last one, or its best on validation.
    platforms: make a .jaxexport for these: cpu, cuda, rocm, tpu.
  """
  address = hub.address_of("to", to) if hub.is_address(to) else None
  if address is None:
    _check_file(to, on_the_hub)
  if strange := set(platforms) - {"cpu", "cuda", "rocm", "tpu"}:
    raise ConfigurationError("platforms", " ".join(sorted(strange)), "some of cpu, cuda, rocm, tpu")
  if on_the_hub.licence and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,40}", on_the_hub.licence):
    raise ConfigurationError("licence", on_the_hub.licence, "the hub's name of a licence, such as apache-2.0")
  if address:
    for flag in ("size", "resize", "interpolation"):
      if (value := getattr(asked, flag)) is not None and source.is_dir():
        raise ConfigurationError(flag, value, "the card's test error is of the run's own images")
    hub_upload.check("to", address, on_the_hub.public)
  say = lambda line: print(line, file=sys.stderr)
  source = weights_file.source(source, say)
  from dn_jax.inference import load
  from dn_jax.inference.predict import exported
  from dn_jax.system import compilation

  compilation.keep_compiled_programs()
  known = load.load(source, asked, checkpoint, data.dir, say)
  if address:
    commit = _upload(source, known, address, on_the_hub)
    print(f"{address}: commit {commit}, {known.num_classes} classes, {known.input.size} pixels a side")
    return
  if to.suffix == _WEIGHTS:
    load.write(to, known)
  else:
    try:
      folders.write_whole(to, exported(known, platforms))
    except OSError as error:
      raise ConfigurationError("to", to, f"cannot be written ({reason(error)})") from None
  print(
    f"{shown(to)}: {to.stat().st_size / 2**20:.1f} MiB, {known.num_classes} classes, {known.input.size} pixels a side"
  )


def _check_file(to: pathlib.Path, on_the_hub: OnTheHub) -> None:
  """Refuses a file that could not be written, and flags that are not for a file."""
  if to.suffix not in (_WEIGHTS, _PROGRAM):
    raise ConfigurationError("to", to, f"must end in {_WEIGHTS} or {_PROGRAM}, or be {hub.FORM}")
  if to.parent != pathlib.Path() and not to.parent.is_dir():
    raise ConfigurationError("to", to, f"{to.parent} is not a folder")
  if on_the_hub != OnTheHub():
    raise ConfigurationError("to", to, "is a file of this machine; --public and --licence are for hf://OWNER/NAME")


def _upload(source: pathlib.Path, known: "Classifier", address: hub.Address, on_the_hub: OnTheHub) -> str:
  """Uploads a network and its card; returns the commit."""
  import jax

  from dn_jax.inference import load
  from dn_jax.report import model_card

  load.check_written(address, known)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(known.params))
  about = model_card.Network(known.model, parameters, known.num_classes, known.classes, known.input.size)
  training = model_card.training_of(source, known.epoch) if source.is_dir() else None
  card = model_card.text(about, training, on_the_hub.licence, address)
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / hub_upload.WEIGHTS
    load.write(file, known)
    files = {address.file or hub_upload.WEIGHTS: file, hub_upload.CARD: card.encode()}
    return hub_upload.upload(
      "to", dataclasses.replace(address, file=None), files, on_the_hub.public, lambda line: print(line, file=sys.stderr)
    )


main = command_line.program(export, __doc__)
