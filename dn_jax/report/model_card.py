"""A network's card for the Hugging Face hub: Markdown below a header of YAML, from a run's records.

Names that a person or a data set chose are escaped. Of the header's fields: https://huggingface.co/docs/hub/model-cards
"""

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from dn_jax.config.network import kind_of, name_of, size_of
from dn_jax.config.resolve import data_name
from dn_jax.config.schema import ModelConfig, RunConfig
from dn_jax.errors import shown
from dn_jax.report import protocol_words
from dn_jax.report.provenance import flags_of
from dn_jax.runs import records, rounding
from dn_jax.runs.records import EpochRecord, Summary
from dn_jax.system import hub
from dn_jax.weights.formats import FORMATS

# What is markup anywhere, or begins a list or a heading at the start of a line.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!$^@:]|^[-+=])")


@dataclasses.dataclass(frozen=True)
class Network:
  """What is known of a network without a run.

  model:      completed
  parameters: their number
  size:       side of its images, in pixels
  """

  model: ModelConfig
  parameters: int
  num_classes: int
  classes: Sequence[str] | None
  size: int


@dataclasses.dataclass(frozen=True)
class Training:
  """A run's records.

  tested:  of the epoch whose network this is; None within an epoch
  summary: of a finished run
  """

  config: RunConfig
  data: records.Data | None
  tested: EpochRecord | None
  summary: Summary | None


def training_of(folder: pathlib.Path, epoch: int | None) -> Training:
  """Reads the records of the run whose network after an epoch is described; None: within an epoch."""
  tested = next((each for each in records.read_records(folder) if each.epoch == epoch), None)
  config = records.read_config(folder)
  if config.weights and not hub.is_address(config.weights):  # Its folder is nobody else's business.
    config = dataclasses.replace(config, weights=pathlib.Path(config.weights.name))
  return Training(config, records.read_data(folder), tested, records.read_summary(folder))


def text(network: Network, training: Training | None, licence: str | None, address: hub.Address) -> str:
  """The card.

  Args:
    network: that is uploaded.
    training: None where nothing is known of it.
    licence: its name on the hub, such as apache-2.0; None: none is stated.
    address: where the card will be.
  """
  import yaml  # Comes with huggingface_hub.

  header = yaml.safe_dump(_header(network, training, licence), sort_keys=False, allow_unicode=True)
  name = name_of(network.model)
  title = f"{name} on {data_name(training.config)}" if training else name
  parts = [
    f"---\n{header}---",
    f"# {escaped(title)}",
    f"A {escaped(kind_of(network.model))} ({escaped(_size(network.model))}) with {network.parameters:,} parameters, "
    f"which tells {network.num_classes:,} classes of images apart. It sees {network.size} by {network.size} pixels.",
    *(_training(training) if training else ["How it was trained is not recorded."]),
    "## Licence",
    escaped(licence) if licence else "None is stated.",
    "## Use",
    "With `dn_jax` (DenseNet in JAX and Flax) and its extra `hub`:",
    _code(f"python -m dn_jax predict {address} photo.jpg", f"python -m dn_jax train --weights {address} ..."),
    f"The tensors have the names of {FORMATS[network.model.family].whose}; the file's metadata describe the network, "
    "its input and its classes.",
    *(_classes(network.classes) if network.classes else []),
  ]
  return "\n\n".join(parts) + "\n"


def escaped(name: str) -> str:
  """A name as text in Markdown, whatever characters it has."""
  return re.sub(r"^(\d+)([.)])", r"\1\\\2", _MARKUP.sub(r"\\\1", shown(name)))


def _header(network: Network, training: Training | None, licence: str | None) -> dict[str, Any]:
  header: dict[str, Any] = {
    "library_name": "dn_jax",
    "pipeline_tag": "image-classification",
    "tags": [network.model.family, "jax", "flax"],
  }
  if licence:
    header["license"] = licence
  if training and hub.is_address(training.config.weights):
    header["base_model"] = hub.address_of("weights", training.config.weights).repository
  if training and training.tested:
    data = shown(training.config.data.name)
    accuracy = {"type": "accuracy", "name": "Accuracy (%)", "value": round(100 - 100 * training.tested.test_error, 4)}
    result = {
      "task": {"type": "image-classification"},
      "dataset": {"type": data, "name": data, "split": "test"},
      "metrics": [accuracy],
    }
    header["model-index"] = [{"name": shown(name_of(network.model)), "results": [result]}]
  return header


def _size(model: ModelConfig) -> str:
  return size_of(model) if model.family == "densenet" else name_of(model)


def _training(training: Training) -> list[str]:
  config, summary, tested = training.config, training.summary, training.tested
  if tested:
    after = f" after epoch {tested.epoch} of {config.epochs}"
    error = f"**Test error: {rounding.in_words(100 * tested.test_error)} %**{after}"
  else:
    error = "The test error of this network is not known: it is of the middle of an epoch."
  pictures = training.data.pictures if training.data else {}
  splits = ", ".join(f"{count:,} for {escaped(split)}" for split, count in pictures.items())
  lines = [
    f"Data set: {escaped(data_name(config))}" + (f" ({splits})" if splits else ""),
    f"Protocol: {escaped(protocol_words.source_of(config))}",
    f"As carried out: {escaped(protocol_words.text(config))}",
    f"Seed: {config.seed}",
  ]
  if summary:
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    lines.append(f"Time: {summary.seconds:,.0f} s on {escaped(summary.devices)}")
    lines.append(f"Code: {escaped(summary.commit or 'unknown')}; Python {escaped(summary.python)}; {escaped(versions)}")
  else:
    lines.append("The run is not finished")
  command = ["python -m dn_jax train", *map(_words, flags_of(config)), f"--seed {config.seed}"]
  return [error, "## Training", "\n".join(f"- {line}" for line in lines), _code(" \\\n  ".join(command))]


def _words(words: list[str]) -> str:
  return shlex.join(map(shown, words))


def _code(*lines: str) -> str:
  """Lines as they are, in a fence that is longer than any in them."""
  text = "\n".join(lines)
  fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
  return f"{fence}\n{text}\n{fence}"


def _classes(classes: Sequence[str]) -> list[str]:
  return ["## Classes", "\n".join(f"{number}. {escaped(name)}" for number, name in enumerate(classes))]
