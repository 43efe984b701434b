"""What was measured: a file that is whole at any moment, and its table."""

import json
import os
import pathlib
import statistics
from typing import Any

NAME = "accelerator"


class Record:
  """NAME.json and NAME.md in a folder, each of which is replaced as a whole.

  content: of the JSON; `parts` has an entry for each part that began or was left out
  """

  def __init__(self, folder: pathlib.Path, **about: Any):
    self._folder = folder
    self.content: dict[str, Any] = {**about, "parts": []}

  def add(self, **entry: Any) -> dict[str, Any]:
    """Adds an entry, which the caller may change before the next `write`."""
    self.content["parts"].append(entry)
    self.write()
    return entry

  def done(self, part: str) -> dict[str, Any] | None:
    """The entry of a part that is done; None where it is not."""
    return next((each for each in self.content["parts"] if each["part"] == part and each["state"] == "done"), None)

  def write(self) -> None:
    for suffix, text in (("json", json.dumps(self.content, indent=2) + "\n"), ("md", table(self.content))):
      half = self._folder / f".{NAME}.{suffix}"
      with half.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
      half.replace(self._folder / f"{NAME}.{suffix}")


def name_of(peer: str, batch_size: int) -> str:
  """A part's name, from those of a peer and its options."""
  kind, *options = peer.split("+")
  words = [option for option in options if option not in ("bfloat16", "channels-last")]
  return " ".join([{"bare": "dn_jax", "torch": "PyTorch"}.get(kind, "plain Flax"), *words]) + f", batch {batch_size}"


def schedule_of(training: dict[str, Any]) -> str:
  """The schedule of a training, and how it differs from the published one."""
  epochs, published = training["epochs"], training["published_epochs"]
  drops = [str(drop + 1) for drop in training["drops"] if drop < epochs]
  length = f"{epochs} of the published {published} epochs" if epochs < published else f"all {published} epochs"
  return f"{length}, a tenth of the rate from epoch {' and again from '.join(drops)} on" if drops else length


def summary_of(entry: dict[str, Any]) -> str:
  """What a part found, in a few words; empty where it found nothing."""
  if entry.get("trained"):
    last = entry["trained"][-1]
    ms = 1000 * statistics.median(epoch["seconds"] for epoch in entry["trained"]) / entry["steps_per_epoch"]
    return (
      f"test error {100 * last['test_error']:.2f} % after epoch {last['epoch']} of {entry['epochs']}, "
      f"{ms:.2f} ms a step in commands of {entry['steps_per_command']}"
    )
  if "rounds_ms" in entry:
    ms = entry["rounds_ms"]
    return f"{statistics.median(ms):.2f} ms a step ({min(ms):.2f} to {max(ms):.2f})"
  if "again" in entry:
    return "; ".join(
      f"{how}: {'the same' if each['same_bits'] else 'other'} bits, first step after {each['first_step_after']:.0f} s"
      for how, each in entry["again"].items()
    )
  if "backend" in entry:
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in entry["versions"].items())
    torch = entry["torch"]
    peer = torch["failed"] if "failed" in torch else f"{torch['versions']['torch']} on {torch['device']}"
    return f"{entry['device']} ({entry['devices']} of {entry['backend']}); {versions}; PyTorch: {peer}"
  return ""


def table(content: dict[str, Any]) -> str:
  """A record as Markdown: a row for each program that was timed, a line for every other part."""
  network = content["network"]
  rows, others, first = [], [], None
  for entry in content["parts"]:
    if "rounds_ms" not in entry:
      schedule = schedule_of(entry) if "trained" in entry else ""
      words = "; ".join(filter(None, (entry.get("why", ""), schedule, summary_of(entry))))
      others.append(f"- {entry['part']}: {entry['state'] if entry['state'] != 'done' else words}")
      if entry["state"] != "done" and words:
        others[-1] += f" ({words})"
      continue
    ms = entry["rounds_ms"]
    rate = 1000 * entry["batch_size"] / statistics.median(ms)
    first = first or rate
    cells = [
      entry["part"],
      f"{statistics.median(ms):.2f} ({min(ms):.2f} to {max(ms):.2f})",
      f"{rate:,.0f}",
      f"{rate / first:.2f}",
      f"{entry['first_step_after']:.0f}",
      *("" if entry.get(name) is None else f"{entry[name]:,.0f}" for name in ("temporaries", "device_peak")),
    ]
    rows.append(f"| {' | '.join(cells)} |")
  return "\n".join(
    [
      f"# DenseNet-BC (L={network['depth']}, k={network['growth_rate']}), {network['dtype']}, one device",
      "",
      f"Begun {content['began']}, with {content['minutes']:g} minutes. A step's time is the median of rounds (least",
      "to most). Temporaries are as the compiler says. The peak is the device's, compiling included.",
      "",
      "| program | ms a step | images/s | of the first | first step after, s | temporaries, MiB | peak, MiB |",
      "|---|---|---|---|---|---|---|",
      *rows,
      "",
      *others,
      "",
    ]
  )
