"""The paper's error tables, cell by cell: published, ours, and the difference."""

import statistics
from collections.abc import Mapping, Sequence

from dn_jax.collection import Run
from dn_jax.models import zoo
from dn_jax.report.ablation import spread
from dn_jax.report.grid import Grid
from dn_jax.training import protocol


def table(
  found: Mapping[tuple[str, str], Sequence[Run]],
  rows: Sequence[str],
  columns: Sequence[str],
  protocols: Mapping[tuple[str, str], str],
  scale: float,
) -> Grid:
  """A row a network and a column a data set.

  Args:
    found: by row (a name of the zoo) and column, the runs of the cell, finished or not.
    rows, columns: of the table.
    protocols: by row and column, whose training it is.
    scale: of every schedule; 1: as published.
  """
  lines = []
  for name in rows:
    entry = zoo.NETWORKS[name]
    cells = [cell(entry.errors.get(column), found.get((name, column), ())) for column in columns]
    lines.append([entry.title, "" if entry.parameters is None else f"{entry.parameters}M", *cells])
  title = "Test error in percent: published | ours ± sample standard deviation over seeds (seeds) | difference"
  if scale != 1:
    title = f"REHEARSAL, every schedule shortened to {scale:g} of its epochs. {title}"
  return Grid(title, ["network", "parameters", *map(str.upper, columns)], lines, notes(protocols), left=1)


def cell(published: float | None, runs: Sequence[Run]) -> str:
  """`5.24 | 5.31 ± 0.08 (3) | +0.07`; a dash for what there is not."""
  errors = [run.test_error for run in runs if run.summary]
  if published is None and not runs:
    return "-"
  failed = sum(1 for run in runs if run.failure)
  ours = spread(errors) + (f", {failed} failed" if failed else "")
  difference = f"{statistics.fmean(errors) - published:+.2f}" if errors and published is not None else "-"
  return f"{'-' if published is None else f'{published:.2f}'} | {ours} | {difference}"


def notes(protocols: Mapping[tuple[str, str], str]) -> list[str]:
  """What stands under the table: whose protocol which cells were trained with, and what is from memory."""
  result = ["+: mirror and shift. Each cell: published | ours | difference of the two; -: not published, or not run."]
  by_protocol: dict[str, list[tuple[str, str]]] = {}
  for where, whose in protocols.items():
    by_protocol.setdefault(whose, []).append(where)
  for whose, cells in by_protocol.items():
    networks = ", ".join(dict.fromkeys(zoo.NETWORKS[name].title for name, _ in cells))
    said = dict.fromkeys(protocol.in_words(whose, column) for _, column in cells)
    result.append(f"Protocol {whose} ({networks}): {'; '.join(said)}. Source: {protocol.SOURCES[whose]}.")
  return result
