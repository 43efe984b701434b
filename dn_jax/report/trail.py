"""Where a number comes from: the runs behind a table's cell, their seeds, configuration, code and machine."""

import statistics
from collections.abc import Mapping, Sequence

from dn_jax.collection import Run
from dn_jax.configuration import identity
from dn_jax.report.ablation import Cell, in_words, spread


def lines(cell: Cell, common: Mapping[str, object]) -> list[str]:
  """A cell's number and all that it was made of.

  Args:
    cell: of a table.
    common: flags that all cells of the collection share; those are left out.
  """
  result = [f"{cell.network} on {cell.data} (cell {cell.key})"]
  errors = cell.errors
  if errors:
    terms = " + ".join(f"{error:.4f}" for error in errors)
    result.append(f"  test error {spread(errors)} %: mean ({terms}) / {len(errors)} = {statistics.fmean(errors):.4f}")
    if len(errors) > 1:
      result.append(f"  deviation over seeds, n - 1 = {len(errors) - 1}: {statistics.stdev(errors):.4f}")
  flags = {flag: value for flag, value in identity(cell.runs[0].config).items() if flag != "seed"}
  different = {flag: value for flag, value in flags.items() if flag not in common}
  result.append("  " + " ".join(f"--{flag} {in_words(value)}" for flag, value in different.items()))
  for run in cell.runs:
    result += _run_lines(run)
  return result


def _run_lines(run: Run) -> list[str]:
  head = f"  seed {run.config.seed}: {run.folder}"
  if run.failure:
    return [head, f"    failed at {run.failure.get('at')}: {run.failure.get('error')}"]
  if not run.summary:
    return [head, "    not finished"]
  summary = run.summary
  versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
  return [
    head,
    f"    summary.json test_error {summary['test_error']:.4f} % = metrics.jsonl, epoch {summary['reported_epoch']} "
    f"({summary['reported']}), test_error x 100",
    f"    {summary['epochs']} epochs in {summary['seconds']:,.0f} s on {summary['devices']}, remat {summary['remat']}",
    f"    code {summary.get('commit') or 'unknown'}; Python {summary['python']}; {versions}",
  ]


def common_flags(found: Sequence[Run]) -> dict[str, object]:
  """The flags that say what a run is and that all runs have alike."""
  everything = [identity(run.config) for run in found]
  if not everything:
    return {}
  first = everything[0]
  return {flag: value for flag, value in first.items() if all(one.get(flag) == value for one in everything)}
