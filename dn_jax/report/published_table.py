"""The paper's error table, cell by cell: the published error, ours, and the difference."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

from dn_jax.config import datasets, protocol, size, zoo
from dn_jax.config.schema import RunConfig
from dn_jax.report import departures, protocol_words
from dn_jax.report.ablation import numbers, spread
from dn_jax.report.grid import Grid, Value
from dn_jax.runs import collection, rounding
from dn_jax.runs.collection import Run


@dataclasses.dataclass(frozen=True)
class Entry:
  """A cell of the table.

  name:   its row, a network of the zoo
  column: of `zoo.COLUMNS`
  runs:   at least one, finished or not; they differ in their seeds alone
  """

  name: str
  column: str
  runs: Sequence[Run]

  @property
  def config(self) -> RunConfig:
    return self.runs[0].config

  @property
  def published(self) -> float | None:
    """The published error in percent: of the network, or of the recipe that its runs follow."""
    recipe = protocol_words.recipe(self.config)
    return (recipe or zoo.NETWORKS[self.name]).errors.get(self.column)

  @property
  def errors(self) -> list[float]:
    """Test errors of the finished runs, in percent."""
    return [run.test_error for run in self.runs if run.summary]

  @property
  def failed(self) -> int:
    return sum(1 for run in self.runs if run.failure)

  @property
  def departures(self) -> str:
    """In what its training is not the published one, in words."""
    return departures.text(self.runs)


def data_of_column(column: str) -> tuple[str, bool]:
  """The data set's name of a column, and whether it is augmented: `c10+` -> cifar10, True."""
  names = {info.column: info.name for info in datasets.CATALOG.values() if info.column}
  return names[column.rstrip("+")], column.endswith("+")


def column_of(config: RunConfig) -> str | None:
  """The column of a run's data set; None if the paper has none."""
  column = datasets.recorded(config.data).column + ("+" if config.data.augment else "")
  return column if column in zoo.COLUMNS else None


def entries_of(found: Iterable[Run]) -> list[Entry]:
  """The cells of the paper's rows and columns among these runs."""
  entries = []
  for runs in collection.cells(found).values():
    config = runs[0].config
    name, column = config.model.name, column_of(config)
    if name in zoo.NETWORKS and column and config.protocol and not zoo.NETWORKS[name].imagenet:
      entries.append(Entry(name, column, runs))
  return entries


def table(entries: Sequence[Entry], scale: float = 1.0) -> Grid:
  """A row for each network, a column for each data set; at least one entry.

  A network that was trained in other ways than the published one has a row for each way, and a row for each length of
  training if a column has several. A cell that was not trained as published has a mark, and a note says how it was. A
  row of a recipe that others published for the network has their errors, a star, and a note that says whose they are.

  Args:
    entries: the cells.
    scale: the share of every schedule that was asked for.
  """
  names, order = list(zoo.NETWORKS), list(zoo.COLUMNS)
  entries = sorted(entries, key=lambda entry: (names.index(entry.name), order.index(entry.column)))
  columns = [column for column in order if any(entry.column == column for entry in entries)]
  marks = departures.marks(entry.departures for entry in entries)
  lines, records = [], []
  for name, changes, by_column in _rows(entries):
    published = zoo.NETWORKS[name]
    recipe = next(filter(None, (protocol_words.recipe(entry.config) for entry in by_column.values())), None)
    label = ", ".join(filter(None, [published.title + ("*" if published.note or recipe else ""), changes]))
    errors = (recipe or published).errors
    cells = [_cell(errors.get(column), by_column.get(column), marks) for column in columns]
    lines.append([label, "" if published.parameters is None else f"{published.parameters}M", *cells])
    records += [
      {"network": name, "trained": changes} | _record(by_column[column]) for column in columns if column in by_column
    ]
  title = "Test error in percent: published | ours ± sample standard deviation over seeds (seeds) | difference"
  if said := rehearsal(entries, scale):
    title = f"{said} {title}"
  below = [*notes(entries), *departures.notes(marks)]
  return Grid(title, ["network", "parameters", *map(str.upper, columns)], lines, below, left=1, records=records)


def rehearsal(entries: Sequence[Entry], scale: float = 1.0) -> str:
  """A sentence about schedules and image counts below the published ones; empty where there are none."""
  asked = "" if scale == 1 else f" (--scale {scale:g})"
  shares = [share for entry in entries if (share := protocol_words.shortened(entry.config)) is not None]
  parts = [f"schedules of {_from_to(shares)} of their published epochs"] if shares else []
  counts = [
    found[0] / sum(datasets.recorded(run.config.data).published)
    for entry in entries
    for run in entry.runs
    if run.summary and (found := departures.images(run))
  ]
  parts += [f"{_from_to(counts)} of the published images"] if counts and min(counts) < 1 else []
  return f"REHEARSAL{asked}, {', '.join(parts)}." if parts else ""


def _from_to(shares: Sequence[float]) -> str:
  return " to ".join(dict.fromkeys(f"{share:.3g}" for share in (min(shares), max(shares))))


def _rows(entries: Sequence[Entry]) -> list[tuple[str, str, dict[str, Entry]]]:
  """(network, its changes of the published training, its cells by column) for each row."""
  grouped: dict[tuple[str, str], dict[str, list[Entry]]] = {}
  for entry in entries:
    row = grouped.setdefault((entry.name, protocol_words.changes(entry.config)), {})
    row.setdefault(entry.column, []).append(entry)
  result = []
  for (name, changes), by_column in grouped.items():
    longest_first = {
      column: sorted(found, key=lambda entry: -entry.config.epochs) for column, found in by_column.items()
    }
    rows = max(map(len, longest_first.values()))
    for n in range(rows):
      cells = {column: found[n] for column, found in longest_first.items() if n < len(found)}
      epochs = "/".join(dict.fromkeys(str(entry.config.epochs) for entry in cells.values())) + " epochs"
      result.append((name, ", ".join(filter(None, [changes, epochs if rows > 1 else ""])), cells))
  return result


def _cell(published: float | None, entry: Entry | None, marks: Mapping[str, str]) -> str:
  """`5.24 | 5.31 ± 0.08 (3) [a] | +0.07`; a dash for a missing number."""
  if published is None and entry is None:
    return "-"
  errors, failed = (entry.errors, entry.failed) if entry else ((), 0)
  mark = marks.get(entry.departures, "") if errors else ""
  ours = spread(errors) + (f", {failed} failed" if failed else "") + (f" {mark}" if mark else "")
  # Of the rounded numbers, so that the cell adds up.
  both = errors and published is not None
  difference = f"{rounding.rounded(statistics.fmean(errors)) - rounding.rounded(published):+.2f}" if both else "-"
  return f"{'-' if published is None else rounding.in_words(published)} | {ours} | {difference}"


def _record(entry: Entry) -> dict[str, Value]:
  """A cell as data."""
  network, config, errors = zoo.NETWORKS[entry.name], entry.config, entry.errors
  published = entry.published
  found = [images for run in entry.runs if run.summary and (images := departures.images(run))]
  own = config.protocol if protocol_words.recipe(config) else network.protocol
  info, usual = datasets.recorded(config.data), protocol.of(own, config.data.name)
  return {
    "column": entry.column,
    "parameters": size.of(config.model, info.num_classes, info.image_shape).parameters,
    "published_parameters": network.parameters and round(1e6 * network.parameters),
    **numbers(errors),
    "published": published,
    "difference": rounding.exact(statistics.fmean(errors) - published) if errors and published is not None else None,
    "failed": entry.failed,
    "protocol": config.protocol,
    "epochs": config.epochs,
    "published_epochs": usual.epochs,
    "batch_size": config.batch_size,
    "published_batch_size": usual.batch_size,
    "images": min(each[0] for each in found) if found else None,
    "published_images": sum(info.published),
    "not_as_published": entry.departures if errors else "",
  }


def notes(entries: Sequence[Entry]) -> list[str]:
  """The lines under the table: how each cell was trained, and where its protocol is published."""
  result = ["+: mirror and shift. Each cell: published | ours | difference of the two; -: not published, or not run."]
  alike: dict[tuple[str, str], dict[str, list[str]]] = {}
  for entry in entries:
    by_column = alike.setdefault((entry.config.protocol, protocol_words.text(entry.config)), {})
    by_column.setdefault(entry.column.upper(), []).append(zoo.NETWORKS[entry.name].title)
  for (whose, text), by_column in alike.items():
    by_networks: dict[tuple[str, ...], list[str]] = {}
    for column, titles in by_column.items():
      by_networks.setdefault(tuple(dict.fromkeys(titles)), []).append(column)
    where = "; ".join(f"{', '.join(columns)} of {', '.join(titles)}" for titles, columns in by_networks.items())
    result.append(f"Protocol {whose}: {text}. So were trained: {where}.")
  sources = {protocol_words.source_of(entry.config): entry.config.protocol for entry in entries}
  result += [f"Source of protocol {whose}: {source}." for source, whose in sources.items()]
  for name in dict.fromkeys(entry.name for entry in entries):
    if note := zoo.NETWORKS[name].note:
      result.append(f"* {zoo.NETWORKS[name].title}: {note}.")
  found = {(e.config.protocol, e.name): recipe for e in entries if (recipe := protocol_words.recipe(e.config))}
  for (whose, name), recipe in found.items():
    result.append(f"* {zoo.NETWORKS[name].title}, protocol {whose}: published are errors of {recipe.source}.")
  return result
