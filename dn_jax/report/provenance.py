"""The origin of a table's number: its runs, their seeds, configuration, code and machine."""

import dataclasses
import math
import statistics
import textwrap
import typing

from dn_jax.config.nested import fields, flag_types
from dn_jax.config.schema import RunConfig
from dn_jax.errors import UserError
from dn_jax.report.ablation import Cell, spread
from dn_jax.runs.collection import Collection, Run
from dn_jax.runs.records import RunError, best_record, read_records

_WIDTH = 118


def lines(cell: Cell) -> list[str]:
  """A cell's number and its origin: the flags of its runs, and each run's records."""
  result = [f"{cell.network} on {cell.data} (cell {cell.key})"]
  errors = cell.errors
  if errors:
    terms = " + ".join(f"{error:.4f}" for error in errors)
    result.append(f"  test error {spread(errors)} %: mean ({terms}) / {len(errors)} = {statistics.fmean(errors):.4f}")
    if len(errors) > 1:
      result.append(f"  deviation over seeds, n - 1 = {len(errors) - 1}: {statistics.stdev(errors):.4f}")
  if cell.departures:
    result.append(f"  not the published training: {cell.departures}")
  pairs = [" ".join(words) for words in flags_of(cell.runs[0].config)]
  result += ["  what it is:", *_filled(pairs)]
  for run in cell.runs:
    result += _run_lines(run)
  return result


def flags_of(config: RunConfig) -> list[list[str]]:
  """The flags of `experiments/train.py` that repeat a resolved run, except its seed; each with its value."""
  known, named = flag_types(RunConfig), ("model.name", "protocol")
  unsaid = {flag for flag, value, _ in fields(RunConfig()) if value == ()}  # Bare, such a flag is refused by ablate.py.
  result = []
  for flag, value, part_of_run in fields(config):
    if value is None or (value == () and flag in unsaid) or flag == "seed" or not (part_of_run or flag in named):
      continue
    if {known[flag], *typing.get_args(known[flag])} & {bool}:
      head, dot, tail = flag.rpartition(".")
      result.append([f"--{flag}" if value else f"--{head}{dot}no-{tail}"])
    else:
      result.append([f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])])
  return result


def _filled(pairs: list[str]) -> list[str]:
  """Flags in lines; a flag and its value share a line."""
  whole = " ".join(pair.replace(" ", "\0") for pair in pairs)
  wrapped = textwrap.wrap(whole, _WIDTH, break_long_words=False, break_on_hyphens=False)
  return [f"    {line}".replace("\0", " ") for line in wrapped]


def _run_lines(run: Run) -> list[str]:
  head = f"  seed {run.config.seed}: {run.folder}"
  if run.failure:
    return [head, f"    failed at {run.failure.at}: {run.failure.error}"]
  if not run.summary:
    return [head, "    not finished"]
  summary = run.summary
  versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
  return [
    head,
    f"    summary.json: test_error_percent {summary.test_error_percent:.4f}, epoch {summary.reported_epoch} "
    f"({summary.reported})",
    f"    metrics.jsonl: {_compared(run)}",
    f"    {summary.epochs} epochs in {summary.seconds:,.0f} s on {summary.devices}, remat {summary.remat}",
    f"    code {summary.commit or 'unknown'}; Python {summary.python}; {versions}",
  ]


def disagreement(run: Run) -> str:
  """How a finished run's metrics.jsonl contradicts its summary.json; empty if they agree."""
  found = _compared(run)
  return found if found.startswith("DIFFERS") else ""


def agreeing(found: Collection) -> Collection:
  """A collection without the runs whose records contradict each other; `skipped` names these.

  Raises:
    UserError: none is left.
  """
  faults = {run.folder: disagreement(run) for run in found.runs if run.summary}
  lines = [f"{folder}: left out, its metrics.jsonl {fault}" for folder, fault in faults.items() if fault]
  left = [run for run in found.runs if not faults.get(run.folder)]
  if lines and not left:
    raise UserError(f"{found.folder}: every run in it has records that differ; first {lines[0]}")
  return dataclasses.replace(found, runs=left, skipped=[*found.skipped, *lines])


def _compared(run: Run) -> str:
  try:
    records = read_records(run.folder)
  except RunError as error:
    return f"DIFFERS: {error}"
  summary = run.summary
  epoch = summary.reported_epoch
  numbered = {record.epoch: (number, record) for number, record in enumerate(records, start=1)}
  if epoch not in numbered:
    return f"DIFFERS: has no epoch {epoch}, but {len(records)} lines"
  number, record = numbered[epoch]
  test_error = f"test_error {record.test_error:.6f} x 100"
  if not math.isclose(100 * record.test_error, summary.test_error_percent, rel_tol=1e-9, abs_tol=1e-12):
    return f"DIFFERS: line {number}, epoch {epoch}: {test_error}"
  if summary.reported == "best" and (best := best_record(records)) is not record:
    return f"DIFFERS: the epoch of lowest validation error is {best.epoch}"
  if summary.reported == "last" and record is not records[-1]:
    return f"DIFFERS: the last epoch is {records[-1].epoch}"
  return f"the same, line {number}: epoch {epoch}, {test_error}"
